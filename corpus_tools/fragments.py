"""What a tokenizer and the sources of knowledge say of a fragment of text, found once per distinct fragment.

A BERT tokenizer cuts at whitespace and on both sides of hanzi and punctuation marks, whatever stands there. So a text
that is cut at such places alone has the tokens of its fragments, one after the other. Text repeats itself: a
look-up per fragment replaces the tokenizer on nearly all of it.
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain, islice

import numpy as np
from tokenizers import Tokenizer

from pretrain.tasks.spec import CAPITALISED, CASED, WORD_START

BORDER = "\n"
"""Stands inside a fragment where the segmenter cut and the tokenizer may not."""
FIRST_HANZI = 0x3400
"""Hanzi begin here; the scripts that the tokenizer leaves whole between spaces lie before."""
CASELESS = 0x20000
"""No letter from this code point on has case."""
TOGETHER = 64
"""Fragments that the tokenizer is given as one text, with spaces between: every text costs something."""
PUNCTUATION = " \n!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~、。〈〉《》「」『』【】〔〕（）！，：；？“”‘’—…·"
"""Each is a token of its own wherever it stands, or whitespace."""
HANZI = (
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF), (0x2F800, 0x2FA1F),
)  # fmt: skip
"""What the tokenizer puts spaces around, first and last."""
SEPARATE = np.zeros(0x30000, bool)
"""By code point: does the tokenizer cut on both sides of it, whatever stands there?"""
SEPARATE[[ord(mark) for mark in PUNCTUATION]] = True
for _first, _last in HANZI:
    SEPARATE[_first : _last + 1] = True


class Numbers(dict[str, int]):
    """Numbers strings in the order in which they are first met."""

    def __missing__(self, string):
        self[string] = number = len(self)
        return number


class Fragments:
    """A table that grows. A fragment's number is its row; rows are of unequal length, cut out of flat arrays by bounds.

    tokens   ids, flags (WORD_START, CASED, CAPITALISED)
    atoms    sizes (tokens), starts and stops (code points within the fragment), opens (does it begin a word?)
    words    surfaces (numbers)

    By the number of a surface: keys (the number of what it is in lower case; 0: punctuation, no word), kinds, capitals.
    """

    def __init__(self, tokenizer: Tokenizer, kind: Callable[[str, str], int], chinese: bool):
        self.tokenizer = tokenizer
        self.kind = kind
        self.chinese = chinese
        self.starts_word = _starts_word(tokenizer)
        self.has_case = _has_case_by_code()
        self.numbers = Numbers()
        self.tokens = self.atoms = self.words = np.zeros(1, np.int32)  # bounds
        self.ids, self.flags = np.zeros(0, np.int32), np.zeros(0, np.uint8)
        self.sizes, self.starts, self.stops = np.zeros((3, 0), np.int32)
        self.opens = np.zeros(0, bool)
        self.surfaces = np.zeros(0, np.int32)
        self.surface_numbers, self.key_numbers = Numbers(), Numbers({"": 0})
        self.keys, self.kinds = np.zeros(0, np.int32), np.zeros(0, np.int64)
        self.capitals = np.zeros(0, bool)

    def find(self, fragments: Sequence[str]) -> np.ndarray:
        """The number of every fragment; what is new is added."""
        before = len(self.numbers)
        found = np.fromiter(map(self.numbers.__getitem__, fragments), np.int32, len(fragments))
        if len(self.numbers) > before:
            self._add(list(islice(self.numbers, before, None)))
        return found

    def _add(self, fragments: list[str]) -> None:
        pieces = [fragment.split(BORDER) for fragment in fragments]
        plain = list(map("".join, pieces))
        lines = [" ".join(plain[i : i + TOGETHER]) for i in range(0, len(plain), TOGETHER)]
        text = " ".join(lines)
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        encodings = self.tokenizer.encode_batch(lines, add_special_tokens=False)
        lengths = np.array([len(encoding) for encoding in encodings])
        count = int(lengths.sum())
        ids = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int32, count)
        pairs = chain.from_iterable(encoding.offsets for encoding in encodings)
        offsets = np.fromiter(chain.from_iterable(pairs), np.int64, 2 * count).reshape(-1, 2)
        offsets += np.repeat(bounds_of([len(line) + 1 for line in lines])[:-1], lengths)[:, None]
        begins, ends = offsets.T
        origins = bounds_of([len(fragment) + 1 for fragment in plain])
        tokens = np.searchsorted(begins, origins)

        starts = self.starts_word[ids]
        starts[tokens[:-1][np.diff(tokens) > 0]] = True
        atom = np.flatnonzero(starts)
        last = np.append(atom, count)[1:] - 1
        if self.chinese:
            starts &= ~_continues(codes, begins, pieces)
        word = np.flatnonzero(starts)
        closing = np.append(word, count)[1:] - 1
        surfaces = self._surfaces(
            [text[a:b] for a, b in zip(begins[word].tolist(), ends[closing].tolist(), strict=True)]
        )

        cased = bounds_of(self.has_case.take(codes, mode="clip"))
        flags = CASED * (cased[ends] > cased[begins]).astype(np.uint8)
        flags |= np.repeat(CAPITALISED * self.capitals[surfaces].astype(np.uint8), closing - word + 1)
        flags[word] |= WORD_START
        origin = np.repeat(origins[:-1], np.diff(tokens))[atom]

        self.tokens = _longer(self.tokens, tokens[1:])
        self.ids, self.flags = np.append(self.ids, ids), np.append(self.flags, flags)
        self.atoms = _longer(self.atoms, np.searchsorted(atom, tokens[1:]))
        self.sizes = np.append(self.sizes, (last - atom + 1).astype(np.int32))
        self.starts = np.append(self.starts, (begins[atom] - origin).astype(np.int32))
        self.stops = np.append(self.stops, (ends[last] - origin).astype(np.int32))
        self.opens = np.append(self.opens, starts[atom])
        self.words = _longer(self.words, np.searchsorted(word, tokens[1:]))
        self.surfaces = np.append(self.surfaces, surfaces.astype(np.int32))

    def _surfaces(self, surfaces: list[str]) -> np.ndarray:
        before = len(self.surface_numbers)
        found = np.fromiter(map(self.surface_numbers.__getitem__, surfaces), np.int64, len(surfaces))
        new = list(islice(self.surface_numbers, before, None))
        lower = list(map(str.lower, new))
        keys = [low if any(map(str.isalnum, low)) else "" for low in lower]
        capitals = [low != surface and _begins_upper(surface) for surface, low in zip(new, lower, strict=True)]
        self.keys = np.append(self.keys, np.array([self.key_numbers[key] for key in keys], np.int32))
        self.kinds = np.append(self.kinds, np.array(list(map(self.kind, new, keys)), np.int64))
        self.capitals = np.append(self.capitals, np.array(capitals, bool))
        return found


def _continues(codes: np.ndarray, begins: np.ndarray, pieces: list[list[str]]) -> np.ndarray:
    """Which tokens are in the segmenter's word of the token before: what it says of latin text does not count."""
    lengths = [length for words in pieces for length in (*map(len, words[:-1]), len(words[-1]) + 1)]
    word_of = np.repeat(np.arange(len(lengths)), lengths)[begins]
    hanzi = codes[begins] >= FIRST_HANZI
    return (np.diff(word_of, prepend=-1) == 0) & (hanzi | np.append(False, hanzi)[:-1])


