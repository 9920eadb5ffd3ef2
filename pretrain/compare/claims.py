"""The claims of a comparison: tested over seeds and examples, and said in sentences."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune.metrics import METRICS
from pretrain.compare.experiment import CompareConfig
from pretrain.compare.runs import Found, Seeds
from pretrain.compare.statistics import LEAST_SEEDS, Difference, Sample, holm, multi_bootstrap

SURE = 0.05


Sides = Sequence[Sequence[Sequence[Found]]]
"""Two arms × seeds × orders."""


def make_claims(compare: CompareConfig, arms: Mapping[tuple[str, str], Seeds], tasks: Sequence[str]) -> list[dict]:
    """Holm counts every claim that was declared, those that cannot be tested yet with p = 1."""
    claims: list[dict[str, Any]] = []
    found: list[Difference | None] = []
    for spans in compare.lr_spans:
        for first, second in compare.claims:
            one, other = arms[spans, first], arms[spans, second]
            shared = sorted(one.keys() & other.keys())
            difference = None
            if len(shared) >= 2:
                sides = [[one[seed] for seed in shared], [other[seed] for seed in shared]]
                make = validation_samples if compare.primary == "validation" else downstream_samples
                difference = multi_bootstrap(make(sides, tasks), len(shared))
            claims.append({"first": first, "second": second, "lr_spans": spans, "seeds": len(shared)})
            found.append(difference)
    enough = [claim["seeds"] >= LEAST_SEEDS for claim in claims]
    adjusted = holm([d.p if d is not None and ok else 1.0 for d, ok in zip(found, enough, strict=True)])
    for claim, difference, ok, p in zip(claims, found, enough, adjusted, strict=True):
        shown = difference or Difference(np.nan, np.nan, np.nan, np.nan)
        claim |= {"difference": shown.mean, "low": shown.low, "high": shown.high}
        claim |= {"p": shown.p if ok else None, "p_holm": p if ok else None}
        claim["verdict"] = verdict(shown, p) if ok else f"fewer than {LEAST_SEEDS} seeds: nothing is claimed"
    return claims


def verdict(difference: Difference, p: float) -> str:
    if p >= SURE:
        return "no difference shown"
    return "better" if difference.mean > 0 else "worse"


def validation_samples(sides: Sides, tasks: Sequence[str]) -> list[Sample]:
    def sample(task: str) -> Sample:
        def score(instances: np.ndarray) -> np.ndarray:
            return np.array([
                [np.mean([run.answers[task].score(instances) for run in runs]) for runs in side] for side in sides
            ])  # fmt: skip

        return Sample(len(sides[0][0][0].answers[task].sizes), score)

    return [sample(task) for task in tasks]


def downstream_samples(sides: Sides, _tasks: Sequence[str]) -> list[Sample]:
    """Fine-tunings of a checkpoint are averaged: they tell about it, not about more of its kind."""

    def sample(task: str) -> Sample:
        mine = [[[r for run in runs for r in run.results if r.task == task] for runs in side] for side in sides]
        one = mine[0][0][0]
        metric, labels = METRICS[one.metric], one.labels

        def score(examples: np.ndarray) -> np.ndarray:
            chosen = [labels[at] for at in examples]
            return np.array([
                [np.mean([metric(chosen, [r.predictions[at] for at in examples]) for r in results]) for results in side]
                for side in mine
            ])  # fmt: skip

        return Sample(len(labels), score)

    return [sample(task) for task in dict.fromkeys(result.task for result in sides[0][0][0].results)]


def conclude(compare: CompareConfig, claims: Sequence[dict]) -> list[str]:
    """What may be said, in sentences."""
    measure = "the mean validation metric of the tasks after the last stage"
    if compare.primary == "downstream":
        measure = "the mean of the downstream tasks"
    said = []
    for claim in claims:
        first, second = claim["first"], claim["second"]
        policy = "" if len(compare.lr_spans) == 1 else f" (learning rate over the {claim['lr_spans']})"
        if math.isnan(claim["difference"]):
            said.append(f"{first} against {second}{policy}: fewer than two seeds are finished, so nothing can be said.")
            continue
        size = f"{claim['difference']:+.4f}, 95 % interval {claim['low']:+.4f} to {claim['high']:+.4f}".replace(
            "-", "−"
        )
        if claim["p_holm"] is None:
            said.append(
                f"{first} − {second}{policy} in {measure}: {size}. With {claim['seeds']} seeds nothing is claimed."
            )
        elif claim["p_holm"] >= SURE:
            said.append(
                f"No difference between {first} and {second}{policy} is shown in {measure}: {size}, "
                f"p = {claim['p_holm']:.3f} after Holm, {claim['seeds']} seeds."
            )
        else:
            said.append(
                f"{first} is {claim['verdict']} than {second}{policy} in {measure}: {size}, "
                f"p = {claim['p_holm']:.3f} after Holm, {claim['seeds']} seeds."
            )
    return said
