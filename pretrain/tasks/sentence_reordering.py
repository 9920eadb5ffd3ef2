"""Sentence reordering: in which order do shuffled segments of a text stand (ERNIE 2.0 §4.2.2)?

A stretch of whole sentences is cut into n ≤ m segments, which are shuffled. The label is the permutation that was
applied, not its inverse: with order = ORDERS[label], the segment shown at place i is the order[i]-th of the text.
Classes are sorted by n, then lexicographically, so a label means the same for every m; m = 4 gives 1! + 2! + 3! + 4! =
33 of them.

The class is drawn uniformly from those that the number of sentences allows: drawing n first would give the one order of
n = 1 a quarter of the data. As the [SEP]s show n, guessing reaches 1/n!, and accuracy is reported per n.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise, permutations
from math import factorial

import numpy as np

from pretrain.tasks.metrics import accuracy
from pretrain.tasks.spec import Family, Head, Instance, Pool, Score, Sentence, Settings, TaskSpec, Tokens

MAX_SEGMENTS = 6
ORDERS = tuple(order for n in range(1, MAX_SEGMENTS + 1) for order in permutations(range(n)))
SIZES = np.array([len(order) for order in ORDERS])


def build(pool: Pool) -> Iterator[Instance]:
    room = pool.settings.room(pool.settings.max_segments)
    for document in pool.documents:
        for stretch in stretches(document.sentences, room):
            if len(stretch) > 1:
                yield Instance(tuple(sentence.run for sentence in stretch))


def stretches(sentences: Sequence[Sentence], room: int) -> Iterator[list[Sentence]]:
    """Consecutive sentences that fill the room; one that exceeds it ends a stretch and is in none."""
    stretch: list[Sentence] = []
    left = room
    for sentence in sentences:
        if sentence.run.length > left:
            yield stretch
            stretch, left = [], room
        if sentence.run.length <= left:
            stretch.append(sentence)
            left -= sentence.run.length
    yield stretch


def draw(sentences: list[Tokens], label: int, rng: np.random.Generator, settings: Settings) -> tuple[list[Tokens], int]:
    label = int(rng.integers(num_classes(min(settings.max_segments, len(sentences)))))
    order = ORDERS[label]
    borders = [0, len(sentences)]
    if len(order) > 1:
        borders[1:1] = sorted((1 + rng.choice(len(sentences) - 1, len(order) - 1, replace=False)).tolist())
    segments = [concatenate(sentences[a:b]) for a, b in pairwise(borders)]
    return [segments[i] for i in order], label


@cache
def num_classes(max_segments: int) -> int:
    return sum(factorial(n) for n in range(1, max_segments + 1))


def concatenate(sentences: Sequence[Tokens]) -> Tokens:
    if len(sentences) == 1:
        return sentences[0]
    return Tokens(np.concatenate([s.ids for s in sentences]), np.concatenate([s.annotations for s in sentences]))


def labels(settings: Settings) -> list[str]:
    """The places of the shown segments in the text, counted from 1: `2 1 3`."""
    return [" ".join(str(i + 1) for i in order) for order in ORDERS[: num_classes(settings.max_segments)]]


def metric(labels: np.ndarray, predictions: np.ndarray) -> Score:
    sizes = SIZES[labels]
    by_size = {f"n={n}": accuracy(labels[sizes == n], predictions[sizes == n]) for n in np.unique(sizes).tolist()}
    chance = [1 / factorial(n) for n in sizes.tolist()]
    return Score(accuracy(labels, predictions), sum(chance) / max(1, len(chance)), by_size)


SPEC = TaskSpec(
    name="sentence_reordering",
    family=Family.STRUCTURE,
    head=Head.SEQUENCE,
    summary="the order in which shuffled segments stand in the text",
    build=build,
    draw=draw,
    labels=labels,
    metric_name="accuracy",
    metric=metric,
    needs="documents with at least two consecutive sentences that fit one sequence",
)
