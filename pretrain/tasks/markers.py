"""Explicit discourse markers: the words that name the relation between a text and the one before."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

OPENING = "\"'“‘«(（[【「『"
COMMA = re.compile(r"\s*[,，:：、]\s*")


class Marker(NamedTuple):
    text: str
    comma: bool = False
    """The word is a marker only where a comma follows."""
    firsts: tuple[str, ...] = ()
    """Patterns of what announces the marker in the text before: 虽然 announces 但是. Removed together with it."""
    unless: str = ""
    """Pattern of what follows where the word is part of something else: 但丁."""


class Found(NamedTuple):
    """A text without the marker that it began with; number 0 is none."""

    number: int
    rest: str


class Lexicon:
    """Finds the markers of one language. They are numbered from 1, in the order given."""

    def __init__(self, markers: Sequence[Marker], language: str):
        self.markers = tuple(markers)
        self.numbers = {marker.text: number for number, marker in enumerate(markers, 1)}
        end = "" if language == "zh" else r"\b(?!-)"  # not Then-president
        self.start = re.compile(f"({'|'.join(longest_first(self.numbers))}){end}", re.IGNORECASE)
        # in Chinese the first half may follow the subject (他虽然); in English it opens the sentence
        before, after = ("", "[，、]?") if language == "zh" else (r"\A", r",\s+")
        self.firsts = {
            number: re.compile(f"{before}(?:{'|'.join(longest_first(marker.firsts))}){after}", re.IGNORECASE)
            for number, marker in enumerate(markers, 1)
            if marker.firsts
        }

    def split(self, text: str) -> Found | None:
        """The marker that a text begins with and the rest, its case repaired; None where it is not clear."""
        found = self.start.match(text.lstrip(OPENING))
        if found is None:
            return Found(0, text)
        if text[0] in OPENING:
            return None
        marker = self.markers[self.numbers[found[1].lower()] - 1]
        rest = text[found.end() :]
        comma = COMMA.match(rest)
        if (marker.comma and not comma) or (marker.unless and re.match(marker.unless, rest)):
            return None
        rest = recase(text, rest[comma.end() :] if comma else rest.lstrip())
        if self.start.match(rest):
            return None
        return Found(self.numbers[marker.text], rest)

    def without_first(self, number: int, text: str) -> str:
        """The text before a marker, without the half that announces it."""
        pattern = self.firsts.get(number)
        return recase(text, pattern.sub("", text)) if pattern else text


def longest_first(patterns: Iterable[str]) -> list[str]:
    return sorted(patterns, key=len, reverse=True)


def recase(old: str, new: str) -> str:
    """`new` begins with a capital where `old` does."""
    return new[:1].upper() + new[1:] if old[:1].isupper() else new
