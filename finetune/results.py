"""Finished results: one JSON file for every checkpoint, task and seed, and the table of them."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import ValidationError
from rich.table import Table
from scipy import stats

from corpus_tools.config import Section


class Result(Section):
    """<out>/<name>/<task>/seed<k>.json."""

    task: str
    kind: str
    checkpoint: str
    """As it was typed."""
    name: str
    """What its results are filed under."""
    seed: int
    metric: str
    score: float
    scores: dict[str, float]
    """Of every metric that fits the kind."""
    chance: float
    groups: dict[str, float] = {}
    """minimal_pairs: the score of every group."""
    split: str
    """What was scored."""
    selected_on: str | None
    """What the epoch was chosen by; None where nothing was trained."""
    epochs: list[float]
    """The metric on dev after each epoch."""
    best_epoch: int | None
    seconds: float
    """Of training and scoring; of what was learnt together, all tasks'."""
    classes: list[str]
    labels: list[Any]
    """Of every example: the number of the class, score, tags, grades of a query's texts; minimal_pairs: the group."""
    predictions: list[Any]
    """Likewise; minimal_pairs: 1, ½ or 0."""
    rows: dict[str, dict[str, int]]
    """Of every split: rows, used, refused, left_out."""
    new: list[str]
    """Parameters that the checkpoint had not."""
    weights: str
    """The checkpoint's fingerprint."""
    declaration: dict[str, Any]
    """The task as it was declared, defaults included."""
    together: dict[str, Any] = {}
    """Where the encoder learnt several tasks at once: how, and every setting of every task. Empty: one by one."""


class Origin(NamedTuple):
    """What it was made from."""

    checkpoint: str
    """As it was typed."""
    weights: str
    """Its fingerprint."""
    settings: dict[str, Any]
    """By name."""


def refuse_other(path: Path, made: Origin, now: Origin, mend: str) -> None:
    """Raises ValueError where what lies there was made from other weights, or other settings than those of now."""
    if made.weights != now.weights:
        raise ValueError(f"{path} was made with other weights, {made.checkpoint} as it was then. {mend}")
    changed = [key for key in now.settings if made.settings.get(key) != now.settings[key]]
    if changed:
        key = changed[0]
        then, wanted = json.dumps(made.settings.get(key)), json.dumps(now.settings[key])
        raise ValueError(f"{path} was made with {key}={then}, now it is {wanted}. {mend}")


def path_of(out: Path, name: str, task: str, seed: int) -> Path:
    return out / name / task / f"seed{seed}.json"


def write(out: Path, result: Result) -> None:
    """Aside, then renamed: a file that is there is whole."""
    path = path_of(out, result.name, result.task, result.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(result.model_dump(), ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(aside, path)


def read(path: Path) -> Result:
    try:
        return Result.model_validate_json(path.read_bytes())
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) or "no JSON"
        raise ValueError(f"{path} is no result ({where}). Delete it, and it is made again.") from None


def read_results(out: Path) -> list[Result]:
    """All finished results below a folder. Raises ValueError where there is none."""
    results = [read(path) for path in sorted(out.glob("*/*/seed*.json"))]
    if not results:
        raise ValueError(f"{out} holds no results. Make them with `cumul finetune`.")
    return results


def interval(scores: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and half the 95 % t-interval over seeds; None for one seed."""
    if len(scores) < 2:
        return float(np.mean(scores)), None
    half = stats.t.ppf(0.975, len(scores) - 1) * np.std(scores, ddof=1) / np.sqrt(len(scores))
    return float(np.mean(scores)), float(half)


def table(results: Sequence[Result]) -> Table:
    """Tasks by checkpoints; the average only of checkpoints that have every task."""
    tasks = list(dict.fromkeys(result.task for result in results))
    names = list(dict.fromkeys(result.name for result in results))
    scores: dict[tuple[str, str], list[float]] = {}
    for result in results:
        scores.setdefault((result.task, result.name), []).append(result.score)
    shown = Table(title="mean over seeds ± 95 % t-interval", title_justify="left")
    for heading in ("task", "metric", "scored on"):
        shown.add_column(heading, no_wrap=True)
    for heading in ("chance", *map(heading_of, names)):
        shown.add_column(heading, justify="right", no_wrap=True)
    chances = []
    for task in tasks:
        first = next(result for result in results if result.task == task)
        on = first.split + (", as selected" if first.split == first.selected_on else "")
        chances.append(first.chance)
        cells = [cell(scores.get((task, name), [])) for name in names]
        shown.add_row(task, first.metric, on, f"{first.chance:.3f}", *cells)
    if len(tasks) > 1:
        means = [[float(np.mean(scores[task, name])) for task in tasks if (task, name) in scores] for name in names]
        cells = [f"{np.mean(mean):.3f}" if len(mean) == len(tasks) else "–" for mean in means]
        shown.add_section()
        shown.add_row("average", "", "", f"{np.mean(chances):.3f}", *cells)
    return shown


def cell(scores: Sequence[float]) -> str:
    if not scores:
        return "–"
    mean, half = interval(scores)
    return f"{mean:.3f}" if half is None else f"{mean:.3f} ± {half:.3f}"


def differences(results: Sequence[Result], base: str) -> Table:
    """Every other name minus `base`, paired by seed: as far as both have the task and the seed."""
    scores = {(result.name, result.task, result.seed): result.score for result in results}
    names = [name for name in dict.fromkeys(result.name for result in results) if name != base]
    tasks = list(dict.fromkeys(result.task for result in results))
    seeds = sorted({result.seed for result in results})
    shown = Table(title=f"minus {base}, paired by seed: mean ± 95 % t-interval", title_justify="left")
    shown.add_column("task", no_wrap=True)
    for name in names:
        shown.add_column(heading_of(name), justify="right", no_wrap=True)

    def paired(name: str, these: Sequence[str]) -> list[float]:
        """One a seed, averaged over the tasks."""
        whole = [seed for seed in seeds if all((n, task, seed) in scores for n in (name, base) for task in these)]
        return [
            float(np.mean([scores[name, task, seed] - scores[base, task, seed] for task in these])) for seed in whole
        ]

    for task in tasks:
        shown.add_row(task, *(signed(paired(name, [task])) for name in names))
    if len(tasks) > 1:
        shown.add_section()
        shown.add_row("average", *(signed(paired(name, tasks)) for name in names))
    return shown


def heading_of(name: str) -> str:
    """Narrow: a line for the checkpoint, and one for each step after it."""
    return name.replace("+", "\n+")


def signed(values: Sequence[float]) -> str:
    shown = cell(values)
    return f"+{shown}" if values and np.mean(values) >= 0 else shown
