"""Statistics of a comparison: what is forgotten, and what the seeds and examples at hand allow to be said.

A matrix has a row for every stage of a run and a column for every task; higher is better, NaN means not yet trained.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, t

LEVEL = 0.95
REPEATS = 2000
LEAST_SEEDS = 4
"""With fewer, intervals are shown and nothing is claimed."""


class Estimate(NamedTuple):
    mean: float
    low: float
    high: float


class Difference(NamedTuple):
    mean: float
    low: float
    high: float
    p: float
    """Two-sided; at least 2 / (REPEATS + 1)."""


class Sample(NamedTuple):
    """One task's test set, on which two arms are measured."""

    examples: int
    score: Callable[[np.ndarray], np.ndarray]
    """Numbers of examples, with repetition -> scores of both arms on them, shape (2, seeds)."""


def first_stages(matrix: np.ndarray) -> np.ndarray:
    """Per task, the first stage that trains it. Raises ValueError where none does."""
    known = ~np.isnan(matrix)
    if not known.any(axis=0).all():
        raise ValueError("a task has no score after any stage")
    return known.argmax(axis=0)


def backward_transfer(matrix: np.ndarray) -> np.ndarray:
    """Per task: after the last stage − after its first one (Lopez-Paz & Ranzato 2017). NaN: one stage."""
    return matrix[-1] - where_returned(matrix, lambda column, first: column[first])


def forgetting(matrix: np.ndarray) -> np.ndarray:
    """Per task: the best before the last stage − after it (Chaudhry et al. 2018). NaN: only there."""
    return where_returned(matrix, lambda column, first: column[first:-1].max()) - matrix[-1]


def intransigence(matrix: np.ndarray, joint: np.ndarray) -> np.ndarray:
    """Per task: trained jointly − after its first stage (Chaudhry et al. 2018)."""
    return joint - matrix[first_stages(matrix), np.arange(matrix.shape[1])]


def where_returned(matrix: np.ndarray, read: Callable[[np.ndarray, int], float]) -> np.ndarray:
    last = len(matrix) - 1
    firsts = first_stages(matrix)
    return np.array([
        read(matrix[:, task], first) if first < last else np.nan for task, first in enumerate(firsts)
    ])  # fmt: skip


def mean_interval(values: Sequence[float]) -> Estimate:
    """Mean with Student's interval; bounds are NaN for a single value."""
    found = np.asarray(values, float)
    mean = float(found.mean())
    if len(found) < 2:
        return Estimate(mean, np.nan, np.nan)
    half = t.ppf((1 + LEVEL) / 2, len(found) - 1) * found.std(ddof=1) / len(found) ** 0.5
    return Estimate(mean, mean - half, mean + half)


def multi_bootstrap(samples: Sequence[Sample], seeds: int, repeats: int = REPEATS) -> Difference:
    """First arm − second, averaged over tasks: seeds and examples are drawn anew, the same for both arms.

    Sellam et al. 2021 (MultiBERTs), paired by seed. With few seeds their percentiles are too narrow (4 seeds: 80 % of
    them hold the truth), so deviations are widened by √(n/(n−1)) · t/z, after Hesterberg 2015. Raises ValueError for
    fewer than two seeds.
    """
    if seeds < 2:
        raise ValueError(f"an interval over seeds needs two or more, got {seeds}")
    whole = np.mean([scores(sample, np.arange(sample.examples)) for sample in samples], axis=0)
    mean = float((whole[0] - whole[1]).mean())
    rng = np.random.default_rng(0)
    drawn = np.empty(repeats)
    for repeat in range(repeats):
        chosen = rng.integers(seeds, size=seeds)
        means = [scores(s, rng.integers(s.examples, size=s.examples))[:, chosen].mean(axis=1) for s in samples]
        first, second = np.mean(means, axis=0)
        drawn[repeat] = first - second
    upper = (1 + LEVEL) / 2
    wider = mean + (drawn - mean) * (seeds / (seeds - 1)) ** 0.5 * t.ppf(upper, seeds - 1) / norm.ppf(upper)
    low, high = np.quantile(wider, [1 - upper, upper])
    tail = 1 + min((wider <= 0).sum(), (wider >= 0).sum())
    return Difference(mean, float(low), float(high), float(min(1.0, 2 * tail / (repeats + 1))))


def scores(sample: Sample, examples: np.ndarray) -> np.ndarray:
    return np.asarray(sample.score(examples), float)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values that hold for all claims together (Holm 1979), in the order given."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, claim in enumerate(sorted(range(len(p_values)), key=lambda claim: p_values[claim])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[claim]))
        adjusted[claim] = highest
    return adjusted
