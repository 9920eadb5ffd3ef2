"""A document as a reader finds it, before anything is known of its tokens."""

from dataclasses import dataclass
from typing import NamedTuple


class Section(NamedTuple):
    heading: str | None
    paragraphs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Document:
    id: str
    title: str | None
    sections: tuple[Section, ...]


class Refused(NamedTuple):
    """A document that is not used, counted under its reason."""

    where: str
    """`file:line`, or the document's id."""
    reason: str
    """A short fixed phrase, so that counting by reason makes sense: `invalid UTF-8`, `duplicate id`, …"""
