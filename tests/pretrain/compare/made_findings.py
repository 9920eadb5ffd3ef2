"""Findings that no run has found: what `find` returns, made by formula."""

import math
from random import Random
from typing import Any

from pretrain.compare.experiment import ORDERED
from pretrain.schedule import SCHEDULES, sequential
from pretrain.tasks import TASKS

FAMILIES = [
    ["knowledge_masking", "capitalization", "token_document"],
    ["sentence_reordering", "sentence_distance"],
    ["discourse_relation", "ir_relevance"],
]
GROUPS = ["word-aware", "structure-aware", "semantic-aware"]
NAMES = [task for family in FAMILIES for task in family]
CHANCE = {"knowledge_masking": (0.061, 6.81, "accuracy"), "capitalization": (0.393, 0.556, "F1"),
          "token_document": (0.5, 0.647, "balanced accuracy"), "sentence_reordering": (0.29, 3.097, "accuracy"),
          "sentence_distance": (0.346, 1.098, "accuracy"), "discourse_relation": (0.318, 2.851, "accuracy"),
          "ir_relevance": (0.346, 1.098, "accuracy")}  # fmt: skip
DOWNSTREAM = {"sst2": ("accuracy", 0.509, "validation", 872), "mrpc": ("F1", 0.812, "test", 1725),
              "stsb": ("Spearman", 0.0, "validation", 1500), "rte": ("accuracy", 0.527, "validation", 277)}  # fmt: skip
BUDGET, TOKENS = 480, 1250


def make_findings(
    arms: tuple[str, ...] = ("continual", "joint", "sequential", "pyramid"),
    seeds: int = 2,
    lr_spans: tuple[str, ...] = ("run",),
    orders: int = 1,
    downstream: bool = True,
    missing: tuple[str, ...] = (),
    name: str = "compare-en",
    variants: dict[str, dict] | None = None,
    claims: tuple[tuple[str, str], ...] = (("sequential", "joint"), ("sequential", "continual")),
) -> dict[str, Any]:
    """`missing`: names of the runs that are not finished."""
    runs = [
        make_run(arm, order, spans, seed, missing)
        for seed in range(seeds)
        for spans in lr_spans
        for order in range(1, orders + 1)
        for arm in arms
        if order == 1 or arm in ORDERED
    ]
    found = [make_arm(spans, arm, runs) for spans in lr_spans for arm in arms]
    claimed = [make_claim(first, second, spans) for spans in lr_spans for first, second in claims]
    return {
        "name": name, "primary": "validation", "arms": list(arms), "variants": variants or {},
        "orders": orders, "seeds": seeds, "lr_spans": list(lr_spans), "groups": GROUPS, "tasks": NAMES,
        "metrics": {task: dict(zip(("chance", "loss", "name"), about, strict=True)) for task, about in CHANCE.items()},
        "runs": runs, "arms_found": [arm for arm in found if arm],
        "downstream": [*(make_downstream(s, a) for s in lr_spans for a in arms), make_downstream(None, "demo:minilm")]
        if downstream else [],
        "downstream_tasks": {
            task: dict(zip(("metric", "chance", "split", "examples"), about, strict=True))
            for task, about in DOWNSTREAM.items()
        } if downstream else {},
        "claims": claimed,
        "conclusions": [
            "sequential is better than continual in the mean validation metric of the tasks after the last stage: "
            "+0.0312, 95 % interval +0.0150 to +0.0480, p = 0.004 after Holm, 4 seeds.",
            "No difference between sequential and joint is shown in it: +0.0021, 95 % interval −0.0110 to +0.0150.",
        ],
        "reproduce": ["cumul compare configs/compare/en.yaml 'corpus.sources=[wiki.jsonl]'"],
        "configuration": "name: compare-en\narms: [continual, joint]\nrun:\n  schedule:\n    steps_per_task: 480\n",
    }  # fmt: skip


