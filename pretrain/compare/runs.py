"""The runs of a comparison: which are finished, and what their folders hold."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from finetune.results import Result, read_results
from pretrain.compare.answers import FILE, Answers, read_answers
from pretrain.compare.experiment import CompareConfig, Job, jobs
from pretrain.config import Config
from pretrain.plan import read_sizes, training_operations
from pretrain.report import read_records
from pretrain.run import finished

DOWNSTREAM = "downstream"


class Found(NamedTuple):
    """One finished run."""

    job: Job
    curve: list[dict]
    """Every evaluation of every task."""
    metric: np.ndarray
    """Stages × tasks."""
    loss: np.ndarray
    cost: dict[str, float]
    answers: dict[str, Answers]
    results: list[Result]


Seeds = dict[int, list[Found]]
"""Of one arm: by seed, its runs in every order of the tasks."""


def is_finished(compare: CompareConfig, job: Job) -> bool:
    """Trained to its end, measured, and fine-tuned where that is asked for."""
    folder = job.config.folder()
    trained = all(finished(job.config, number) for number in range(1, len(job.config.stages()) + 1))
    return trained and (folder / FILE).exists() and is_fine_tuned(compare, folder / DOWNSTREAM)


def state_of(compare: CompareConfig, job: Job) -> str:
    if is_finished(compare, job):
        return "finished"
    return "begun" if (job.config.folder() / "metrics.jsonl").exists() else "missing"


def is_fine_tuned(compare: CompareConfig, folder: Path) -> bool:
    """As often, and on as many tasks, as the comparison asks for."""
    path = folder / "done.json"
    return not compare.downstream or (path.exists() and json.loads(path.read_text()) == downstream_of(compare))


def downstream_of(compare: CompareConfig) -> dict[str, Any]:
    wanted = {"downstream", "downstream_tasks", "finetune_seeds"}
    return compare.model_dump(mode="json", include=wanted)


def results_in(folder: Path) -> list[Result]:
    """Of fine-tuning; none where nothing was fine-tuned there."""
    return read_results(folder) if folder.is_dir() else []


def read_run(job: Job, tasks: Sequence[str]) -> Found:
    config, records = job.config, read_records(job.config.folder())
    curve = [record for record in records if record["kind"] == "evaluation"]
    last = {(record["stage"], record["task"]): record for record in curve}
    stages = range(1, len(config.stages()) + 1)

    def matrix(key: str) -> np.ndarray:
        return np.array([[last.get((stage, task), {}).get(key, np.nan) for task in tasks] for stage in stages])

    folder = config.folder()
    return Found(
        job, curve, matrix("metric"), matrix("loss"), cost_of(config, records), read_answers(folder),
        results_in(folder / DOWNSTREAM),
    )  # fmt: skip


def cost_of(config: Config, records: Sequence[dict]) -> dict[str, float]:
    """Steps, tokens, seconds of training without evaluations, and floating-point operations by formula."""
    steps = [record for record in records if record["kind"] == "step"]
    counts = np.diff([0, *(step["tokens"] for step in steps)])
    seconds = sum(count / step["tokens_per_second"] for count, step in zip(counts, steps, strict=True))
    tokens, stages, batch = steps[-1]["tokens"], config.stages(), config.train.batch_size
    total = sum(stage.total for stage in stages)
    length = round(tokens / (total * batch))
    work = training_operations(config, stages, read_sizes(config), tokens, length)
    return {"steps": steps[-1]["run_step"], "tokens": tokens, "seconds": float(seconds), "flops": work}


def complete(compare: CompareConfig, runs: Sequence[Found]) -> Seeds:
    """The seeds whose runs are finished in every order that the arm has."""
    arm_orders = {job.order for job in jobs(compare) if runs and job.arm == runs[0].job.arm}
    by_seed = {seed: [run for run in runs if run.job.seed == seed] for seed in range(compare.seeds)}
    return {
        seed: mine for seed, mine in by_seed.items() if arm_orders and {run.job.order for run in mine} == arm_orders
    }
