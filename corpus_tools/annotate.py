"""Text to annotated tokens: ids from the tokenizer, flags from the original string through its offsets.

The hot path of the corpus build: one call into Rust for a batch of sentences, then arrays over the whole batch and one
cached look-up per word; no Python per token. Texts are brought to NFC first, because the offsets of a token leave out
the combining mark that the tokenizer strips.

A word is capitalised if its first letter that has case is upper-case: Apple, NASA and École are, iPhone is not.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from functools import lru_cache
from itertools import chain, pairwise
from typing import NamedTuple
from unicodedata import normalize

import numpy as np
from tokenizers import Tokenizer

from corpus_tools.knowledge import Chinese, English
from corpus_tools.segmentation import words as segment_words
from pretrain.tasks.spec import CAPITALISED, CASED, RECURRENCE_KNOWN, RECURS, UNIT_START, WORD_START, Run, Tokens

Word = tuple[int, int, str]
"""First token, token after the last, and the key: the surface in lower case. Punctuation is no such word."""

CACHED_WORDS = 1 << 18
FIRST_HANZI = 0x3400
"""Hanzi begin here; the scripts that the tokenizer leaves whole between spaces lie before."""
CASELESS = 0x20000
"""No letter from this code point on has case."""


class Encoded(NamedTuple):
    tokens: Tokens
    words: list[Word]


class Annotator:
    """Made anew in every worker process, from plain values."""

    def __init__(self, tokenizer: str, language: str, segmenter: str = "rjieba", collocations: Collection[str] = ()):
        self.tokenizer = Tokenizer.from_str(tokenizer)
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.tokenizer.encode_special_tokens = True  # "[SEP]" in a text is text
        self.chinese = language == "zh"
        self.segmenter = segmenter
        self.knowledge = Chinese() if self.chinese else English(collocations)
        self.facts = lru_cache(CACHED_WORDS)(self._facts)
        self.has_case = np.array([_has_case(chr(code)) for code in range(CASELESS)])
        prefix = self.tokenizer.model.continuing_subword_prefix
        vocab = self.tokenizer.get_vocab()
        continuing = [number for token, number in vocab.items() if token.startswith(prefix) and token != prefix]
        self.starts_word = np.ones(max(vocab.values()) + 1, bool)
        self.starts_word[continuing] = False

    def _facts(self, surface: str) -> tuple[str, bool, int]:
        key = surface.lower() if any(map(str.isalnum, surface)) else ""
        cased = next(filter(_has_case, surface), "")
        return key, cased != cased.lower(), self.knowledge.kind(surface, key)

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """One result per text, each annotated as one sentence; recurrence is left to `recurrence`."""
        texts = [normalize("NFC", text) for text in texts]
        encodings = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        lengths = np.array([len(encoding) for encoding in encodings], np.int64)
        bounds = _bounds(lengths)
        count = int(bounds[-1])
        ids = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int32, count)
        pairs = chain.from_iterable(encoding.offsets for encoding in encodings)
        offsets = np.fromiter(chain.from_iterable(pairs), np.int64, 2 * count).reshape(-1, 2)
        text = "\n".join(texts)
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        offsets += np.repeat(_bounds([len(text) + 1 for text in texts])[:-1], lengths)[:, None]
        begins, ends = offsets.T

        starts = self.starts_word[ids]
        if self.chinese:
            starts &= ~self._continues(codes, text, begins)
        starts[bounds[:-1][lengths > 0]] = True
        first = np.flatnonzero(starts)
        stop = np.append(first, count)[1:]
        sentence = np.searchsorted(bounds, first, side="right") - 1
        from_, to = begins[first], ends[stop - 1]
        facts = list(map(self.facts, map(text.__getitem__, map(slice, from_.tolist(), to.tolist()))))
        keys = [key for key, _, _ in facts]
        capitalised = np.fromiter((capital for _, capital, _ in facts), bool, len(facts))
        kinds = np.fromiter((kind for _, _, kind in facts), np.int64, len(facts))
        spaced = from_ > np.append(-1, to)[:-1]
        levels, continues = self.knowledge.units(kinds, sentence, spaced)

        flags = levels + CAPITALISED * capitalised.astype(np.uint8)
        annotations = np.repeat(flags, stop - first)
        annotations[first] |= WORD_START
        annotations[first[(levels > 0) & ~continues]] |= UNIT_START
        cased = _bounds(self.has_case.take(codes, mode="clip"))
        annotations[cased[ends] > cased[begins]] |= CASED

        base = bounds[sentence]
        triples = list(zip((first - base).tolist(), (stop - base).tolist(), keys, strict=True))
        per_text = _bounds(np.bincount(sentence, minlength=len(texts))).tolist()
        return [
            Encoded(Tokens(ids[a:b], annotations[a:b]), [triple for triple in triples[c:d] if triple[2]])
            for (a, b), (c, d) in zip(pairwise(bounds.tolist()), pairwise(per_text), strict=True)
        ]

    def _continues(self, codes: np.ndarray, text: str, begins: np.ndarray) -> np.ndarray:
        """Which tokens are in the segmenter's word of the token before: what it says of latin text does not count."""
        lengths = [len(word) for word in segment_words(text, self.segmenter)]
        word_of = np.repeat(np.arange(len(lengths)), lengths)[begins]
        hanzi = codes[begins] >= FIRST_HANZI
        return (np.diff(word_of, prepend=-1) == 0) & (hanzi | np.append(False, hanzi)[:-1])


def recurrence(words: Sequence[Word], segments: Sequence[Run]) -> np.ndarray:
    """Flags for the tokens of one document: is a word in another of its segments? Alone, a segment gets none.

    Words and segments count tokens alike; the flags begin with the first segment. A word is in the segment of its
    first token.
    """
    origin = segments[0].start
    flags = np.zeros(segments[-1].stop - origin, np.uint8)
    if len(segments) == 1:
        return flags
    first, stop = np.array([word[:2] for word in words], np.int64).reshape(-1, 2).T - origin
    keys = [key for _, _, key in words]
    homes = np.searchsorted([segment.start - origin for segment in segments], first, side="right")
    spread = Counter(key for key, _ in set(zip(keys, homes.tolist(), strict=True)))
    lengths = stop - first
    positions = np.repeat(first - _bounds(lengths)[:-1], lengths) + np.arange(lengths.sum())
    recurs = np.array([spread[key] > 1 for key in keys], bool)
    flags[positions] = np.repeat(RECURRENCE_KNOWN + RECURS * recurs.astype(np.uint8), lengths)
    return flags


def _has_case(character: str) -> bool:
    return character.lower() != character.upper()


def _bounds(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """0 and the running sums: item i lies in [bounds[i], bounds[i + 1])."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