def make_run(arm: str, order: int, spans: str, seed: int, missing: tuple[str, ...]) -> dict[str, Any]:
    groups = FAMILIES[order - 1 :] + FAMILIES[: order - 1]
    stages = [stage.steps for stage in SCHEDULES.get(arm, sequential)(groups, BUDGET)]
    about = {
        "name": f"{arm}.{spans}.order{order}.seed{seed}", "arm": arm, "order": order, "lr_spans": spans, "seed": seed,
        "stages": stages,
    }  # fmt: skip
    if about["name"] in missing:
        return about | {"state": "begun" if seed else "missing"}
    curve = make_curve(stages, Random(f"{arm}{order}{spans}{seed}"))
    last = {(point[1], point[2]): point for point in curve}
    matrix = [[last.get((number + 1, task)) for task in NAMES] for number in range(len(stages))]
    steps = sum(sum(stage.values()) for stage in stages)
    return about | {
        "state": "finished", "steps": steps, "tokens": curve[-1][0], "seconds": 3000.0 + 17 * seed, "flops": 1.41e14,
        "curve": curve, "loss": [[point and point[3] for point in row] for row in matrix],
        "metric": [[point and point[4] for point in row] for row in matrix],
    }  # fmt: skip


def make_curve(stages: list[dict[str, int]], rng: Random) -> list[list]:
    """Training lowers the loss of a task, and training of others lifts it again."""
    skill, tokens, points = dict.fromkeys(NAMES, 0.0), 0, []
    for number, stage in enumerate(stages, 1):
        for _ in range(4):
            tokens += round(sum(stage.values()) / 4 * TOKENS * (1 + rng.uniform(-0.01, 0.01)))
            for task in skill:
                skill[task] = skill[task] * 0.97 + min(1, stage.get(task, 0) / 4 / BUDGET) * (1 - skill[task]) * 0.9
            known = {task for before in stages[:number] for task in before}
            for task in (task for task in NAMES if task in known):
                chance, loss, _ = CHANCE[task]
                share = max(-0.05, skill[task] * (0.1 if task == "sentence_reordering" else 1) + rng.gauss(0, 0.015))
                points.append([tokens, number, task, loss * math.exp(-share), chance + (1 - chance) * share])
    return points


def estimate(values: list[float]) -> list[float | None]:
    mean = sum(values) / len(values)
    if len(values) < 2:
        return [mean, None, None]
    half = 1.7 * (max(values) - min(values))
    return [mean, mean - half, mean + half]


def make_arm(spans: str, arm: str, runs: list[dict]) -> dict[str, Any] | None:
    mine = [run for run in runs if (run["arm"], run["lr_spans"], run["state"]) == (arm, spans, "finished")]
    if not mine:
        return None
    one, whole = len(mine[0]["stages"]) == 1, arm != "alone"

    def last(measure: str, at: int) -> list[float | None] | None:
        values = [run[measure][-1][at] for run in mine]
        return None if None in values else estimate(values)

    return {
        "lr_spans": spans, "arm": arm, "runs": len(mine),
        **{key: sum(run[key] for run in mine) / len(mine) for key in ("tokens", "seconds", "flops")},
        "average": estimate([sum(run["metric"][-1]) / len(NAMES) for run in mine]) if whole else None,
        "backward_transfer": None if one else estimate([-0.034 + 0.002 * run["seed"] for run in mine]),
        "forgetting": None if one else estimate([0.041 - 0.003 * run["seed"] for run in mine]),
        "intransigence": estimate([0.012 + 0.001 * run["seed"] for run in mine]) if whole else None,
        "last": {task: last("metric", at) for at, task in enumerate(NAMES)},
        "last_loss": {task: last("loss", at) for at, task in enumerate(NAMES)},
    }  # fmt: skip


def make_downstream(spans: str | None, arm: str) -> dict[str, Any]:
    rng = Random(f"{spans}{arm}")
    means = {task: 0.62 + 0.3 * rng.random() for task in DOWNSTREAM}
    tasks = {task: [mean, mean - 0.011, mean + 0.012] for task, mean in means.items()}
    average = sum(means.values()) / len(means)
    mean = [average, average - 0.006, average + 0.006]
    return {"lr_spans": spans, "arm": arm, "tasks": tasks, "average": mean, "runs": 2}


def make_claim(first: str, second: str, spans: str) -> dict[str, Any]:
    common = {"first": first, "second": second, "lr_spans": spans, "seeds": 4}
    if second == "joint":
        numbers = {"difference": 0.00213, "low": -0.01104, "high": 0.01503, "p": 0.351, "p_holm": 0.351}
        return common | numbers | {"verdict": "no difference shown"}
    numbers = {"difference": 0.03121, "low": 0.01502, "high": 0.04801, "p": 0.002, "p_holm": 0.004}
    return common | numbers | {"verdict": "better"}


assert list(TASKS) == NAMES, "the tasks are no longer those that these findings are about"
