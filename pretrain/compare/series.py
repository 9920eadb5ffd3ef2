"""What charts show of findings: curves and their mean over seeds, stage borders, mean matrices. Plain numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pretrain.compare.experiment import ORDERED
from pretrain.tasks import TASKS

MEASURES = ("loss", "metric")
Findings = dict[str, Any]


def runs_of(findings: Findings, spans: str, order: int, arm: str) -> list[dict]:
    """The finished runs of an arm in an order of the tasks; where the arm knows no order, all."""
    order = order if arm in ORDERED else 1
    return [
        run
        for run in findings["runs"]
        if run["state"] == "finished" and (run["lr_spans"], run["order"], run["arm"]) == (spans, order, arm)
    ]


def orders_of(findings: Findings) -> range:
    return range(1, findings["orders"] + 1)


def curves(findings: Findings, spans: str, order: int) -> dict[str, dict]:
    """By arm: the stage borders in tokens, and by task the curve of every seed and their mean."""
    arms = {arm: runs_of(findings, spans, order, arm) for arm in findings["arms"]}
    return {
        arm: {
            "borders": borders(runs),
            "tasks": {task: task_curves(runs, task) for task in findings["tasks"] if task_points(runs[0], task)},
        }
        for arm, runs in arms.items()
        if runs
    }


def task_curves(runs: Sequence[dict], task: str) -> dict[str, Any]:
    seeds = [{"seed": run["seed"], **columns(task_points(run, task))} for run in runs]
    return {"seeds": seeds, "mean": mean_curve(seeds)}


def task_points(run: dict, task: str) -> list[list]:
    return [point for point in run["curve"] if point[2] == task]


def columns(points: Sequence[Sequence]) -> dict[str, list]:
    tokens, stage, _, loss, metric = zip(*points, strict=True)
    return {"tokens": list(tokens), "stage": list(stage), "loss": list(loss), "metric": list(metric)}


def mean_curve(seeds: Sequence[dict]) -> dict[str, list]:
    """At the marks of the first seed. Others met theirs a few tokens apart: between marks they are straight lines."""
    start, end = max(seed["tokens"][0] for seed in seeds), min(seed["tokens"][-1] for seed in seeds)
    marks = sorted({min(max(mark, start), end) for mark in seeds[0]["tokens"]})
    return {"tokens": marks} | {
        measure: np.mean([np.interp(marks, seed["tokens"], seed[measure]) for seed in seeds], axis=0).tolist()
        for measure in MEASURES
    }


def borders(runs: Sequence[dict]) -> list[float]:
    """Tokens at which one stage ended and the next began, mean over the runs."""
    ends = [{point[1]: point[0] for point in run["curve"]} for run in runs]
    return [float(np.mean([end[stage] for end in ends])) for stage in list(ends[0])[:-1]]


def mean_matrix(runs: Sequence[dict], measure: str) -> list[list[float | None]]:
    """Stages × tasks, mean over the runs; None where a task was not yet trained."""
    rows = zip(*(run[measure] for run in runs), strict=True)
    return [[mean(column) for column in zip(*row, strict=True)] for row in rows]


def mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def above_guessing(findings: Findings, task: str, measure: str, value: float) -> float:
    """0 is what guessing reaches, 1 perfect, and below 0 worse than guessing: tasks can be compared."""
    about = findings["metrics"][task]
    if measure == "metric":
        return (value - about["chance"]) / (1 - about["chance"])
    return (about["loss"] - value) / about["loss"]


def trained_in(findings: Findings, stage: dict[str, int]) -> list[str]:
    """What a stage trained, in the words of `groups`: tasks, or families of tasks."""
    groups = findings["groups"]
    names = list(dict.fromkeys(task if task in groups else TASKS[task].family.value for task in stage))
    return ["all"] if len(names) == len(groups) > 1 else names


def order_words(findings: Findings, order: int) -> str:
    groups = findings["groups"]
    return ", ".join(spoken(group) for group in groups[order - 1 :] + groups[: order - 1])


def spoken(name: str) -> str:
    return name.replace("_", " ")


def best(estimates: Sequence[list | None]) -> int | None:
    """The place of the highest estimate, where its interval lies above all others; an unknown one tells nothing."""
    known = [(place, *estimate) for place, estimate in enumerate(estimates) if estimate is not None]
    if len(known) < 2 or any(low is None or high is None for _, _, low, high in known):
        return None
    place, _, low, _ = max(known, key=lambda estimate: estimate[1])
    return place if all(low > high for other, _, _, high in known if other != place) else None
