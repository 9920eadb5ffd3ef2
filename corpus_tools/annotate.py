"""Text to annotated tokens: ids from the tokenizer, flags from the original string through its offsets.

The hot path of the corpus build: a text is cut into fragments, all that is known of them is looked up, and arrays over
the whole batch are put together; no Python per token or word. Texts are brought to NFC first, because the offsets of a
token leave out the combining mark that the tokenizer strips.

A word is capitalised if its first letter that has case is upper-case: Apple, NASA and École are, iPhone is not.
"""

from collections.abc import Sequence
from itertools import compress
from typing import NamedTuple
from unicodedata import normalize

import numpy as np
from tokenizers import Tokenizer

from corpus_tools.atoms import Atoms
from corpus_tools.fragments import BORDER, SEPARATE, Fragments, bounds_of, places_of, spread
from corpus_tools.knowledge import Knowledge, make_knowledge
from corpus_tools.segmentation import words as segment_words
from pretrain.tasks.spec import RECURRENCE_KNOWN, RECURS, UNIT_START, Tokens

MOST_FRAGMENTS = 1 << 18
"""A table of more is begun anew: it bounds the memory, and changes no result."""


class Words(NamedTuple):
    """Words, of which punctuation is none, in their order: arrays of shape (words,)."""

    first: np.ndarray
    """The token that it begins with."""
    stop: np.ndarray
    """The token behind its last."""
    key: np.ndarray
    """Numbers the surfaces in lower case. Holds within one call of `encode`."""


class Encoded(NamedTuple):
    tokens: Tokens
    """Of all texts, one after the other."""
    bounds: np.ndarray
    """(texts + 1,) text i has the tokens [bounds[i], bounds[i + 1])."""
    words: Words


class Annotator:
    """Made anew in every worker process. Without `knowledge` units are words and names."""

    def __init__(self, tokenizer: str, language: str, segmenter: str = "rjieba", knowledge: Knowledge | None = None):
        self.tokenizer = Tokenizer.from_str(tokenizer)
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.tokenizer.encode_special_tokens = True  # "[SEP]" in a text is text
        self.chinese = language == "zh"
        self.segmenter = segmenter
        self.knowledge = knowledge or make_knowledge(language)
        self.fragments = self._no_fragments()

    def _no_fragments(self) -> Fragments:
        return Fragments(self.tokenizer, self.knowledge.kind, self.chinese)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Each text is annotated as one sentence; recurrence is left to `recurrence`."""
        texts = [normalize("NFC", text) for text in texts]
        text = "\n".join(texts)
        pieces, origins = self._segmented(text) if self.chinese else _separated(text)
        if len(self.fragments.numbers) > MOST_FRAGMENTS:
            self.fragments = self._no_fragments()
        fragments, found = self.fragments, self.fragments.find(pieces)
        first = np.searchsorted(origins, bounds_of([len(text) + 1 for text in texts])[:-1])
        edges = np.append(first, len(origins))  # of the texts, in fragments

        tokens, lengths = places_of(fragments.tokens, found)
        bounds = bounds_of(lengths)[edges]
        annotations = fragments.flags[tokens]

        atom, lengths = places_of(fragments.atoms, found)
        opens = fragments.opens[atom]
        sizes = fragments.sizes[atom]
        places = bounds_of(sizes)
        surfaces = fragments.surfaces[places_of(fragments.words, found)[0]]
        origin = np.repeat(origins, lengths)
        atoms = Atoms(
            text,
            start=origin + fragments.starts[atom],
            stop=origin + fragments.stops[atom],
            sentence=np.repeat(np.arange(len(texts), dtype=np.int32), np.diff(bounds_of(lengths)[edges])),
            word=np.cumsum(opens, dtype=np.int32) - 1,
            kind=fragments.kinds[surfaces],
        )
        levels, continues = self.knowledge.units(atoms)
        annotations |= np.repeat(levels, sizes)
        annotations[places[:-1][(levels > 0) & ~continues]] |= UNIT_START

        keys = fragments.keys[surfaces]
        edge = np.append(places[:-1][opens], places[-1])
        real = keys > 0
        return Encoded(
            Tokens(fragments.ids[tokens], annotations), bounds, Words(edge[:-1][real], edge[1:][real], keys[real])
        )

    def _segmented(self, text: str) -> tuple[list[str], np.ndarray]:
        """Fragments, and where each begins: the segmenter's words, joined where the tokenizer may not cut."""
        words = segment_words(text, self.segmenter)
        bounds = bounds_of(list(map(len, words)))
        separate = SEPARATE.take(np.frombuffer(text.encode("utf-32-le"), np.uint32), mode="clip")
        inner = bounds[1:-1]
        begins = np.append(True, separate[inner - 1] | separate[inner])[: len(words)]
        first = np.flatnonzero(begins)
        stop = np.append(first, len(words))[1:]
        several = stop - first > 1
        for a, b in zip(first[several].tolist(), stop[several].tolist(), strict=True):
            words[a] = BORDER.join(words[a:b])
        return list(compress(words, begins.tolist())), bounds[:-1][begins]


def _separated(text: str) -> tuple[list[str], np.ndarray]:
    """What stands between spaces, line ends, hanzi and punctuation marks, and these; and where each begins."""
    codes = np.frombuffer(text.replace("\n", " ").encode("utf-32-le"), np.uint32)
    separate = SEPARATE.take(codes, mode="clip")
    space = codes == ord(" ")
    cuts = np.flatnonzero((separate[1:] | separate[:-1]) & ~(space[1:] | space[:-1])) + 1
    begins = np.zeros(len(codes) + 1, bool)
    begins[0] = begins[cuts] = True
    begins[1:] |= space
    pieces = np.insert(codes, cuts, ord(" ")).tobytes().decode("utf-32-le").split(" ")
    return pieces, np.flatnonzero(begins).astype(np.int32)


def recurrence(words: Words, segments: Sequence[Sequence[int]], count: int) -> np.ndarray:
    """Flags for `count` tokens: is a word in another segment of its document? Alone, a segment gets none.

    For every document `segments` has the tokens that its segments begin with, and the one behind the last. Documents
    ascend. A word is in the segment of its first token.
    """
    flags = np.zeros(count, np.uint8)
    recurs = np.zeros(len(words.key), np.uint8)
    earliest, latest = np.zeros((2, int(words.key.max(initial=0)) + 1), np.int32)
    edges = np.searchsorted(words.first, [(begins[0], begins[-1]) for begins in segments]).reshape(-1, 2).tolist()
    for begins, (a, b) in zip(segments, edges, strict=True):
        if len(begins) > 2:
            keys = words.key[a:b]
            homes = np.searchsorted(begins, words.first[a:b], side="right")
            latest[keys] = homes  # of equal keys the last is kept
            earliest[keys[::-1]] = homes[::-1]
            recurs[a:b] = RECURRENCE_KNOWN + RECURS * (earliest[keys] < latest[keys]).astype(np.uint8)
    lengths = words.stop - words.first
    flags[spread(words.first, lengths)] = np.repeat(recurs, lengths)
    return flags