def _starts_word(tokenizer: Tokenizer) -> np.ndarray:
    """By id: is the token no continuation of the one before?"""
    prefix = tokenizer.model.continuing_subword_prefix
    vocab = tokenizer.get_vocab()
    starts = np.ones(max(vocab.values()) + 1, bool)
    starts[[number for token, number in vocab.items() if token.startswith(prefix) and token != prefix]] = False
    return starts


def _has_case(character: str) -> bool:
    return character.lower() != character.upper()


def _begins_upper(surface: str) -> bool:
    letter = next(filter(_has_case, surface), "")
    return letter != letter.lower()


@cache
def _has_case_by_code() -> np.ndarray:
    return np.array([_has_case(chr(code)) for code in range(CASELESS)])


def bounds_of(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """0 and the running sums: item i lies in [bounds[i], bounds[i + 1])."""
    bounds = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=bounds[1:])
    return bounds


def _longer(bounds: np.ndarray, more: np.ndarray) -> np.ndarray:
    return np.append(bounds, bounds[-1] + more.astype(np.int32))


def places_of(bounds: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the items of these rows lie, one row after the other, and how many each row has."""
    lengths = bounds[rows + 1] - bounds[rows]
    return spread(bounds[rows], lengths), lengths


def spread(first: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """first, first + 1, … for every row, as many as its length says."""
    before = bounds_of(lengths)
    places = np.repeat(first - before[:-1], lengths)
    places += np.arange(before[-1], dtype=np.int32)
    return places
