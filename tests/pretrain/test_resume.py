"""N steps = k steps + kill + resume + (N − k) steps; and what happens when checkpoints, ranks or settings change."""

import json
import random
import subprocess
import sys
import time

import pytest
import wandb
import yaml
from conftest import records
from ranks import run_ranks
from safetensors.torch import load_file
from test_train import TYPED, changed, run, same, weights

from pretrain.checkpoint import all_checkpoints
from pretrain.config import resolved
from pretrain.model.model import Model
from pretrain.plan import checkpoint_bytes, count_classes, parameters, read_sizes
from pretrain.report import Report
from pretrain.run import stage_folder
from pretrain.train import train

DROPOUT = {"model": {"dropout": 0.1, "attention_dropout": 0.1}}
"""So that a run depends on random numbers too."""


class Killed(BaseException):
    """Ends a run where it stands, as SIGKILL does: nothing is saved, nothing is told."""


@pytest.fixture
def forwards(monkeypatch):
    """Kills a run before a forward pass, counted from 1: between micro-batches of a step too."""
    forward, calls = Model.forward, {"left": -1}

    def counted(self, batch):
        calls["left"] -= 1
        if calls["left"] == 0:
            raise Killed
        return forward(self, batch)

    monkeypatch.setattr(Model, "forward", counted)
    return calls


def losses(config):
    return [(r["run_step"], r["task"], r["loss"], r["tokens"]) for r in records(config, "step")]


def test_killed_anywhere_a_run_ends_with_the_bits_of_an_unbroken_one(tiny, forwards):
    """24 steps of three micro-batches: kills before the first step, inside steps, at the border of the stages."""
    settings = {**DROPOUT, "train": {"micro_batch_size": 3, "checkpoint_every": 3}}
    whole = changed(tiny, name="whole", **settings)
    run(whole)
    assert [stage.total for stage in tiny.stages()] == [8, 16]
    for kill in (1, 8, 12, 23, 24, 25, 26, 50, 72):
        broken = changed(tiny, name=f"killed{kill}", **settings)
        forwards["left"] = kill
        with pytest.raises(Killed):
            run(broken)
        run(broken)
        assert losses(whole) == losses(broken)
        assert same(weights(whole, 1), weights(broken, 1)) and same(weights(whole, 2), weights(broken, 2))
        moments = [load_file(stage_folder(c, 2) / "moments.safetensors") for c in (whole, broken)]
        assert same(*moments)


def break_off(config, run_step):
    """Train until a step and be killed there, when all checkpoints before it are written."""

    class Breaking(Report):
        def step(self, record):
            super().step(record)
            if record["run_step"] == run_step:
                raise Killed

    with pytest.raises(Killed), Breaking(config) as report:
        train(config, None, report, TYPED)


def kept(config, stage):
    return [path.name for path in all_checkpoints(stage_folder(config, stage) / "checkpoints")]


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_checkpoint_has_the_size_that_is_planned(tiny):
    """Weights and two moments; the rest is names, and a few rows of tasks that this run does not have."""
    run(tiny)
    classes, _ = count_classes(tiny)
    planned = checkpoint_bytes(parameters(read_sizes(tiny), classes).total)
    files = [stage_folder(tiny, 2) / f"{name}.safetensors" for name in ("model", "moments")]
    numbers = sum(tensor.nbytes for path in files for tensor in load_file(path).values())
    assert 0.9 * planned < numbers <= planned
    assert sum(path.stat().st_size for path in files) < numbers + 20_000


