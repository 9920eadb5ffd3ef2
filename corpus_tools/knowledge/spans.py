"""Spans of atoms, and how those of several sources become units."""

from typing import NamedTuple

import numpy as np

from corpus_tools.atoms import Atoms


class Spans(NamedTuple):
    """Candidates for units, in any order; they may overlap. Arrays of shape (spans,)."""

    first: np.ndarray
    """The atom that it begins with."""
    stop: np.ndarray
    """The atom behind its last."""
    level: np.ndarray
    """PHRASE or ENTITY."""


def snap(atoms: Atoms, start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spans of code points as spans of atoms: the numbers of those that are some, their first atoms, and those behind.

    What cuts an atom, leaves its sentence or holds no atom is none.
    """
    first = np.searchsorted(atoms.stop, start, side="right")
    behind = np.searchsorted(atoms.start, stop)
    kept = np.flatnonzero(first < behind)
    first, behind = first[kept], behind[kept]
    whole = (atoms.start[first] >= start[kept]) & (atoms.stop[behind - 1] <= stop[kept])
    whole &= atoms.sentence[first] == atoms.sentence[behind - 1]
    return kept[whole], first[whole], behind[whole]


class Taken:
    """The atoms of a batch that are in a unit already. Who comes first wins."""

    def __init__(self, count: int):
        self.levels = np.zeros(count, np.uint8)
        self.continues = np.zeros(count, bool)

    def accept(self, spans: Spans) -> None:
        """Of the spans that touch no atom taken: the leftmost, of these the longest, and on behind it."""
        taken = np.concatenate([[0], np.cumsum(self.levels > 0)])
        free = taken[spans.stop] == taken[spans.first]
        first, stop, level = (array[free] for array in spans)
        kept = leftmost_longest(first, stop, len(self.levels))
        first, level = first[kept], level[kept]
        lengths = stop[kept] - first
        ends = np.cumsum(lengths)
        inside = np.repeat(first - ends + lengths, lengths) + np.arange(lengths.sum())
        self.levels[inside] = np.repeat(level, lengths)
        self.continues[inside] = True
        self.continues[first] = False


def leftmost_longest(first: np.ndarray, stop: np.ndarray, count: int) -> np.ndarray:
    """The numbers of the spans that stay, of spans among `count` atoms; ascending."""
    lengths = (stop - first).astype(np.uint16)  # 16 bits are sorted by radix; no two long spans begin with one atom
    order = np.argsort(lengths, kind="stable")
    longest = np.full(count, -1)
    longest[first[order]] = order  # of several that begin with an atom, the last is kept
    candidates = longest[longest >= 0]
    before = np.concatenate([[0], np.cumsum(longest >= 0)])
    following = before[stop[candidates]].tolist()
    kept, candidate = [], 0
    while candidate < len(candidates):
        kept.append(candidate)
        candidate = following[candidate]
    return candidates[kept]
