"""A document as a reader finds it, before anything is known of its tokens."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
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


def reasons(refused: Iterable[Refused]) -> dict[str, int]:
    return dict(sorted(Counter(refusal.reason for refusal in refused).items()))


def hashed(identity: str) -> int:
    """64 bits that decide, whatever else is in the corpus, whether a document or query is held out."""
    return int.from_bytes(blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def held_out(identity: str, validation_share: float) -> bool:
    """Is what bears this id validation?"""
    return hashed(identity) < validation_share * 2**64
