"""Which task reads what: large files are shared out among several tasks, small ones are read together by one.

The plan depends on the sources alone, never on the workers: it decides which documents meet in a pool.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from os.path import abspath, commonpath
from pathlib import Path
from typing import NamedTuple

from corpus_tools.readers import WHOLE, Share, is_scheme, paths_of

MOST_READ, LEAST_READ = 128_000_000, 16_000_000
"""Text that one task reads, see `share_out`. What it reads meets in pools, so little text is not shared out finely."""
ENOUGH = 8
"""Tasks that keep a machine busy."""
MOST_PARTS = 64
"""Every part of a file reads it from the beginning and skips what belongs to others: 1 GB/s, 0.3 GB/s where packed."""
EXPANSION = {".gz": 3, ".zst": 4, ".parquet": 2}
"""Bytes of text in a byte on disk, roughly."""


class Slice(NamedTuple):
    """A source, a file of one, or a part of a file."""

    source: str
    """A path, or a source with a scheme: `demo:en`."""
    name: str
    """What default ids begin with: the path from the folder that all files share, so that they survive a move."""
    share: Share = WHOLE
    size: int = 0
    """Of the file, in bytes; like `modified` it tells whether the file changed under a build."""
    modified: int = 0

    def text_bytes(self) -> float:
        suffix = Path(self.source).suffix.lower()
        return self.size * EXPANSION.get(suffix, 1) / self.share.parts

    def parts(self, size: float) -> "Iterator[Slice]":
        """Of a whole file: parts of about this size, MOST_PARTS at most."""
        number = min(MOST_PARTS, max(1, round(self.text_bytes() / size))) if self.size else 1
        return (self._replace(share=Share(part, number)) for part in range(number))


def share_out(size: float, most: float, least: float) -> int:
    """Tasks for so many bytes: of `most` each where there are many, ENOUGH where there are fewer, of `least` each."""
    return max(1, round(max(size / most, min(ENOUGH, size / least))))


def plan(sources: Sequence[str]) -> list[list[Slice]]:
    """The slices that each task reads, in the order of the sources."""
    slices = list(find_slices(sources))
    size = sum(map(Slice.text_bytes, slices))
    share = size / share_out(size, MOST_READ, LEAST_READ)
    tasks: list[list[Slice]] = [[]]
    taken = 0.0
    for slice in chain.from_iterable(slice.parts(share) for slice in slices):
        if tasks[-1] and taken + slice.text_bytes() / 2 > share * len(tasks):
            tasks.append([])
        tasks[-1].append(slice)
        taken += slice.text_bytes()
    return tasks


def find_slices(sources: Sequence[str]) -> Iterator[Slice]:
    """Raises ValueError where a source is not there."""
    if not sources:
        raise ValueError("corpus.sources is empty. Name files, folders, globs, datasets:NAME or demo:en.")
    found = {source: paths_of(source) for source in sources if not is_scheme(source)}
    folders = [abspath(path.parent) for paths in found.values() for path in paths]
    shared = commonpath(folders) if folders else ""
    for source in sources:
        if source not in found:
            yield Slice(source, source)
            continue
        for path in found[source]:
            about = path.lstat() if path.is_symlink() and not path.exists() else path.stat()
            name = Path(abspath(path)).relative_to(shared).as_posix()
            yield Slice(f"{path}", name, WHOLE, about.st_size, about.st_mtime_ns)
