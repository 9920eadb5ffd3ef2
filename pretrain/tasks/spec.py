"""What a pre-training task is. Torch-free: corpus workers import it, label logic tests in microseconds.

Labels are made at two moments. What needs the whole document (pairs, negatives, relevance grades) is *built* once by
the corpus tools; what is worth redrawing every epoch (masks, permutations) is *drawn* when the instance is read, from a
generator addressed by (seed, task, instance, epoch).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from random import Random
from typing import NamedTuple

import numpy as np


class Family(StrEnum):
    """The three groups of tasks, in the order in which the curriculum adds them."""

    WORD = "word-aware"
    STRUCTURE = "structure-aware"
    SEMANTIC = "semantic-aware"


class Head(StrEnum):
    """Where a task reads its prediction; the model builds what the task declares."""

    MASKED_LM = "masked_lm"
    """The original token at labelled positions, through the tied embedding."""
    TOKEN = "token"
    """One class per labelled token."""
    SEQUENCE = "sequence"
    """One class per instance, from the pooled [CLS]."""


# What is known of a token beside its id: one byte of flags. Special tokens carry none.
WORD_START = 0x01
UNIT_START = 0x02
LEVEL = 0x0C
"""Two bits: 0 never masked, else BASIC, PHRASE or ENTITY; the same for every token of a unit."""
BASIC, PHRASE, ENTITY = 0x04, 0x08, 0x0C
CASED = 0x10
"""The token holds a letter that has case; CAPITALISED has a meaning only here."""
CAPITALISED = 0x20
RECURRENCE_KNOWN = 0x40
"""A word in a document of two segments or more; RECURS has a meaning only here."""
RECURS = 0x80


class Run(NamedTuple):
    """Consecutive tokens of a pool's token store: [start, stop)."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start


class Sentence(NamedTuple):
    text: str
    """As written, case and all."""
    run: Run
    """The sentences of a document follow each other without a gap: any span of sentences is one run."""
    paragraph: int
    """Index into `AnnotatedDocument.headings`."""


@dataclass(frozen=True, slots=True)
class AnnotatedDocument:
    """A document as the tasks see it: sentences that point into the token store of its pool."""

    id: str
    title: str | None
    headings: tuple[str | None, ...]
    """Per paragraph: the heading of the section that it stands in."""
    sentences: tuple[Sentence, ...]
    segments: tuple[Run, ...]
    """The document cut at sentence ends into runs that fit one sequence; "another segment" means another of these."""
    neighbours: tuple[int, ...]
    """Other documents of the pool whose text matches this title best (BM25), nearest first; empty without a title."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What all tasks of a corpus share."""

    language: str = "en"
    """`en` or `zh`."""
    max_length: int = 128
    """Tokens in a sequence, [CLS] and [SEP] included."""
    max_segments: int = 4
    """m of sentence reordering: a document is cut into 1..m segments."""
    mask_share: float = 0.15
    """Share of the tokens that knowledge masking predicts."""
    marker_cap: int = 200
    """Instances a shard keeps of one discourse marker."""
    levels: tuple[float, float, float] | None = None
    """Shares of the masked tokens for basic units, phrases and entities, as far as they reach; None: as they come."""
    relations: tuple[str, ...] = ()
    """The classes of discourse relation where marked pairs bring them; none: the markers of the language."""

    def room(self, num_segments: int) -> int:
        """Tokens left for text in a sequence of that many segments: each ends in [SEP], the first follows [CLS]."""
        return self.max_length - 1 - num_segments


class Instance(NamedTuple):
    """What `build` makes: one entry per segment (a run of the store, or a text still to be encoded) and a label."""

    segments: tuple[Run | str, ...]
    label: int = 0


@dataclass(frozen=True, slots=True)
class Pool:
    """The documents that are built together: one shard's worth of one split. Negatives come from the same pool."""

    documents: tuple[AnnotatedDocument, ...]
    settings: Settings
    seed: int

    def rng(self, task: str, *address: object) -> Random:
        """Randomness by address, never by stream: labels do not depend on worker, order or other tasks."""
        key = "/".join(map(str, (self.seed, task, *address))).encode()
        return Random(int.from_bytes(blake2b(key, digest_size=8).digest(), "big"))


class Tokens(NamedTuple):
    """Token ids and their annotations, two 1-D arrays of one length."""

    ids: np.ndarray
    annotations: np.ndarray


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The ids that drawing needs."""

    cls: int
    sep: int
    mask: int
    pad: int
    ordinary: np.ndarray
    """Ids that stand for text: no special, no [unused] token. Random replacements come from here."""


class Targets(NamedTuple):
    """What a token-level task predicts in a sequence, and the ids that the encoder is shown for it."""

    ids: np.ndarray
    positions: np.ndarray
    labels: np.ndarray


class Score(NamedTuple):
    """A validation metric beside what guessing reaches."""

    value: float
    chance: float
    detail: dict[str, float] = {}


@dataclass(frozen=True, slots=True)
class TaskSpec:
    name: str
    family: Family
    head: Head
    summary: str
    """One line: what is predicted."""
    build: Callable[[Pool], Iterator[Instance]]
    metric_name: str
    metric: Callable[[np.ndarray, np.ndarray], Score]
    """(labels, predictions), both of shape (targets,), to the score and the score of guessing."""
    labels: Callable[[Settings], Sequence[str]] | None = None
    """The classes in words; None for masked LM, whose classes are the vocabulary."""
    draw: Callable[[list[Tokens], int, np.random.Generator, Settings], tuple[list[Tokens], int]] | None = None
    """Sequence-level tasks that redraw an instance each time it is read: (segments, label) to (segments, label)."""
    target: Callable[[Tokens, np.random.Generator, Vocabulary, Settings], Targets] | None = None
    """Token-level tasks: what to predict in an assembled sequence, whatever task arranged it."""
    languages: frozenset[str] = frozenset({"en", "zh"})
    needs_uncased: bool = False
    """The input must not show what is predicted: a cased tokenizer is refused."""
    needs: str = ""
    """What a corpus must have to feed the task; the reason given when it yields no instance."""


def assemble(segments: Sequence[Tokens], vocabulary: Vocabulary) -> tuple[Tokens, np.ndarray]:
    """[CLS] s1 [SEP] s2 [SEP] … and the segment number of every token; a [SEP] belongs to the segment that it ends."""
    ids, annotations, types = [np.array([vocabulary.cls])], [np.zeros(1, np.uint8)], [np.zeros(1, np.int64)]
    for number, segment in enumerate(segments):
        ids += [segment.ids, np.array([vocabulary.sep])]
        annotations += [segment.annotations, np.zeros(1, np.uint8)]
        types.append(np.full(len(segment.ids) + 1, number))
    return Tokens(np.concatenate(ids).astype(np.int64), np.concatenate(annotations)), np.concatenate(types)
