"""What a person sees of a run: `metrics.jsonl`, the terminal and wandb, each told the same records.

`metrics.jsonl` is the one that counts: one JSON object a line, of kind `step` or `evaluation`, in the order in which
things happened, and of kind `resume` where a stage went on from a checkpoint. A resumed run first drops what lies
beyond that checkpoint, so no step is in it twice; wandb cannot forget, there such steps appear again. Only rank 0
reports to these; every rank keeps a log in `logs/rank<n>.log`, with its own waiting and memory.
"""

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pretrain.config import Config
from pretrain.run import log_of
from pretrain.tasks import TASKS

REDRAW_SECONDS = 0.1
"""The live display is redrawn when a record comes, but not more often than this."""
STEP_KEYS = (
    "stage", "lr", "gradient_norm", "skipped", "tokens_per_second", "padding_share", "wait_share", "probe_seconds",
    "memory",
)  # fmt: skip
"""What wandb is told of a step beside the losses and weights of tasks."""
NARROW = 100
"""Columns of a plain terminal's tables, where the width is not known."""


class Report:
    """Takes the records of a run."""

    def __init__(self, config: Config, rank: int = 0, console: Console | None = None):
        self.config, self.rank, self.main = config, rank, rank == 0
        self.console = console or make_console()
        self.titles = stage_titles(config)
        self.live: Live | None = None
        self.drawn = 0.0
        self.last: dict = {}
        self.losses: dict[str, float] = {}
        self.validation: dict[str, dict] = {}

    def __enter__(self) -> "Report":
        log = log_of(self.config, self.rank)
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log_file = log.open("a", encoding="utf-8")
        if self.main:
            path = self.config.folder() / "metrics.jsonl"
            if path.exists():
                keep_until(path, None)
            self.file = path.open("a", encoding="utf-8")
            self.wandb = start_wandb(self.config)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.main:
            self.settle()
            self.file.close()
            if self.wandb is not None:
                self.wandb.finish(exit_code=0 if kind is None else 1)
        self.log_file.close()

    def rewind(self, run_step: int) -> None:
        """Drop the records of later steps: they will be made again."""
        if self.main:
            self.file.close()
            folder = self.config.folder()
            for name in ("metrics.jsonl", "skipped.jsonl"):
                if (folder / name).exists():
                    keep_until(folder / name, run_step)
            self.file = (folder / "metrics.jsonl").open("a", encoding="utf-8")

    def resumed(self, record: dict) -> None:
        if not self.main:
            return
        self.append(record)
        changed = "".join(f"; {name} was {before}, is {now}" for name, (before, now) in record["changed"].items())
        line = f"stage {record['stage']} goes on from {record['from']}, step {record['step']} of {record['num_steps']}"
        self.note(line + (changed or "; nothing changed"))
        if self.wandb is not None:
            self.wandb.summary["resumed"] = line + changed
        self.to_wandb(record, ("stage",), {"resumed_from_step": record["run_step"]})

    def step(self, record: dict) -> None:
        self.log(step_line(record, self.titles))
        if not self.main:
            return
        self.append(record)
        losses = {f"loss/{task}": loss for task, loss in record["loss"].items()}
        weights = {f"weight/{task}": weight for task, weight in record["weight"].items()}
        entropies = {
            f"gate_entropy/{task}/level{number}": level["entropy"]
            for task, levels in record.get("gates", {}).items()
            for number, level in enumerate(levels, 1)
        }
        self.to_wandb(record, STEP_KEYS, losses | weights | entropies)
        if record["stage"] != self.last.get("stage"):
            self.settle()
            self.losses = {}
        self.last = record
        self.losses |= record["loss"]
        if self.console.is_terminal:
            self.draw()
        else:
            self.say(step_line(record, self.titles))

    def evaluation(self, records: list[dict]) -> None:
        for record in records:
            self.log(evaluation_line(record))
        if not self.main:
            return
        self.settle()
        for record in records:
            self.append(record)
            where = f"validation/{record['task']}"
            values = {f"{where}/loss": record["loss"], f"{where}/{record['metric_name']}": record["metric"]}
            self.to_wandb(record, ("stage",), values | {f"{where}/chance": record["chance"]})
        self.validation |= {record["task"]: record for record in records}
        if self.console.is_terminal:
            self.console.print(results_table(records))
        else:
            for record in records:
                self.say(evaluation_line(record))

    def note(self, text: str) -> None:
        """A remark for who watches; it is no record."""
        self.log(text)
        if self.main:
            self.settle()
            self.say(text)

    def log(self, text: str) -> None:
        """Into this rank's file alone."""
        self.log_file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}\n")
        self.log_file.flush()

    def say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False)

    def append(self, record: dict) -> None:
        self.file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self.file.flush()

    def to_wandb(self, record: dict, keys: Sequence[str], values: dict[str, float]) -> None:
        if self.wandb is not None:
            self.wandb.log({key: record[key] for key in ("run_step", *keys)} | values)

    def draw(self) -> None:
        """On demand and not by a timer: nothing moves between records, so nothing flickers."""
        if self.live is None:
            self.live = Live(console=self.console, auto_refresh=False)
            self.live.start()
        done = self.last["step"] == self.last["num_steps"]
        if done or monotonic() - self.drawn >= REDRAW_SECONDS:
            self.live.update(step_frame(self.last, self.titles, self.losses, self.validation), refresh=True)
            self.drawn = monotonic()

    def settle(self) -> None:
        """Replace the live display by the line that stays."""
        if self.live is not None:
            self.live.update(Text(step_line(self.last | {"loss": self.losses}, self.titles)), refresh=True)
            self.live.stop()
            self.live = None


