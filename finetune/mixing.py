"""Which task, and which of its examples, every step of training together learns from.

A function of (seed, epoch, index) and of nothing that was drawn before. A task's examples come pass after pass, every
pass in a new order; an epoch goes on where the one before left off.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from finetune.declare import TOGETHER, Mixing
from pretrain.data.feed import order

WINDOW = 50
"""Batches among whose examples those of like length are put together; as transformers' Trainer does."""


class Pool(NamedTuple):
    """The examples that a task has for training."""

    name: str
    sizes: Sequence[int]
    """Tokens of each example."""
    batch_size: int

    @property
    def batches(self) -> int:
        """Of one pass; the last may be smaller."""
        return -(-len(self.sizes) // self.batch_size)


class Turn(NamedTuple):
    """One step."""

    task: int
    """Which of the pools."""
    examples: list[int]


def exponent(mixing: Mixing, epoch: int, epochs: int) -> float:
    """A task's share is its number of batches to this power. `annealed` goes from 1 to 0, linearly over the epochs.

    Stickland & Murray 2019 (BERT and PALs, annealed sampling) stop at 0.2; here the last epoch is uniform.
    """
    return {"proportional": 1.0, "annealed": 1 - epoch / max(1, epochs - 1), "uniform": 0.0}[mixing]


def shares(batches: Sequence[int], power: float) -> list[int]:
    """Steps of each task in an epoch, which has as many as there are batches; largest remainders get what is left."""
    weights = np.asarray(batches, float) ** power
    exact = sum(batches) * weights / weights.sum()
    steps = np.floor(exact).astype(int)
    first = np.argsort(steps - exact, kind="stable")[: sum(batches) - steps.sum()]
    steps[first] += 1
    return steps.tolist()


def one_pass(pool: Pool, seed: int, number: int) -> list[list[int]]:
    """All examples once, in batches of like length."""
    size = len(pool.sizes)
    shuffled = [order(number * size + place, size, seed, pool.name)[1] for place in range(size)]
    window = WINDOW * pool.batch_size
    grouped = [
        example
        for begin in range(0, size, window)
        for example in sorted(shuffled[begin : begin + window], key=lambda example: pool.sizes[example])
    ]
    batches = [grouped[begin : begin + pool.batch_size] for begin in range(0, size, pool.batch_size)]
    count, name = len(batches), f"{pool.name}/batches"
    return [batches[order(number * count + place, count, seed, name)[1]] for place in range(count)]


def turns(pools: Sequence[Pool], mixing: Mixing, seed: int, epoch: int, epochs: int) -> list[Turn]:
    """The steps of an epoch, which is counted from 0."""
    batches = [pool.batches for pool in pools]
    history = [shares(batches, exponent(mixing, before, epochs)) for before in range(epoch + 1)]
    begun = np.sum(history[:-1], axis=0, dtype=int) if epoch else np.zeros(len(pools), int)
    steps = []
    for task, (pool, first, count) in enumerate(zip(pools, begun.tolist(), history[-1], strict=True)):
        passes = range(first // pool.batches, (first + count - 1) // pool.batches + 1)
        coming = [batch for number in passes for batch in one_pass(pool, seed, number)]
        skipped = first % pool.batches
        steps += [Turn(task, batch) for batch in coming[skipped : skipped + count]]
    return [steps[order(epoch * len(steps) + index, len(steps), seed, TOGETHER)[1]] for index in range(len(steps))]
