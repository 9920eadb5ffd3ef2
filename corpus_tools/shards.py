"""The one contract between corpus tools and training: shards of instances and the manifest that is written last.

A shard is a safetensors file. `ids` and `annotations` hold its tokens once (3 bytes a token for vocabularies up to
65,536); an instance of a task is a few runs of them. Whole numbers take the narrowest of uint8, uint16 and uint32.

    ids                 (tokens,)         uint16 or uint32
    annotations         (tokens,)         uint8, the flags of pretrain.tasks.spec
    <task>.labels    (instances,)
    <task>.first     (instances + 1,)  instance i owns segments first[i] to first[i + 1]; left out where all instances
                                       have equally many
    <task>.which     (segments,)       the run that a segment is; runs are ascending and differ
    <task>.starts    (runs,)           where a run starts in the token store; the lower 16 bits
    <task>.pages     (pages,)          the first run that starts at 65,536 × page or later: gives the upper bits
    <task>.lengths   (runs,)

Where the segments of every instance follow each other without a gap, and the instances are ascending, there is no
`which`: `starts` are then those of the instances, `lengths` those of the segments.

Its header holds, as one JSON text, what the builder notes of a finished shard. Files are mapped, not read, and not
even opened before one of their instances is asked for: the manifest says how many there are. An instance costs its own
pages.
"""

import json
import os
import socket
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate, chain
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from pretrain.tasks.spec import Instance, Tokens

FORMAT = 2
SPLITS = ("train", "validation")
WIDTHS = {"U8": np.uint8, "U16": np.uint16, "U32": np.uint32}
PAGE = 1 << 16
KEPT = "What is finished is kept: make room and run again."
MAPPED = 1 << 14
"""Shards that a process keeps mapped. Linux allows 65,530 mappings; mapping another takes less than 1 ms."""


def write_shard(path: Path, store: Tokens, instances: Mapping[str, Sequence[Instance]], about: dict) -> None:
    """Every segment must be a Run by now. `about` is the builder's own note on the shard."""
    wide = len(store.ids) > 0 and int(store.ids.max()) > 0xFFFF
    tensors = {
        "ids": store.ids.astype(np.uint32 if wide else np.uint16),
        "annotations": store.annotations.astype(np.uint8),
    }
    for task, made in instances.items():
        tensors |= {f"{task}.{name}": values for name, values in tabulate(made).items()}
    data = save(tensors, {"about": json.dumps(about, ensure_ascii=False)})  # several keys would come in random order
    with aside(path) as part:
        part.write_bytes(data)


def tabulate(made: Sequence[Instance]) -> dict[str, np.ndarray]:
    """The tensors of a task."""
    runs = runs_of(made)
    sizes = [len(instance.segments) for instance in made]
    first = np.cumsum([0, *sizes])
    table = {"labels": narrow([instance.label for instance in made])}
    if len(set(sizes)) > 1:
        table["first"] = narrow(first)
    starts = runs[first[:-1], 0]
    inner = np.delete(np.arange(len(runs)), first[:-1])
    if np.any(np.diff(starts) < 0) or np.any(runs[inner, 0] != runs[inner - 1, 1]):
        both, which = np.unique(runs[:, 0] << 32 | runs[:, 1], return_inverse=True)
        runs = np.stack([both >> 32, both & 0xFFFFFFFF], 1)
        table["which"] = narrow(which)
        starts = runs[:, 0]
    pages = np.searchsorted(starts, np.arange(0, starts.max(initial=0) + 1, PAGE))
    lengths = runs[:, 1] - runs[:, 0]
    return table | {"starts": (starts % PAGE).astype(np.uint16), "pages": narrow(pages), "lengths": narrow(lengths)}


def runs_of(made: Sequence[Instance]) -> np.ndarray:
    """Start and stop of every segment, one after another."""
    runs = chain.from_iterable(instance.segments for instance in made)
    return np.fromiter(chain.from_iterable(runs), np.int64).reshape(-1, 2)