DAMAGE = {
    "a flipped bit in the weights": (lambda folder: flip(folder / "model.safetensors"), "model.safetensors is damaged"),
    "moments cut short": (
        lambda folder: (folder / "moments.safetensors").write_bytes(b"cut"),
        "moments.safetensors is damaged",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
    "a state cut short": (lambda folder: (folder / "state.json").write_text('{"state": {'), "state.json is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tiny, damage, capsys):
    change, message = DAMAGE[damage]
    whole = changed(tiny, name="whole")
    run(whole)
    break_off(tiny, 20)
    assert kept(tiny, 2) == ["step10", "step5"]
    change(stage_folder(tiny, 2) / "checkpoints" / "step10")
    run(tiny)
    shown = capsys.readouterr().out
    assert message in shown and "step10" in shown and "goes on from runs/tiny/stage2/checkpoints/step5, step 5" in shown
    assert same(weights(whole, 2), weights(tiny, 2))
    assert losses(whole) == losses(tiny)


def test_where_no_checkpoint_is_whole_nothing_is_guessed(tiny):
    break_off(tiny, 20)
    for checkpoint in all_checkpoints(stage_folder(tiny, 2) / "checkpoints"):
        flip(checkpoint / "moments.safetensors")
    with pytest.raises(ValueError, match=r"step10.*step5.*delete runs/tiny/stage2"):
        run(tiny)


def test_a_damaged_finished_stage_is_not_built_on(tiny):
    run(tiny, [1])
    flip(stage_folder(tiny, 1) / "model.safetensors")
    with pytest.raises(ValueError, match=r"stage1/model\.safetensors is damaged"):
        run(tiny, [2])


def test_the_last_checkpoints_are_kept_and_every_nth_for_good(tiny):
    config = changed(tiny, train={"checkpoint_every": 2, "keep_last": 3, "keep_every": 6})
    break_off(config, 8 + 15)
    assert kept(config, 1) == ["step6"]
    assert kept(config, 2) == ["step14", "step12", "step10", "step6"]
    run(config)
    assert kept(config, 2) == ["step12", "step6"]


def test_a_resume_says_from_where_and_what_changed(tiny, capsys):
    break_off(tiny, 15)
    run(changed(tiny, train={"micro_batch_size": 4}))
    (record,) = records(tiny, "resume")
    assert (record["run_step"], record["stage"], record["step"]) == (13, 2, 5)
    assert record["from"] == "runs/tiny/stage2/checkpoints/step5"
    assert record["changed"] == {"train.micro_batch_size": [8, 4]}
    line = "stage 2 goes on from runs/tiny/stage2/checkpoints/step5, step 5 of 16; train.micro_batch_size was 8, is 4"
    assert line in capsys.readouterr().out
    assert [r["run_step"] for r in records(tiny, "step")] == list(range(1, 25))


def test_wandb_is_told_of_a_resume_in_the_same_run(tiny, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = changed(tiny, log={"wandb": "offline"})
    break_off(config, 15)
    run(config)
    wandb.teardown()  # its process writes the files: they are whole once it has ended
    identity = (config.folder() / "wandb_id").read_text().strip()
    logs = list(config.folder().glob("wandb/offline-run-*/run-*.wandb"))
    assert len(logs) == 2 and {log.name for log in logs} == {f"run-{identity}.wandb"}
    assert sum(b"resumed_from_step" in log.read_bytes() for log in logs) == 1


@pytest.mark.parametrize(("before", "after"), [((2, 3), (1, 0)), pytest.param((1, 0), (2, 2), marks=pytest.mark.slow)])
def test_a_run_goes_on_with_other_ranks_and_another_zero_stage(tiny, tmp_path, before, after):
    whole = changed(tiny, name="whole")
    run(whole)
    moved = {}
    for number, (ranks, zero) in enumerate((before, after)):
        config = changed(tiny, train={"zero_stage": zero})
        folder = tmp_path / str(number)
        folder.mkdir()
        stop = 14 if number == 0 else None
        moved = run_ranks(
            "cases:run", ranks, folder, home=str(tmp_path), config=config.model_dump(mode="json"), stop=stop
        )
    assert moved[0] == {"finished": [1, 2]}
    for one, other in zip(records(whole, "step"), records(tiny, "step"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-4)
        assert one["tokens"] == other["tokens"]
    (record,) = records(tiny, "resume")
    assert record["changed"] == {"ranks": [before[0], after[0]], "train.zero_stage": [before[1], after[1]]}
    states = [json.loads((stage_folder(c, 2) / "state.json").read_text())["state"] for c in (whole, tiny)]
    assert states[0] == states[1]


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_no_bit(tiny, tmp_path):
    settings = {**DROPOUT, "train": {"micro_batch_size": 3, "checkpoint_every": 2}, "schedule": {"steps_per_task": 300}}
    whole, broken = (changed(tiny, name=name, **settings) for name in ("whole", "broken"))
    run(whole)
    path, metrics = tmp_path / "broken.yaml", broken.folder() / "metrics.jsonl"
    path.write_text(yaml.safe_dump(resolved(broken)))
    command = [sys.executable, "-c", "from launch.cli import main; main()", "train", str(path)]
    moments = random.Random(0)
    for _ in range(20):
        begun = time.time()
        with (
            (tmp_path / "said").open("w") as said,
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said) as process,
        ):
            while process.poll() is None and not (metrics.exists() and metrics.stat().st_mtime > begun):
                time.sleep(0.05)
            time.sleep(moments.uniform(0, 2.5))
            assert process.poll() is None, (tmp_path / "said").read_text()
            process.kill()
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    assert len(records(broken, "resume")) >= 10
    assert losses(whole) == losses(broken)
    assert same(weights(whole, 2), weights(broken, 2))
