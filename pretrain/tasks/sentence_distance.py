"""Sentence distance: are two spans adjacent, of one document, or of two (ERNIE 2.0 §4.2.2)?

A document is cut into spans of whole sentences. Each span that is followed by another and by a later one gives one
instance of every class, so classes are equally frequent and the first span never tells the label. Nor does length: the
later spans are cut alike, and the one from another document is drawn from those nearest in length to the adjacent one.
Spans stand in the order of the text: "adjacent" is always forward. The three instances come in random order, so that
reading every third does not meet one class alone.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise
from random import Random

from pretrain.tasks.metrics import accuracy_beside_majority
from pretrain.tasks.runs import join
from pretrain.tasks.spec import Family, Head, Instance, Pool, Run, Sentence, TaskSpec

NAME = "sentence_distance"
ADJACENT, SAME_DOCUMENT, OTHER_DOCUMENT = range(3)
NEAR = 8
"""Spans on either side, by length, among which the one from another document is drawn."""


def build(pool: Pool) -> Iterator[Instance]:
    limit = pool.settings.room(2) // 2
    spans = {document.id: cut(document.sentences, limit, pool.rng(NAME, document.id)) for document in pool.documents}
    shuffled = pool.rng(NAME).random
    by_length = sorted((run.length, shuffled(), id, run) for id, runs in sorted(spans.items()) for run in runs)
    for id, runs in spans.items():
        rng = pool.rng(NAME, id, "pairs")
        for i, (first, adjacent) in enumerate(pairwise(runs[:-1])):
            others = alike(by_length, adjacent.length, id, rng)
            if first.stop == adjacent.start and others:
                later, other = rng.choice(runs[i + 2 :]), rng.choice(others)
                seconds = {ADJACENT: adjacent, SAME_DOCUMENT: later, OTHER_DOCUMENT: other}
                for label in rng.sample(list(seconds), 3):
                    yield Instance((first, seconds[label]), label)


def cut(sentences: Sequence[Sentence], limit: int, rng: Random) -> list[Run]:
    """Spans in order: sentences up to a length drawn anew for each, at least one. One longer than `limit` is left out.

    The length is at most a third of the document, so that a short one still gives three spans.
    """
    longest = min(limit, sum(sentence.run.length for sentence in sentences) // 3)
    spans: list[list[Sentence]] = []
    left = 0
    for sentence in sentences:
        length = sentence.run.length
        if length > limit:
            left = 0
        elif length <= left:
            spans[-1].append(sentence)
            left -= length
        else:
            spans.append([sentence])
            left = rng.randint(longest // 4, longest) - length
    return [join(span) for span in spans]


def alike(by_length: Sequence[tuple[int, float, str, Run]], length: int, id: str, rng: Random) -> list[Run]:
    """Spans of other documents, as near in length as there are; equally long ones are met at random."""
    place = bisect_left(by_length, (length, rng.random()))
    reach = NEAR
    while True:
        near = by_length[max(0, place - reach) : place + reach]
        others = [run for _, _, owner, run in near if owner != id]
        if others or len(near) == len(by_length):
            return others
        reach *= 2


SPEC = TaskSpec(
    name=NAME,
    family=Family.STRUCTURE,
    head=Head.SEQUENCE,
    summary="whether two spans are adjacent, of one document, or of two",
    build=build,
    labels=lambda settings: ("adjacent", "same document", "different documents"),
    metric_name="accuracy",
    metric=accuracy_beside_majority,
    needs="two documents or more, of at least three sentences",
)
