"""Explicit discourse markers: the words that name the relation between a text and the one before."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

OPENING = "\"'“‘«(（[【「『"
COMMA = re.compile(r"\s*[,，:：、]\s*")
BORDER = "，,；;：:。！？!?（）()“”「」『』—"
"""What a Chinese clause ends with."""
LAST_BORDER = re.compile(rf".*[{BORDER}]", re.DOTALL)
SUBJECT = 16
"""Characters that may stand before the first half of a Chinese pair in its clause: 第二次世界大战时葡萄牙虽…"""
SHORT_SUBJECT = 6
"""Characters that may stand before its second half: 他们却…"""
NO_SUBJECT = "只要|只有|如果|因为|由于|虽|即"
"""What begins another clause instead."""


class Marker(NamedTuple):
    text: str
    comma: bool = False
    """The word is a marker only where a comma follows."""
    firsts: tuple[str, ...] = ()
    """Patterns of what announces the marker in the text before: 虽然 announces 但是. Removed together with it."""
    unless: str = ""
    """Pattern of what follows where the word is part of something else: 但丁."""
    tail: str = ""
    """Pattern of what strengthens the marker and goes with it: 但却."""


class Pair(NamedTuple):
    """A Chinese connective in two halves, of which the second alone would be no marker: 如果…就. Both are removed."""

    text: str
    """The name of the class; several pairs, or a pair and a marker, may share it."""
    firsts: tuple[str, ...]
    """Patterns of the half in the clause before, at its head or after its subject."""
    seconds: tuple[str, ...]
    """Patterns of the half in the clause after."""
    subject: bool = True
    """A short subject may stand before either half; else both open their clauses."""


class Joined(NamedTuple):
    """Two texts without the marker that joined them; number 0 is none."""

    number: int
    before: str
    after: str


class Found(NamedTuple):
    """A text without the marker that it began with; number 0 is none."""

    number: int
    rest: str


class Lexicon:
    """Finds the markers of one language. The classes are numbered from 1, in the order given, markers before pairs."""

    def __init__(
        self,
        markers: Sequence[Marker],
        language: str,
        pairs: Sequence[Pair] = (),
        firsts: Sequence[str] = (),
        loose: str = "",
    ):
        """`firsts`: patterns of halves that are of no pair, but announce something just the same: 因为.

        `loose`: pattern of a word that joins, but is no marker; a text that begins with it is of no class.
        """
        self.markers = tuple(markers)
        self.texts = tuple(dict.fromkeys([marker.text for marker in markers] + [pair.text for pair in pairs]))
        """The name of every class but `no marker`."""
        self.numbers = {text: number for number, text in enumerate(self.texts, 1)}
        end = "" if language == "zh" else r"\b(?!-)"  # not Then-president
        self.start = re.compile(f"({any_of(marker.text for marker in markers)}){end}", re.IGNORECASE)
        self.firsts = {}
        for marker in markers:
            if marker.firsts:
                fellows = [other.text for other in markers if other.firsts == marker.firsts]
                self.firsts[self.numbers[marker.text]] = announcing(marker.firsts, fellows, language)
        self.pairs = [(self.numbers[pair.text], *halves(pair)) for pair in pairs]
        heads = [first.pattern.replace("?P<half>", "?:") for _, first, _ in self.pairs]
        self.half = re.compile("|".join([*heads, rf"[^{BORDER}]{{0,{SUBJECT}}}?(?:{any_of(firsts)})"]))
        self.loose = re.compile(loose) if loose else None

    def read(self, before: str, after: str) -> Joined | None:
        """What joined two texts, and the texts without it; None where it is not clear."""
        found = self.split(after)
        if found and found.number:
            joined: Joined | None = Joined(found.number, self.without_first(found.number, before), found.rest)
        elif self.announces(before):
            joined = self.split_pair(before, after)
        else:
            return Joined(0, before, after) if found and not self.joins(after) else None
        # a half without its fellow, or a word that joins, would still show how the two were joined
        return None if joined and (self.announces(joined.before) or self.joins(joined.after)) else joined

    def announces(self, text: str) -> bool:
        """Is there the first half of a pair in the last clause?"""
        return bool(self.pairs) and self.half.match(text, clause_start(text)) is not None

    def joins(self, text: str) -> bool:
        return self.loose is not None and self.loose.match(text) is not None

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
        rest = re.sub(rf"\A(?:{marker.tail})", "", rest) if marker.tail else rest
        if self.start.match(rest):
            return None
        return Found(self.numbers[marker.text], rest)

    def without_first(self, number: int, text: str) -> str:
        """The text before a marker, without the half that announces it."""
        found = self.firsts[number].match(text) if number in self.firsts else None
        return recase(text, text[: found.start("half")] + text[found.end() :]) if found else text

    def split_pair(self, before: str, after: str) -> Joined | None:
        """The first pair of which both halves are there."""
        start = clause_start(before)
        for number, first, second in self.pairs:
            announced = first.match(before, start)
            if announced and second.match(after):
                before = before[: announced.start("half")] + before[announced.end() :]
                while answered := second.match(after):  # 则…就
                    after = after[: answered.start("half")] + after[answered.end() :]
                return Joined(number, before, after)
        return None


def announcing(firsts: Iterable[str], fellows: Iterable[str], language: str) -> re.Pattern[str]:
    """The half that announces a marker. In English it opens the text.

    In Chinese it stands in the last clause that has one, at its head or after its subject, unless a fellow of the
    marker has answered it before.
    """
    half = any_of(firsts)
    if language == "en":
        return re.compile(rf"\A(?P<half>{half}),\s+", re.IGNORECASE)
    clause = rf"\A(?:.*[{BORDER}])?[^{BORDER}]{{0,{SUBJECT}}}?"
    return re.compile(rf"{clause}(?P<half>{half})(?!.*[{BORDER}](?:{any_of(fellows)}))[，、]?", re.DOTALL)


def halves(pair: Pair) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """To be matched at the head of two clauses: the first, unless its fellow is in the same one, and the second."""
    second = any_of(pair.seconds)
    subject = rf"[^{BORDER}]{{0,{SUBJECT}}}?" if pair.subject else ""
    short = rf"(?!{NO_SUBJECT})[^{BORDER}、\s]{{0,{SHORT_SUBJECT}}}?" if pair.subject else ""
    first = rf"{subject}(?P<half>{any_of(pair.firsts)})(?![^{BORDER}]*(?:{second}))"
    return re.compile(first), re.compile(rf"{short}(?P<half>{second})")


def clause_start(text: str) -> int:
    """Where the last clause begins."""
    found = LAST_BORDER.match(text)
    return found.end() if found else 0


def any_of(patterns: Iterable[str]) -> str:
    """The longest that is there."""
    return "|".join(sorted(patterns, key=len, reverse=True))


def recase(old: str, new: str) -> str:
    """`new` begins with a capital where `old` does."""
    return new[:1].upper() + new[1:] if old[:1].isupper() else new