def make_console() -> Console:
    """A file or pipe has no width to respect beyond that of a wide terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(NARROW, console.width))


def stage_titles(config: Config) -> list[str]:
    """What each stage adds to the stage before: families where the schedule goes by families, else tasks."""
    titles, before = [], set[str]()
    for stage in config.stages():
        added = [task for task in stage.steps if task not in before] or list(stage.steps)
        if config.schedule.over == "families":
            added = list(dict.fromkeys(TASKS[task].family.value for task in added))
        kept = before & set(stage.steps)
        titles.append(("+ " if kept else "") + ", ".join(added))
        before = set(stage.steps)
    return titles


def stage_label(record: dict, titles: Sequence[str]) -> str:
    return f"stage {record['stage']}/{record['num_stages']}  {titles[record['stage'] - 1]}"


def step_line(record: dict, titles: Sequence[str]) -> str:
    weights = {task: weight for task, weight in record["weight"].items() if weight != 1}
    losses = ", ".join(
        f"{task} {loss:.3f}" + (f" × {weights[task]:.2f}" if task in weights else "")
        for task, loss in record["loss"].items()
    )
    return (
        f"{stage_label(record, titles)}  step {record['step']}/{record['num_steps']}  {record['task']}  "
        f"loss: {losses}  {speed(record)}  left {clock(record['seconds_left'])}"
    )


def speed(record: dict) -> str:
    """Learning rate, real tokens per second, and the shares of padding in them and of waiting for data in the time."""
    rate, padding, wait = record["tokens_per_second"], record["padding_share"], record["wait_share"]
    return (
        f"lr {record['lr']:.2e}  {rate:,.0f} tok/s  padding {padding:.1%}  wait {wait:.1%}  "
        f"{record['memory'] / 1e9:.1f} GB" + (f"  skipped {record['skipped']}" if record["skipped"] else "")
    )


def evaluation_line(record: dict) -> str:
    detail = ", ".join(f"{name} {value:.3f}" for name, value in record["detail"].items())
    return (
        f"stage {record['stage']}  validation  {record['task']}  loss {record['loss']:.3f}  "
        f"{record['metric_name']} {record['metric']:.3f}  chance {record['chance']:.3f}  "
        f"{record['instances']} instances" + (f"  ({detail})" if detail else "")
    )


def clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def step_frame(
    record: dict, titles: Sequence[str], losses: dict[str, float], validation: dict[str, dict]
) -> RenderableType:
    """The live display: where the run is, how fast, and the latest loss of every task of the stage."""
    progress = Table.grid(padding=(0, 2), expand=True)
    progress.add_column(ratio=1)
    progress.add_column(justify="right", no_wrap=True)
    bar = ProgressBar(total=record["num_steps"], completed=record["step"])
    progress.add_row(bar, f"{record['step']}/{record['num_steps']}  left {clock(record['seconds_left'])}")
    tasks = Table.grid(padding=(0, 2))
    for _ in range(5):
        tasks.add_column(no_wrap=True)
    for task, loss in losses.items():
        last = validation.get(task)
        before = Text(f"validation {last['metric']:.3f}, chance {last['chance']:.3f}", "dim") if last else Text()
        now = Text("◂" if task == record["task"] else " ", "cyan")
        weight = record["weight"].get(task, 1.0)
        tasks.add_row(task, Text(f"loss {loss:7.3f}"), Text(f"× {weight:.2f}" if weight != 1 else ""), now, before)
    head = Text(stage_label(record, titles), "bold", no_wrap=True, overflow="ellipsis")
    return Group(head, progress, Text(speed(record), no_wrap=True, overflow="ellipsis"), tasks)


def keep_until(path: Path, step: int | None) -> None:
    """Drop the records beyond `step`, and a last line that was not written whole."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and (step is None or json.loads(line)["run_step"] <= step)]
    if len(kept) < len(lines):
        aside = path.with_suffix(".part")
        aside.write_text("".join(kept), encoding="utf-8")
        os.replace(aside, path)


