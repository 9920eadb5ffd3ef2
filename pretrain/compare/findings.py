"""What a comparison found: read from the folders of its runs, at any time, whatever is there.

`find` returns plain data, which `findings.json` keeps and the report shows:

    name, primary, arms, variants, orders, seeds, lr_spans, groups   as configured; `groups` in words: what stages add
    tasks        the tasks, in curriculum order
    metrics      per task: name of its metric, chance, and loss of guessing
    runs         one per job: name, arm, order, lr_spans, seed, state (finished, begun, missing), and where begun:
                 steps, tokens, seconds, flops, stages ({task: steps} of each), curve ([tokens, stage, task, loss,
                 metric] of every evaluation), loss and metric (rows: finished stages; columns: tasks; null: not yet
                 trained)
    arms_found   one per lr_spans and arm: runs, tokens, seconds, flops (means); average, backward_transfer, forgetting,
                 intransigence, and per task in `last` (metric) and `last_loss`: each [mean, low, high], null: undefined
    downstream   one per lr_spans and arm, or checkpoint beside them: tasks {task: [mean, low, high]}, average, runs;
                 and in downstream_tasks per task: metric, chance, split, examples
    claims       one per claim and lr_spans: first, second, difference, low, high, p, p_holm, seeds, verdict
    conclusions  sentences
    reproduce    commands; and configuration: its YAML
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import yaml

from finetune.results import Result
from pretrain.compare.claims import conclude, make_claims
from pretrain.compare.experiment import CompareConfig, Job, group_names, jobs, shared_config
from pretrain.compare.runs import Found, Seeds, complete, is_finished, read_run, results_in, state_of
from pretrain.compare.statistics import backward_transfer, forgetting, intransigence, mean_interval


def find(compare: CompareConfig, command: str = "cumul compare CONFIG") -> dict[str, Any]:
    """Everything that the runs at hand tell. `command` is what was typed."""
    planned, tasks = jobs(compare), shared_config(compare).tasks
    found = {job.name: read_run(job, tasks) for job in planned if is_finished(compare, job)}
    arms: dict[tuple[str, str], Seeds] = {
        (spans, arm): complete(
            compare, [run for run in found.values() if (run.job.lr_spans, run.job.arm) == (spans, arm)]
        )
        for spans in compare.lr_spans
        for arm in compare.arms
    }
    claims = make_claims(compare, arms, tasks)
    return plain({
        "name": compare.name,
        "primary": compare.primary,
        "arms": compare.arms,
        "variants": compare.variants,
        "orders": compare.orders,
        "seeds": compare.seeds,
        "lr_spans": compare.lr_spans,
        "groups": group_names(compare),
        "tasks": tasks,
        "metrics": metrics_of(found.values(), tasks),
        "runs": [describe(job, state_of(compare, job), found.get(job.name), tasks) for job in planned],
        "arms_found": [arm_found(spans, arm, seeds, arms.get((spans, "joint"), {}), tasks)
                       for (spans, arm), seeds in arms.items() if seeds],
        **downstream_found(compare, arms),
        "claims": claims,
        "conclusions": conclude(compare, claims),
        "reproduce": [command],
        "configuration": yaml.safe_dump(compare.model_dump(mode="json", exclude_unset=True), sort_keys=False),
    })  # fmt: skip


def describe(job: Job, state: str, run: Found | None, tasks: Sequence[str]) -> dict[str, Any]:
    about: dict[str, Any] = {
        "name": job.name, "arm": job.arm, "order": job.order, "lr_spans": job.lr_spans, "seed": job.seed,
        "stages": [stage.steps for stage in job.config.stages()],
    }  # fmt: skip
    if run is None:
        return about | {"state": state}
    keys = ("tokens", "stage", "task", "loss", "metric")
    curve = [[record[key] for key in keys] for record in run.curve]
    return about | {"state": state, "curve": curve, "loss": run.loss, "metric": run.metric} | run.cost


def metrics_of(runs: Iterable[Found], tasks: Sequence[str]) -> dict[str, dict]:
    known = {record["task"]: record for run in runs for record in run.curve}
    return {
        task: {"name": known[task]["metric_name"], "chance": known[task]["chance"], "loss": known[task]["chance_loss"]}
        for task in tasks
        if task in known
    }


def over_seeds(seeds: Seeds, value: Callable[[Found], float]) -> list[float] | None:
    """Mean and interval over seeds of the mean over orders; None where it is undefined."""
    values = [float(np.mean([value(run) for run in runs])) for runs in seeds.values()]
    return None if np.isnan(values).any() else list(mean_interval(values))


def arm_found(spans: str, arm: str, seeds: Seeds, joint: Seeds, tasks: Sequence[str]) -> dict[str, Any]:
    every = [run for runs in seeds.values() for run in runs]
    costs = {key: float(np.mean([run.cost[key] for run in every])) for key in every[0].cost}

    def stubbornness(run: Found) -> float:
        reference = joint.get(run.job.seed)
        return mean_of(lambda matrix: intransigence(matrix, reference[0].metric[-1]), run) if reference else np.nan

    return {
        "lr_spans": spans, "arm": arm, "runs": len(every), **costs,
        "average": over_seeds(seeds, lambda run: float(run.metric[-1].mean())),
        "backward_transfer": over_seeds(seeds, lambda run: mean_of(backward_transfer, run)),
        "forgetting": over_seeds(seeds, lambda run: mean_of(forgetting, run)),
        "intransigence": over_seeds(seeds, stubbornness),
        "last": {task: over_seeds(seeds, last(at, "metric")) for at, task in enumerate(tasks)},
        "last_loss": {task: over_seeds(seeds, last(at, "loss")) for at, task in enumerate(tasks)},
    }  # fmt: skip


def last(task: int, matrix: str) -> Callable[[Found], float]:
    """Of one task, after the last stage."""
    return lambda run: float(getattr(run, matrix)[-1, task])


def mean_of(measure: Callable[[np.ndarray], np.ndarray], run: Found) -> float:
    """Over the tasks for which it is defined; NaN where there is none, or where a task was never trained."""
    if np.isnan(run.metric[-1]).any():
        return np.nan
    values = measure(run.metric)
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan


def downstream_found(compare: CompareConfig, arms: Mapping[tuple[str, str], Seeds]) -> dict[str, Any]:
    """Of every arm, over seeds of pre-training, and of the checkpoints beside them, over seeds of fine-tuning."""
    rows, about = [], dict[str, Result]()
    for (spans, arm), seeds in arms.items():
        every = [run.results for runs in seeds.values() for run in runs]
        names = [result.task for result in every[0]] if every else []
        per_seed = [
            {task: float(np.mean([r.score for run in runs for r in run.results if r.task == task])) for task in names}
            for runs in seeds.values()
        ]
        if names:
            rows.append({"lr_spans": spans, "arm": arm, "runs": len(every)} | summary(per_seed))
        about |= {result.task: result for results in every for result in results}
    for checkpoint in compare.beside:
        results = [r for r in results_in(compare.folder() / "beside") if r.checkpoint == checkpoint]
        per_seed = [{r.task: r.score for r in results if r.seed == seed} for seed in sorted({r.seed for r in results})]
        if per_seed:
            rows.append({"lr_spans": None, "arm": checkpoint, "runs": 1} | summary(per_seed))
    tasks = {
        name: {"metric": r.metric, "chance": r.chance, "split": r.split, "examples": len(r.labels)}
        for name, r in about.items()
    }
    return {"downstream": rows, "downstream_tasks": tasks}


def summary(per_seed: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Minimal pairs beside the arms have one seed only: no average has an interval then."""
    tasks = {task: list(mean_interval([s[task] for s in per_seed if task in s])) for task in per_seed[0]}
    complete = [s for s in per_seed if s.keys() == per_seed[0].keys()]
    return {"tasks": tasks, "average": list(mean_interval([float(np.mean(list(s.values()))) for s in complete]))}


def plain(thing: Any) -> Any:
    """As JSON has it: NaN and what is undefined become null."""
    if isinstance(thing, Mapping):
        return {key: plain(value) for key, value in thing.items()}
    if isinstance(thing, np.ndarray):
        return plain(thing.tolist())
    if isinstance(thing, list | tuple):
        return [plain(value) for value in thing]
    return None if isinstance(thing, float) and math.isnan(thing) else thing
