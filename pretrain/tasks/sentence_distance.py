"""Sentence distance: are two spans adjacent, of one document, or of two (ERNIE 2.0 §4.2.2)?

A document is cut into spans of whole sentences. Each span that is followed by another and by a later one gives one
instance of every class, so classes are equally frequent and the first span never tells the label. Nor does length: the
later spans are cut alike, and the one from another document is drawn from those nearest in length to the adjacent one.
Spans stand in the order of the text: "adjacent" is always forward. The three instances come in random order, so that
reading every third does not meet one class alone.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from random import Random

from pretrain.tasks.metrics import accuracy_beside_majority
from pretrain.tasks.runs import join
from pretrain.tasks.spec import Family, Head, Instance, Pool, Run, Sentence, TaskSpec

NAME = "sentence_distance"
CLASSES = ADJACENT, SAME_DOCUMENT, OTHER_DOCUMENT = range(3)
NEAR = 8
"""Spans on either side, by length, among which the one from another document is drawn."""


def build(pool: Pool) -> Iterator[Instance]:
    limit = pool.settings.room(2) // 2
    spans = {document.id: cut(document.sentences, limit, pool.rng(NAME, document.id)) for document in pool.documents}
    by_length = ByLength(spans, pool.rng(NAME))
    for id, runs in spans.items():
        rng = pool.rng(NAME, id, "pairs")
        for i, (first, adjacent) in enumerate(pairwise(runs[:-1])):
            others = by_length.alike(adjacent.length, id, rng)
            if first.stop == adjacent.start and others:
                later, other = runs[rng.randrange(i + 2, len(runs))], rng.choice(others)
                seconds = {ADJACENT: adjacent, SAME_DOCUMENT: later, OTHER_DOCUMENT: other}
                for label in rng.sample(CLASSES, 3):
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


class ByLength:
    """The spans of all documents in the order of their length; equally long ones at random."""

    def __init__(self, spans: Mapping[str, Sequence[Run]], rng: Random):
        found = sorted((run.length + rng.random(), id, run) for id, runs in sorted(spans.items()) for run in runs)
        self.places, self.owners, self.runs = map(list, zip(*found, strict=True)) if found else ([], [], [])

    def alike(self, length: int, id: str, rng: Random) -> list[Run]:
        """Spans of other documents, as near in length as there are; equally long ones are met at random."""
        place = bisect_left(self.places, length + rng.random())
        reach = NEAR
        while True:
            near = slice(max(0, place - reach), place + reach)
            owners, runs = self.owners[near], self.runs[near]
            others = [run for owner, run in zip(owners, runs, strict=True) if owner != id] if id in owners else runs
            if others or len(runs) == len(self.runs):
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
