"""The one contract between corpus tools and training: shards of instances and the manifest that is written last.

A shard is a safetensors file. `ids` and `annotations` hold its tokens once (3 bytes a token for vocabularies up to
65,536); an instance of a task is a few runs of them:

    ids                    (tokens,)        uint16 or uint32
    annotations            (tokens,)        uint8, the flags of pretrain.tasks.spec
    <task>.runs            (segments, 2)    uint32, start and stop in the token store
    <task>.first           (instances + 1,) uint32, instance i owns runs[first[i]:first[i + 1]]
    <task>.labels          (instances,)     uint16

Files are mapped, not read: opening costs the header, an instance costs its own pages.
"""

import json
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from pretrain.tasks.spec import Instance, Run, Tokens

FORMAT = 1
SPLITS = ("train", "validation")
_DTYPES = {"U8": np.uint8, "U16": np.uint16, "U32": np.uint32}


def write_shard(path: Path, store: Tokens, instances: dict[str, Sequence[Instance]]) -> None:
    """Write aside, then rename: a shard that exists is complete. Every segment must be a Run by now."""
    wide = len(store.ids) > 0 and int(store.ids.max()) > 0xFFFF
    tensors = {
        "ids": store.ids.astype(np.uint32 if wide else np.uint16),
        "annotations": store.annotations.astype(np.uint8),
    }
    for task, made in instances.items():
        runs = [run for instance in made for run in instance.segments]
        tensors[f"{task}.runs"] = np.array(runs, np.uint32).reshape(-1, 2)
        tensors[f"{task}.first"] = np.cumsum([0, *(len(i.segments) for i in made)]).astype(np.uint32)
        tensors[f"{task}.labels"] = np.array([i.label for i in made], np.uint16)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    save_file(tensors, aside)
    os.replace(aside, path)


def map_tensors(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a safetensors file as a read-only view of the mapped file."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    data = np.memmap(path, np.uint8, "r", offset=8 + size)
    return {
        name: data[slice(*entry["data_offsets"])].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in header.items()
    }


class Instances(Sequence[tuple[list[Tokens], int]]):
    """The instances of one task in one split of a corpus, in shard order; items are (segments, label)."""

    def __init__(self, corpus: Path, split: str, task: str):
        self.task = task
        self.shards = [map_tensors(corpus / split / entry["file"]) for entry in read_manifest(corpus)["shards"][split]]
        self.ends = list(accumulate(len(shard[f"{task}.labels"]) for shard in self.shards))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self.ends, index)
        shard, local = self.shards[number], index - (self.ends[number - 1] if number else 0)
        first, last = shard[f"{self.task}.first"][local : local + 2].tolist()
        runs = [Run(*run) for run in shard[f"{self.task}.runs"][first:last].tolist()]
        ids, annotations = shard["ids"], shard["annotations"]
        segments = [Tokens(ids[a:b], annotations[a:b]) for a, b in runs]
        return segments, int(shard[f"{self.task}.labels"][local])


def write_manifest(corpus: Path, manifest: dict) -> None:
    aside = corpus / "manifest.part"
    aside.write_text(json.dumps({"format": FORMAT, **manifest}, indent=1, ensure_ascii=False) + "\n")
    os.replace(aside, corpus / "manifest.json")


def read_manifest(corpus: Path) -> dict:
    """Raises ValueError where the corpus is not built, or built in another format."""
    path = corpus / "manifest.json"
    if not path.exists():
        raise ValueError(f"{corpus} holds no finished corpus (no manifest.json). Build it: cumul corpus build CONFIG")
    manifest = json.loads(path.read_text())
    if manifest["format"] != FORMAT:
        raise ValueError(f"{path} has format {manifest['format']}, this version reads {FORMAT}. Build the corpus anew.")
    return manifest
