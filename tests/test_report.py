import io
import json
import re

import pytest
import wandb
from rich.console import Console

from pretrain.config import Config, load_config
from pretrain.report import NARROW, Report, stage_titles, summary_table

OVERRIDES = ["name=r", "schedule.steps_per_task=40"]


@pytest.fixture
def config(tmp_path, monkeypatch) -> Config:
    monkeypatch.chdir(tmp_path)
    return load_config(None, OVERRIDES)


def step(run_step: int, stage: int = 1, **loss: float) -> dict:
    return {
        "kind": "step", "run_step": run_step, "stage": stage, "num_stages": 3, "step": run_step, "num_steps": 60,
        "task": "knowledge_masking", "loss": loss or {"knowledge_masking": 5.25}, "lr": 1e-4,
        "weight": {"knowledge_masking": 1.0, "capitalization": 1.25}, "probe_seconds": 0.0,
        "tokens_per_second": 3210.0, "padding_share": 0.021, "wait_share": 0.004, "seconds_left": 3725.0,
        "gradient_norm": 0.5, "skipped": 0, "memory": 1.5e9, "memory_planned": 1e9,
    }  # fmt: skip


def score(stage: int, task: str, metric: float, chance: float = 0.5, loss: float = 1.0) -> dict:
    return {
        "kind": "evaluation", "run_step": 100 * stage, "stage": stage, "task": task, "loss": loss,
        "metric_name": "accuracy", "metric": metric, "chance": chance, "detail": {"n=2": 0.75}, "instances": 9,
    }  # fmt: skip


def plain() -> Console:
    return Console(file=io.StringIO(), width=NARROW, force_terminal=False)


def terminal(width: int = 100) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=True, _environ={})


def recorded(config: Config) -> list[dict]:
    return [json.loads(line) for line in (config.folder() / "metrics.jsonl").read_text().splitlines()]


def test_every_record_is_a_line_of_json_and_a_line_on_a_plain_screen(config):
    console = plain()
    with Report(config, console=console) as report:
        report.step(step(1))
        report.evaluation([score(1, "capitalization", 0.6), score(1, "token_document", 0.4)])
    assert recorded(config) == [step(1), score(1, "capitalization", 0.6), score(1, "token_document", 0.4)]
    first, second, third = console.file.getvalue().splitlines()
    for shown in ("stage 1/3", "word-aware", "step 1/60", "knowledge_masking 5.250", "1.00e-04", "3,210 tok/s", "2.1%"):
        assert shown in first
    assert "left 1:02:05" in first
    assert "capitalization" in second and "accuracy 0.600" in second and "chance 0.500" in second
    assert "n=2 0.750" in third


def test_weights_other_than_1_are_shown_beside_the_losses(config):
    """The record's are 1 and 1.25."""
    loss = {"knowledge_masking": 5.0, "capitalization": 0.4}
    for console in (plain(), terminal(width=200)):
        with Report(config, console=console) as report:
            report.step(step(1, **loss))
        shown = console.file.getvalue()
        assert "knowledge_masking 5.000, capitalization 0.400 × 1.25" in shown and "× 1.00" not in shown


