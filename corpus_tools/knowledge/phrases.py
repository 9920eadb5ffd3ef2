"""Phrases that were mined from the corpus. Nearly every corpus has them, so they are found in arrays.

A phrase is 2 to 5 words: English ones in lower case, one space apart, Chinese ones without a space. In English the
atoms of the text are matched, at most MOST_ATOMS: `women's rights` has four, one of them after a space.

The number of a string is a polynomial of its characters modulo 2^55, so the numbers of words add up to that of the
string that they make: every run of words is looked up. Of 800,000 phrases and 10^9 runs, one is mistaken with a chance
of 2 %.
"""

from collections.abc import Collection

import numpy as np

from corpus_tools.atoms import Atoms
from corpus_tools.knowledge.spans import Spans
from pretrain.tasks.spec import PHRASE

MOST_WORDS, MOST_ATOMS = 5, 8
FLAGS = 8
"""Bits of a word's kind that are the language's; the number of the word stands above them."""
_BITS = 63 - FLAGS
_MASK = (1 << _BITS) - 1
_BASE = 0x9E3779B97F4A7C15 & _MASK
_POWERS = np.array([pow(_BASE, exponent, 1 << _BITS) for exponent in range(1 << 10)])
_FILTER_BITS = 22
"""A table of 4 MB rules out most runs before the numbers are searched."""


def number_of(text: str) -> int:
    number = 0
    for character in reversed(text):
        number = (number * _BASE + ord(character)) & _MASK
    return number


def atoms_in(phrase: str) -> int:
    """At most: what is no letter, digit or space stands alone."""
    words = phrase.count(" ") + 1
    marks = sum(not character.isalnum() for character in phrase) - words + 1
    return words + 2 * marks


class Phrases:
    def __init__(self, phrases: Collection[str], separator: str):
        """`separator`: what stands between the words of a phrase, a space or nothing."""
        self.spaced = separator != ""
        self.most = MOST_WORDS if not self.spaced else min(max(map(atoms_in, phrases), default=1), MOST_ATOMS)
        self.numbers = np.unique(np.fromiter(map(number_of, phrases), np.int64, len(phrases)))
        self.filter = np.zeros(1 << _FILTER_BITS, bool)
        self.filter[self.numbers >> (_BITS - _FILTER_BITS)] = True

    def __call__(self, atoms: Atoms, free: np.ndarray) -> Spans:
        """Every run of words of a sentence that is a phrase."""
        words = np.flatnonzero(np.diff(atoms.word, prepend=-1))
        behind = np.append(words, len(atoms.word))[1:]
        sentence = atoms.sentence[words]
        lengths = atoms.stop[behind - 1] - atoms.start[words]
        numbers = atoms.kind >> FLAGS
        added, wider = numbers, lengths
        if self.spaced:
            gap = atoms.start > np.append(0, atoms.stop)[:-1]  # in English every atom is a word
            added = np.where(gap, (numbers * _BASE + ord(" ")) & _MASK, numbers)
            wider = lengths + gap
        runs, firsts, stops = numbers, [], []
        for more in range(1, min(self.most, len(words))):
            runs = (runs[:-1] + _POWERS.take(lengths[:-1], mode="clip") * added[more:]) & _MASK
            lengths = lengths[:-1] + wider[more:]
            possible = np.flatnonzero(self.filter[runs >> (_BITS - _FILTER_BITS)])
            searched = runs[possible]
            is_phrase = self.numbers.take(np.searchsorted(self.numbers, searched), mode="clip") == searched
            is_phrase &= sentence[possible] == sentence[possible + more]
            found = possible[is_phrase]
            firsts.append(words[found])
            stops.append(behind[found + more])
        first, stop = (np.concatenate([np.zeros(0, np.int64), *ends]) for ends in (firsts, stops))
        return Spans(first, stop, np.full(len(first), PHRASE, np.uint8))
