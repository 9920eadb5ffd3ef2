"""Checkpoints: where a run stands, in files that travel, independent of ranks and of the ZeRO stage.

<folder>/model.safetensors     weights
<folder>/moments.safetensors   AdamW's moments by parameter name
<folder>/config.json           the encoder's shape
<folder>/state.json            the rest, and the SHA-256 of the files above; written last

A finished stage is such a folder, and so is every checkpoint of a stage in progress. Those of fine-tuning together have
other tensors beside, and no shape (`finetune.together`).
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from corpus_tools.shards import aside
from pretrain.config import Config, resolved
from pretrain.engine import get_moments, get_weights
from pretrain.loop import State
from pretrain.model.student import Student
from pretrain.run import settings
from pretrain.world import World


class Snapshot(NamedTuple):
    """All that a checkpoint holds, on the host, so that training can go on while it is written."""

    tensors: dict[str, dict[str, torch.Tensor]]
    """By the file's name: `model`, `moments`."""
    about: dict
    """With the step in `state`."""
    shape: dict | None = None


def take_snapshot(engine, state: State, manifest: dict, config: Config, world: World) -> Snapshot:
    """Whole in the main rank, empty in the others. Collective."""
    moments, updates = get_moments(engine, world.main)
    about = {
        "state": asdict(state),
        "updates": updates,
        "corpus": manifest["fingerprint"],
        "settings": settings(resolved(config)) | circumstances(world),
    }
    if isinstance(engine.module, Student) and engine.module.teacher is not None:
        about["teacher"] = engine.module.teacher.fingerprint
    tensors = {"model": get_weights(engine, world.main), "moments": moments}
    return Snapshot(tensors, about, engine.module.config.to_dict())


def circumstances(world: World) -> dict[str, str | int]:
    """What may change between two starts of a run beside its settings."""
    return {"ranks": world.size, "device": world.device.type, "torch": torch.__version__}


def write(folder: Path, snapshot: Snapshot) -> None:
    """Write into a folder. Raises OSError where the disk is full."""
    paths = {folder / f"{name}.safetensors": tensors for name, tensors in snapshot.tensors.items()}
    for path, tensors in paths.items():
        write_tensors(path, tensors)
    files = list(paths)
    if snapshot.shape is not None:
        files.append(folder / "config.json")
        write_json(files[-1], snapshot.shape)
    write_json(folder / "state.json", {**snapshot.about, "files": {path.name: sha256(path) for path in files}})


class Checkpoints:
    """The checkpoints of a stage in progress, written in the background."""

    def __init__(self, folder: Path, keep_last: int, keep_every: int | None):
        self.folder, self.keep_last, self.keep_every = folder, keep_last, keep_every
        self.thread = ThreadPoolExecutor(1)
        self.writing: Future | None = None

    def save(self, snapshot: Snapshot) -> None:
        self.wait()
        self.writing = self.thread.submit(self.write, snapshot)

    def wait(self) -> None:
        """Until all is written. Raises what went wrong."""
        if self.writing is not None:
            self.writing.result()

    def write(self, snapshot: Snapshot) -> None:
        """Aside, then renamed; then it is the latest; then older ones go."""
        target = self.folder / f"step{snapshot.about['state']['step']}"
        part = target.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        write(part, snapshot)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(part, target)
        write_json(self.folder / "latest.json", {"checkpoint": target.name})
        self.prune(self.keep_last)

    def prune(self, keep_last: int) -> None:
        for old in all_checkpoints(self.folder)[keep_last:]:
            if self.keep_every is None or step_of(old) % self.keep_every:
                shutil.rmtree(old)


def all_checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    found = (path for path in folder.glob("step*") if path.suffix != ".part")
    return sorted(found, key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step"))


def newest_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """The checkpoint to go on from, and what is damaged in newer ones. Raises ValueError where none is whole."""
    damage: list[str] = []
    for checkpoint in all_checkpoints(folder):
        wrong = damaged(checkpoint)
        if wrong is None:
            return checkpoint, damage
        damage.append(wrong)
    if damage:
        raise ValueError(f"{'; '.join(damage)}. No checkpoint is left: delete {folder.parent} to train it anew.")
    return None, []


def damaged(folder: Path) -> str | None:
    """What is wrong with the files of a folder, None where all is well."""
    try:
        about = json.loads((folder / "state.json").read_text())
        for name, digest in about["files"].items():
            if sha256(folder / name) != digest:
                return f"{folder / name} is damaged: its SHA-256 is not the one recorded"
    except FileNotFoundError as error:
        return f"{error.filename} is missing"
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError):
        return f"{folder / 'state.json'} is damaged"
    return None


def read_about(folder: Path, manifest: dict) -> dict:
    """state.json of a checkpoint. Raises ValueError where the corpus is not the one that it was trained on."""
    about = json.loads((folder / "state.json").read_text())
    if about["corpus"] != manifest["fingerprint"]:
        raise ValueError(
            f"{folder} was trained on another corpus than the one that lies there now: it was built anew, from other "
            "text or settings. Give the run another name= to start over on it."
        )
    return about


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    with aside(path) as part:
        try:
            save_file(dict(tensors), part, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(str(error)) from None


def write_json(path: Path, thing: dict) -> None:
    with aside(path) as part:
        part.write_text(json.dumps(thing, indent=1) + "\n")
