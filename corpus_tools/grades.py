"""Graded sets: somebody judged how well a title answers a query (IR relevance).

A file is TSV, CSV or JSONL with `query` (or text_a), `title` (or text_b) and `grade` (or label): 2 is very relevant, 1
somewhat, 0 not. The classes of the task count the other way, 0 is the best:

    0 strong    grade 2
    1 weak      grade 1
    2 random    grade 0

Every judged pair is an instance, so the mix of classes is that of the set. A pair that was judged several times,
whatever the case in which it is written, has the grade given most often; where two are equally frequent, the lower.
All pairs of a query are held out together.

The set is kept in memory while the corpus is built, some 400 bytes and the text a pair
where a query has one title, less where it has many.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from corpus_tools.document import Refused, hashed, reasons
from corpus_tools.readers import Refusal
from corpus_tools.tables import Form, Row, Spellings, read_rows, worded
from pretrain.tasks.ir_relevance import NAME, RANDOM, STRONG, WEAK
from pretrain.tasks.spec import Instance, Pool

FORM = Form(
    "corpus.grades",
    "a graded set",
    (".tsv", ".csv", ".jsonl"),
    {"query": ("query", "text_a"), "title": ("title", "text_b"), "grade": ("grade", "label")},
)
CLASSES = {"2": STRONG, "1": WEAK, "0": RANDOM}
SUMMARY = "how well a title answers a query: very well, somewhat or not (labels from a graded set)"
NEEDS = "a graded set with two grades or more, held-out queries included"


class Judged(NamedTuple):
    """A query and its titles."""

    text: str
    strong: tuple[str, ...]
    weak: tuple[str, ...]
    random: tuple[str, ...]

    @property
    def id(self) -> str:
        """Decides, as the id of a document does, whether it is held out."""
        return self.text

    @property
    def size(self) -> int:
        """Bytes of text."""
        return sum(len(text.encode()) for text in (self.text, *self.strong, *self.weak, *self.random))


class Grades:
    """Every row is a judgement of a pair, or refused and counted."""

    def __init__(self, patterns: Sequence[str], max_bytes: int):
        """Raises ValueError where a file cannot be read or lacks a column."""
        self.found = 0
        self.refused: list[Refused] = []
        self.titles: dict[str, dict[str, tuple[int, ...]]] = {}
        """Of every query the titles, and how often each was found of each class."""
        self.spellings = Spellings()
        self.tallies: dict[tuple[int, ...], tuple[int, ...]] = {}
        """Every different value of `titles`, kept once."""
        for where, row in read_rows(patterns, FORM, max_bytes):
            self.found += 1
            try:
                self.add(row)
            except Refusal as refusal:
                self.refused.append(Refused(where, str(refusal)))

    def add(self, row: Row | Refusal) -> None:
        if isinstance(row, Refusal):
            raise row
        texts = [worded(row, column) for column in ("query", "title")]
        kind = CLASSES.get(row["grade"].strip())
        if kind is None:
            raise Refusal("grade is not 0, 1 or 2")
        query, title = map(self.spellings.first, texts)
        titles = self.titles.setdefault(query, {})
        tally = list(titles.get(title, (0, 0, 0)))
        tally[kind] += 1
        titles[title] = self.tallies.setdefault(tuple(tally), tuple(tally))

    def items(self) -> Iterator[Judged]:
        """In an order that does not follow the files."""
        for text in sorted(self.titles, key=hashed):
            titles = self.titles[text]
            yield Judged(text, *(tuple(sorted(t for t in titles if settled(titles[t]) == k)) for k in range(3)))

    def size(self) -> int:
        """Bytes of text in all pairs."""
        return sum(len(text.encode()) for query, titles in self.titles.items() for text in (query, *titles))

    def counts(self) -> dict:
        """As the manifest tells them: rows, and what they add up to."""
        tallies = [tally for titles in self.titles.values() for tally in titles.values()]
        classes = list(map(settled, tallies))
        return {
            "in": self.found,
            "used": self.found - len(self.refused),
            "refused": reasons(self.refused),
            "queries": len(self.titles),
            "strong": classes.count(STRONG),
            "weak": classes.count(WEAK),
            "random": classes.count(RANDOM),
            "judged differently": sum(tally.count(0) < 2 for tally in tallies),
        }


def settled(tally: Sequence[int]) -> int:
    """The class of most judgements; of equally frequent ones that of the lower grade, which comes last."""
    return max(range(3), key=lambda kind: (tally[kind], kind))


def label(queries: Sequence[Judged], pool: Pool) -> Iterator[Instance]:
    """(query, title) and its class, the titles of a query in random order."""
    for query in queries:
        classes = {title: kind for kind, titles in enumerate(query[1:]) for title in titles}
        for title in pool.rng(NAME, "grades", query.text).sample(list(classes), len(classes)):
            yield Instance((query.text, title), classes[title])
