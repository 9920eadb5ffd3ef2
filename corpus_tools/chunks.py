"""Documents on their way to the shards: a chunk is a file of what one shard is made of.

Reading writes them once, in even sizes, whatever the sizes of the sources. All that comes after (phrases, duplicates,
shards) takes a chunk as its unit of work. A chunk holds documents, or rows of a labelled source such as a click log.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zstandard

from corpus_tools.document import Document, Section
from corpus_tools.readers import reading
from corpus_tools.shards import aside

DOCUMENTS = "documents"


class Chunk(NamedTuple):
    split: str
    kind: str
    """`documents`, or the setting that names the labelled source: `clicks`, …"""
    path: str
    """From the folder of the build."""
    items: int
    bytes: int
    """Of text."""
    longest: str
    """The id of its longest item: what to look at where memory runs out."""
    shard: str
    """The file that is made of it, from the folder of the corpus; empty until all chunks are known."""

    def __str__(self) -> str:
        return f"{self.path}, whose longest item is {self.longest!r}"


def write_chunk(path: Path, items: Iterable[Document | tuple]) -> None:
    with aside(path) as part, zstandard.open(part, "wt", zstandard.ZstdCompressor(level=1), encoding="utf-8") as file:
        for item in items:
            fields = (item.id, item.title, item.sections) if isinstance(item, Document) else item
            file.write(json.dumps(fields, ensure_ascii=False, separators=(",", ":")) + "\n")


def read_rows(path: Path) -> Iterator[list[Any]]:
    with reading(path, lambda: "some rows"), zstandard.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def read_documents(path: Path) -> Iterator[Document]:
    for identity, title, sections in read_rows(path):
        yield Document(identity, title, tuple(Section(heading, tuple(texts)) for heading, texts in sections))


def write_ids(path: Path, ids: list[int]) -> None:
    """The hashed ids of a chunk's documents, in their order."""
    with aside(path) as part, part.open("wb") as file:
        np.save(file, np.array(ids, np.uint64))
