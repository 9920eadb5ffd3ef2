"""Comparisons for real, on a corpus of seconds: runs, what is found in their folders, and what may be said of it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import wandb
import yaml
from conftest import TASK_NAMES, records

from launch.cli import app
from launch.compare import fine_tune_beside, run_all, run_job
from pretrain.compare.answers import read_answers
from pretrain.compare.experiment import CompareConfig, jobs, load_compare
from pretrain.compare.findings import find
from pretrain.compare.runs import is_finished, read_run

ROOT = Path(__file__).parents[3]


@pytest.fixture
def comparison(tiny) -> CompareConfig:
    run = tiny.model_dump(mode="json", exclude={"name", "seed"}, exclude_unset=True)
    run["evaluate"] = {"instances": 40, "every_tokens": 1000}
    return CompareConfig(arms=["sequential", "joint", "alone"], seeds=2, claims=[("sequential", "joint")], run=run)


def write(comparison: CompareConfig) -> Path:
    path = Path("compare.yaml")
    path.write_text(yaml.safe_dump(comparison.model_dump(mode="json", exclude_unset=True)))
    return path


def test_arms_spend_the_same_tokens_and_what_is_found_is_what_was_recorded(comparison):
    made = jobs(comparison)
    assert all(run_job(comparison, job) for job in made)
    spent = {job.name: records(job.config, "step")[-1]["tokens"] for job in made}
    assert spent["sequential.run.order1.seed0"] == spent["joint.run.order1.seed0"]
    rates = {job.name: [step["lr"] for step in records(job.config, "step")] for job in made}
    assert rates["sequential.run.order1.seed0"] == rates["joint.run.order1.seed0"]

    found = find(comparison)
    assert [run["state"] for run in found["runs"]] == ["finished"] * 6
    one = next(run for run in found["runs"] if run["name"] == "sequential.run.order1.seed0")
    last = {r["task"]: r["metric"] for r in records(made[0].config, "evaluation") if r["stage"] == 2}
    assert dict(zip(found["tasks"], one["metric"][1], strict=True)) == last
    assert one["metric"][0][2:] == [None, None] and one["tokens"] == spent[one["name"]]
    assert len({point[0] for point in one["curve"]}) > 3 and one["flops"] > 0 and one["seconds"] > 0

    sequential, joint, alone = found["arms_found"]
    mean, low, high = sequential["average"]
    both = [read_run(job, TASK_NAMES).metric[-1].mean() for job in made if job.arm == "sequential"]
    assert mean == pytest.approx(np.mean(both)) and low <= mean <= high
    assert joint["forgetting"] is None and sequential["forgetting"] is not None
    assert joint["intransigence"][0] == 0 and alone["average"] is None
    assert alone["last"]["knowledge_masking"] is not None

    (claim,) = found["claims"]
    assert claim["seeds"] == 2 and claim["p"] is None and "nothing is claimed" in claim["verdict"]
    assert claim["low"] <= claim["difference"] <= claim["high"]
    assert claim["difference"] == pytest.approx(mean - joint["average"][0])
    assert "nothing is claimed" in found["conclusions"][0]
    assert json.loads(json.dumps(found, allow_nan=False)) == json.loads(json.dumps(find(comparison)))


def test_answers_drawn_whole_give_the_metric_that_training_recorded(comparison):
    job = jobs(comparison)[0]
    run_job(comparison, job)
    last = {r["task"]: r["metric"] for r in records(job.config, "evaluation") if r["stage"] == 2}
    for task, answers in read_answers(job.config.folder()).items():
        number = len(answers.sizes)
        assert answers.score(np.arange(number)) == pytest.approx(last[task], abs=1e-6)
        twice = np.concatenate([np.arange(number), np.arange(number)])
        assert answers.score(twice) == pytest.approx(last[task], abs=1e-6)


def test_a_report_of_some_runs_says_what_is_missing(comparison):
    run_job(comparison, jobs(comparison)[0])
    found = find(comparison)
    assert [run["state"] for run in found["runs"]].count("missing") == 5
    assert found["claims"][0]["difference"] is None
    assert [arm["arm"] for arm in found["arms_found"]] == ["sequential"]
    assert find(comparison.model_copy(update={"name": "nothing"}))["arms_found"] == []


def test_finished_runs_are_never_redone_and_a_failed_one_is_named(comparison):
    """Processes of their own, two at a time; the failed run is tried again by the same command."""
    comparison = comparison.model_copy(update={"arms": ["sequential", "joint"], "seeds": 1})
    path, said = write(comparison), []
    first, second = jobs(comparison)
    run_job(comparison, first)
    before = (first.config.folder() / "metrics.jsonl").stat().st_mtime_ns
    second.config.folder().mkdir(parents=True)
    (second.config.folder() / "stage1").write_text("a file in the way")
    with pytest.raises(ChildProcessError, match=r"1 runs failed.*joint\.run\.order1\.seed0: .*job\.log"):
        run_all(comparison, path, [], 2, said.append)
    (second.config.folder() / "stage1").unlink()
    assert run_all(comparison, path, [], 2, said.append)
    assert all(is_finished(comparison, job) for job in (first, second))
    assert (first.config.folder() / "metrics.jsonl").stat().st_mtime_ns == before
    assert any("joint.run.order1.seed0 is finished" in line and "2 of 2" in line for line in said)


def test_ctrl_c_lets_the_runs_save_and_the_same_command_goes_on(comparison):
    run = {**comparison.run, "schedule": {"steps_per_task": 9000}, "evaluate": {"instances": 40}}
    long = comparison.model_copy(update={"arms": ["joint"], "claims": [], "seeds": 1, "run": run})
    (job,), path = jobs(long), write(long)
    process = subprocess.Popen(
        [sys.executable, "-c", "from launch.cli import main; main()", "compare", str(path)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    until = time.monotonic() + 200
    while time.monotonic() < until and not (job.config.folder() / "metrics.jsonl").exists():
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 130 and "the runs save" in out and "report: " in out
    saved = list((job.config.folder() / "stage1/checkpoints").glob("step*"))
    assert saved and not is_finished(long, job)


def test_the_command_lists_runs_does_one_and_writes_the_report(comparison, capsys):
    path = write(comparison)
    app(["compare", str(path), "--list"], prog_name="cumul", standalone_mode=False)
    listed = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert listed[0] == ["1", "sequential.run.order1.seed0", "missing"] and len(listed) == 6
    app(["compare", str(path), "--job", "1"], prog_name="cumul", standalone_mode=False)
    app(["compare", str(path), "--list"], prog_name="cumul", standalone_mode=False)
    assert "1\tsequential.run.order1.seed0\tfinished" in capsys.readouterr().out
    app(["compare", str(path), "--report"], prog_name="cumul", standalone_mode=False)
    said = capsys.readouterr().out
    assert "5 of 6 runs are not finished" in said and "report: runs/compare/report" in said
    assert len(jobs(load_compare(path))) == 6


def write_suite() -> str:
    for split, size in (("train", 32), ("dev", 16)):
        rows = [{"text": f"w{n} w{90 if n % 2 else 91}", "label": n % 2} for n in range(size)]
        Path(f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"kind": "single", "text": ["text"], "files": {"train": "train.jsonl", "dev": "dev.jsonl"}, "epochs": 1}
    Path("suite.yaml").write_text(yaml.safe_dump({"parity": task}))
    return "suite.yaml"


def test_wandb_has_the_runs_in_one_group_and_what_came_of_them(comparison, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    settings = {"downstream": [write_suite()], "data": ".", "finetune_seeds": 1, "arms": ["joint"], "claims": []}
    run = {**comparison.run, "log": {"every": 1, "wandb": "offline"}}
    comparison = comparison.model_copy(update={"seeds": 1, "run": run, **settings})
    (job,) = jobs(comparison)
    assert run_job(comparison, job)
    wandb.teardown()  # its process writes the files: they are whole once it has ended
    logs = [log.read_bytes() for log in job.config.folder().glob("wandb/offline-run-*/run-*.wandb")]
    assert any(b"downstream/parity" in log for log in logs)
    assert all(b"compare" in log and b"joint.run.order1.seed0" in log for log in logs) and len(logs) == 2


def test_downstream_tasks_stand_beside_another_checkpoint_and_are_tested(comparison):
    """A suite of one task on exported checkpoints; what is fine-tuned is not fine-tuned again."""
    settings = {"downstream": [write_suite()], "data": ".", "finetune_seeds": 2, "primary": "downstream"}
    comparison = comparison.model_copy(update={"arms": ["sequential", "joint"], **settings})
    made = jobs(comparison)
    assert all(run_job(comparison, job) for job in made)
    beside = comparison.model_copy(update={"beside": [str(made[0].config.folder() / "export")]})
    fine_tune_beside(beside, lambda line: None)
    results = sorted(path.stat().st_mtime_ns for path in beside.folder().rglob("seed*.json"))
    assert len(results) == 4 * 2 + 2 and all(run_job(comparison, job) for job in made)
    assert sorted(path.stat().st_mtime_ns for path in beside.folder().rglob("seed*.json")) == results

    found = find(beside)
    assert [row["arm"] for row in found["downstream"]] == ["sequential", "joint", beside.beside[0]]
    assert found["downstream_tasks"]["parity"]["examples"] == 16
    sequential, joint, other = found["downstream"]
    assert found["claims"][0]["difference"] == pytest.approx(sequential["average"][0] - joint["average"][0])
    alike = next(run for run in (read_run(job, TASK_NAMES) for job in made[:1]))
    assert other["average"][0] == pytest.approx(np.mean([result.score for result in alike.results]))
    again = comparison.model_copy(update={"finetune_seeds": 3})
    assert not any(is_finished(again, job) for job in made)