def test_a_resumed_run_drops_what_lies_beyond_its_checkpoint(config):
    with Report(config, console=plain()) as report:
        for number in range(1, 8):
            report.step(step(number))
    with (config.folder() / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "run_st')
    with Report(config, console=plain()) as report:
        report.rewind(4)
        report.step(step(5))
    assert [record["run_step"] for record in recorded(config)] == [1, 2, 3, 4, 5]


def test_a_report_that_resumes_nothing_keeps_everything(config):
    for number in (1, 2):
        with Report(config, console=plain()) as report:
            report.step(step(number))
    assert [record["run_step"] for record in recorded(config)] == [1, 2]


def test_other_ranks_write_only_their_own_log(config):
    console = plain()
    with Report(config, rank=1, console=console) as report:
        report.step(step(1))
        report.evaluation([score(1, "capitalization", 0.6)])
        report.note("hello")
    assert console.file.getvalue() == ""
    assert [path.name for path in config.folder().rglob("*") if path.is_file()] == ["rank1.log"]


def test_the_live_display_leaves_one_line_that_says_how_the_stage_ended(config):
    console = terminal(width=200)
    with Report(config, console=console) as report:
        for number in (1, 2, 60):
            report.step(step(number, knowledge_masking=5.0 - number / 100))
        report.note("stopped and saved")
    shown = console.file.getvalue()
    left = shown.rsplit("\x1b[2K", 1)[-1]
    assert "step 60/60" in left and "knowledge_masking 4.400" in left
    assert left.index("step 60/60") < left.index("stopped and saved")
    assert left.count("step ") == 1


def test_the_live_display_fits_a_narrow_terminal(config):
    console = terminal(width=40)
    with Report(config, console=console) as report:
        report.step(step(1))
        assert all(len(line) <= 40 for line in console.render_lines(report.live.get_renderable())[0])


def test_a_failing_run_leaves_the_terminal_in_order(config):
    console = terminal()
    with pytest.raises(RuntimeError), Report(config, console=console) as report:
        report.step(step(1))
        raise RuntimeError
    assert console.file.getvalue().rstrip().endswith("\x1b[?25h"), "the cursor is shown again"


def test_the_table_has_the_last_evaluation_of_every_task_and_stage(config):
    with Report(config, console=plain()) as report:
        report.evaluation([score(1, "knowledge_masking", 0.1), score(1, "token_document", 0.6)])
        report.evaluation([score(1, "knowledge_masking", 0.2)])
        report.evaluation([score(2, "sentence_distance", 0.5), score(2, "knowledge_masking", 0.7, loss=2.5)])
    console = terminal()
    console.print(summary_table(config.folder()))
    shown = console.file.getvalue()
    assert re.findall(r"\x1b\[32m *([\d.]+)", shown) == ["0.700", "0.600"], "above chance, and not at it"
    plain_text = re.sub(r"\x1b\[[\d;]*m", "", shown)
    rows = {line.split()[0]: line.split()[1:] for line in plain_text.splitlines()[2:]}
    assert rows["knowledge_masking"] == ["accuracy", "0.500", "1.000", "0.200", "2.500", "0.700"]
    assert rows["sentence_distance"] == ["accuracy", "0.500", "–", "1.000", "0.500"]
    assert rows["token_document"] == ["accuracy", "0.500", "1.000", "0.600", "–"]


def test_without_a_run_the_table_says_what_to_do(config):
    with pytest.raises(ValueError, match="cumul train"):
        summary_table(config.folder())


def test_titles_say_what_a_stage_adds():
    def titles(*overrides: str) -> list[str]:
        return stage_titles(load_config(None, [*OVERRIDES, *overrides]))

    assert titles() == ["word-aware", "+ structure-aware", "+ semantic-aware"]
    assert titles("schedule.kind=continual") == ["word-aware", "structure-aware", "semantic-aware"]
    assert titles("schedule.kind=joint") == ["word-aware, structure-aware, semantic-aware"]
    two = titles("schedule.over=tasks", "tasks=[knowledge_masking, sentence_distance]")
    assert two == ["knowledge_masking", "+ sentence_distance"]


def test_wandb_goes_on_in_the_same_run(config, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = load_config(None, [*OVERRIDES, "log.wandb=offline"])
    for number in (1, 2):
        with Report(config, console=plain()) as report:
            report.step(step(number))
    wandb.teardown()  # its process writes the files: they are whole once it has ended
    identity = (config.folder() / "wandb_id").read_text().strip()
    logs = list(config.folder().glob("wandb/offline-run-*/run-*.wandb"))
    assert logs and all(log.name == f"run-{identity}.wandb" for log in logs)
    assert b"tokens_per_second" in logs[0].read_bytes()