def read_records(run: Path) -> list[dict]:
    """Raises ValueError where nothing has been recorded yet."""
    path = run / "metrics.jsonl"
    if not path.exists():
        raise ValueError(f"{run} holds no metrics.jsonl: nothing has been trained there. Train it: cumul train CONFIG")
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def summary_table(run: Path) -> Table:
    """Task × stage: loss and metric of the last evaluation after each stage, beside chance."""
    return results_table([record for record in read_records(run) if record["kind"] == "evaluation"])


def results_table(records: Sequence[dict]) -> Table:
    """A dash: the task was not yet there. Green: better than guessing."""
    last = {(record["task"], record["stage"]): record for record in records}
    stages = sorted({stage for _, stage in last})
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("task", no_wrap=True)
    table.add_column("metric")
    table.add_column("chance", justify="right", no_wrap=True)
    for stage in stages:
        table.add_column(f"stage {stage}\n  loss  metric", justify="right", no_wrap=True)
    seen = {task for task, _ in last}
    for task in [task for task in TASKS if task in seen]:
        mine = {stage: last[task, stage] for stage in stages if (task, stage) in last}
        latest = mine[max(mine)]
        cells = [cell(mine[stage]) if stage in mine else Text("–", "dim") for stage in stages]
        table.add_row(task, latest["metric_name"], f"{latest['chance']:.3f}", *cells)
    return table


def cell(record: dict) -> Text:
    better = record["metric"] > record["chance"]
    return Text.assemble(f"{record['loss']:6.3f}  ", (f"{record['metric']:6.3f}", "green" if better else "dim"))


def tell_wandb(config: Config, values: Mapping[str, float]) -> None:
    """What was found out of a run after its training, where it is kept in wandb.

    As a record of its last step: of a summary alone, written just before the end, wandb lost some under load.
    """
    run = start_wandb(config)
    if run is not None:
        run.log({"run_step": sum(stage.total for stage in config.stages()), **values})
        run.finish()


def start_wandb(config: Config) -> Any:
    """One wandb run per run folder, whose identity lies in `wandb_id`: a resumed run goes on in the same one."""
    if config.log.wandb == "off":
        return None
    import wandb

    path = config.folder() / "wandb_id"
    if not path.exists():
        path.write_text(f"{config.name.replace('/', '-')}-{secrets.token_hex(4)}\n")
    run = wandb.init(
        project=config.log.project,
        name=config.name,
        group=config.log.group,
        id=path.read_text().strip(),
        resume="allow",
        mode=config.log.wandb,
        dir=str(config.folder().resolve()),  # its service is another process, perhaps of an older working folder
        config=config.model_dump(mode="json"),
        settings=wandb.Settings(console="off", silent=True),
    )
    run.define_metric("run_step", hidden=True)
    run.define_metric("*", step_metric="run_step")
    return run
