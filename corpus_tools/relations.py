"""Marked pairs: two texts and what joins them, a marker that was removed or a relation that somebody named.

A file is TSV, CSV or JSONL with `sentence1` (or text_a), `sentence2` (or text_b) and `label`, as the data of Discovery
(Sileo et al. 2019), or a relation file of DISRPT (.rels), tab separated, with `unit1_txt`, `unit2_txt`, `label` and
`doc`. All may have a `doc`, the document that a pair comes from: all its pairs are held out together. A pair without
one is held out by its text.

The classes are the labels of the files as they are written (`as_a_result,` and `as_a_result` are two), sorted by name.
Nothing is balanced: the mix of classes is that of the files. A class of which no pair would be trained on, because all
are held out, is dropped, its pairs are refused and counted. A class of few pairs stays, and is named in the counts.
The direction of a DISRPT relation (1>2, 1<2) is no part of it: texts stay in their order, and the label is what the
shared task predicts. A pair that stands in the files twice counts once; one with two labels is an instance of each.

Both sources write spaces between tokens, DISRPT `<*>` for a gap and -LRB- for a bracket: texts are joined as one
writes them.

The pairs are kept in memory while the corpus is built: some 220 bytes and the text a pair, and 180 more while they are
put in order.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from sys import intern
from typing import NamedTuple

from corpus_tools.document import Refused, hashed, held_out, reasons
from corpus_tools.readers import Refusal, tidy
from corpus_tools.tables import Form, Row, read_rows, worded
from pretrain.tasks.spec import Instance, Pool

FORM = Form(
    "corpus.relations",
    "a file of marked pairs",
    (".tsv", ".csv", ".jsonl", ".rels"),
    {
        "sentence1": ("sentence1", "text_a", "unit1_txt"),
        "sentence2": ("sentence2", "text_b", "unit2_txt"),
        "label": ("label",),
        "doc": ("doc",),
    },
    frozenset({"doc"}),
)
GAP = "<*>"
PENN = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}"}
HAN = "[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]"
TOO_MANY_SPACES = re.compile(
    r" (?:(?=(?:[,.;:!?%)\]}…]|n't|'(?:s|re|ve|ll|d|m))(?: |$))"  # cold , is n't it ?
    r"|(?<=[(\[{$] )"  # ( or so )
    rf"|(?<={HAN} )(?={HAN}))"  # 老龄化 对 言语
)
FEW = 10
"""Pairs of a class that are hardly enough to learn it from."""
SUMMARY = "what joins two texts (labels from marked pairs)"
NEEDS = "marked pairs of two classes or more, held-out documents included"


class Pair(NamedTuple):
    first: str
    second: str
    label: str
    doc: str

    @property
    def id(self) -> str:
        """Decides, as the id of a document does, whether it is held out."""
        return self.doc or f"{self.first}\n{self.second}"

    @property
    def size(self) -> int:
        """Bytes of text."""
        return len(self.first.encode()) + len(self.second.encode())


class Relations:
    """Every row is a pair, or refused and counted."""

    def __init__(self, patterns: Sequence[str], max_bytes: int, validation_share: float):
        """Raises ValueError where a file cannot be read or lacks a column."""
        self.found = 0
        self.refused: list[Refused] = []
        self.docs: dict[tuple[str, str, str], str] = {}
        """Every pair with its label, and the document that it comes from; of several the first by name."""
        for where, row in read_rows(patterns, FORM, max_bytes):
            self.found += 1
            try:
                self.add(row)
            except Refusal as refusal:
                self.refused.append(Refused(where, str(refusal)))
        trained = {pair.label for pair in self.pairs() if not held_out(pair.id, validation_share)}
        for pair in sorted(pair for pair in self.pairs() if pair.label not in trained):
            del self.docs[pair[:3]]
            self.refused.append(Refused(pair.id, "its class is in validation alone"))
        self.labels = tuple(sorted(trained))
        """The classes, frozen in the manifest of the corpus."""

    def add(self, row: Row | Refusal) -> None:
        if isinstance(row, Refusal):
            raise row
        first, second = (joined(worded(row, column)) for column in ("sentence1", "sentence2"))
        label = tidy(row["label"])
        if not label:
            raise Refusal("no label")
        key, doc = (first, second, intern(label)), intern(tidy(row["doc"]))
        known = self.docs.get(key)
        self.docs[key] = doc if known is None else min(doc, known)
        if known is not None:
            raise Refusal("duplicate pair")

    def pairs(self) -> Iterator[Pair]:
        return (Pair(*key, doc) for key, doc in self.docs.items())

    def items(self) -> Iterator[Pair]:
        """In an order that does not follow the files, those of one document together."""
        yield from sorted(self.pairs(), key=lambda pair: (hashed(pair.id), pair))

    def size(self) -> int:
        """Bytes of text in all pairs."""
        return sum(pair.size for pair in self.pairs())

    def counts(self) -> dict:
        """As the manifest tells them: rows, and the classes of few pairs."""
        sizes = Counter(label for _, _, label in self.docs)
        return {
            "in": self.found,
            "used": self.found - len(self.refused),
            "refused": reasons(self.refused),
            "classes": len(self.labels),
            "few": {label: sizes[label] for label in self.labels if sizes[label] < FEW},
        }


def joined(text: str) -> str:
    """Tidied tokens as one writes them: `it is n't cold , he said` is `it isn't cold, he said`."""
    for token, mark in {GAP: " ", **PENN}.items():
        text = text.replace(token, mark)
    return TOO_MANY_SPACES.sub("", tidy(text))


def label(pairs: Sequence[Pair], pool: Pool) -> Iterator[Instance]:
    """Both texts, and the number of the label among `pool.settings.relations`."""
    numbers = {name: number for number, name in enumerate(pool.settings.relations)}
    for pair in pairs:
        yield Instance((pair.first, pair.second), numbers[pair.label])