def narrow(values: np.ndarray | list[int]) -> np.ndarray:
    values = np.asarray(values, np.int64)
    largest = int(values.max(initial=0))
    return values.astype(np.uint8 if largest < 1 << 8 else np.uint16 if largest < 1 << 16 else np.uint32)


@contextmanager
def aside(path: Path, many: bool = False) -> Iterator[Path]:
    """A path to write to, renamed to `path` when all went well: a file that exists is complete. Errors name `path`.

    `many`: processes, of several hosts too, may write the same file at one time.
    """
    own = f".{socket.gethostname()}.{os.getpid()}" if many else ""
    part = path.with_name(f"{path.name}{own}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error}. {KEPT}") from None


def read_header(path: Path) -> tuple[dict[str, dict], dict, int]:
    """The tensors' places, what `write_shard` was told about the shard, and where the data begins."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    about = json.loads(header.pop("__metadata__")["about"])
    return header, about, 8 + size


@lru_cache(MAPPED)
def map_tensors(path: Path, digest: str) -> dict[str, np.ndarray]:
    """Every tensor of a shard as a read-only view of the mapped file; its sha256 tells versions apart.

    Raises ValueError where the file is shorter than it was written.
    """
    header, _, start = read_header(path)
    data = np.asarray(np.memmap(path, np.uint8, "r", offset=start))  # a plain array slices much faster than a memmap
    if len(data) < max(entry["data_offsets"][1] for entry in header.values()):
        raise ValueError(f"{path} is cut short. Copy the corpus here anew, or delete it and build it again.")
    return {
        name: data[slice(*entry["data_offsets"])].view(WIDTHS[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in header.items()
    }


class Instances(Sequence[tuple[list[Tokens], int]]):
    """The instances of one task in one split of a corpus, in shard order; items are (segments, label)."""

    def __init__(self, corpus: Path, split: str, task: str):
        shards = read_manifest(corpus)["shards"][split]
        names = ("labels", "first", "which", "starts", "pages", "lengths")
        self.labels, self.first, self.which, self.starts, self.pages, self.lengths = (
            f"{task}.{name}" for name in names
        )
        self.shards = [((corpus / split / shard["file"]).absolute(), shard["sha256"]) for shard in shards]
        # A shard made of a click log holds one task alone, and those made of documents then lack it.
        self.ends = list(accumulate(shard["instances"].get(task, 0) for shard in shards))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self.ends, index)
        local = index - (self.ends[number - 1] if number else 0)
        shard = map_tensors(*self.shards[number])
        labels, which, lengths = shard[self.labels], shard.get(self.which), shard[self.lengths]
        if self.first in shard:
            first, last = shard[self.first][local : local + 2].tolist()
        else:
            each = len(lengths if which is None else which) // len(labels)
            first, last = local * each, (local + 1) * each
        if which is None:
            lengths = lengths[first:last].astype(np.int64)
            starts = self.start(shard, local) + np.cumsum(lengths) - lengths
        else:
            runs = which[first:last]
            lengths, starts = lengths[runs], self.start(shard, runs)
        ids, annotations = shard["ids"], shard["annotations"]
        segments = [
            Tokens(ids[start : start + length], annotations[start : start + length])
            for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)
        ]
        return segments, int(labels[local])

    def start(self, shard: dict[str, np.ndarray], runs):
        pages = np.searchsorted(shard[self.pages], runs, side="right") - 1
        return pages * PAGE + shard[self.starts][runs]


def write_manifest(corpus: Path, manifest: dict) -> None:
    with aside(corpus / "manifest.json") as part:
        part.write_text(json.dumps({"format": FORMAT, **manifest}, indent=1, ensure_ascii=False) + "\n", "utf-8")


def read_manifest(corpus: Path) -> dict:
    """Raises ValueError where the corpus is not built, or built in another format."""
    path = corpus / "manifest.json"
    if not path.exists():
        raise ValueError(f"{corpus} holds no finished corpus (no manifest.json). Build it: cumul corpus build CONFIG")
    manifest = json.loads(path.read_text("utf-8"))
    if manifest["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {manifest['format']}, this version reads {FORMAT}. Delete it and build anew."
        )
    return manifest
