"""Whether the hosts of a run fit together: same code, packages, corpus, and one run folder. Torch-free."""

import hashlib
import platform
import resource
import shutil
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from corpus_tools.shards import read_manifest
from pretrain.config import Config

PACKAGES = ("torch", "deepspeed", "transformers", "tokenizers", "safetensors", "numpy")
CODE = ("pretrain", "corpus_tools", "launch")
CLOCK = "its clock"
MAX_SKEW = 5.0
"""Seconds by which clocks may differ: logs of several hosts would be in the wrong order."""
MIN_FILES = 4096
"""Open files that a rank may need: shards, sockets to other ranks, readers."""

FIXES = {
    "code": "Bring the same revision of cumul to both.",
    "python": "Make .venv with the same Python on both.",
    "corpus": "Copy the corpus folder of one to the other, or put corpora/ on a disk that both share.",
    "tokenizer": "Copy the corpus folder of one to the other.",
}


class Facts(NamedTuple):
    """What a host says of itself."""

    same: dict[str, str]
    """What must be the same on all hosts."""
    free: int
    """Bytes free where the run folder lies."""
    files: int
    """Files that a process may have open."""
    clock: float
    """Seconds since 1970."""


def look(config: Config) -> Facts:
    """The facts of this host."""
    corpus = config.corpus.folder()
    built = (corpus / "manifest.json").exists()
    same = {
        "code": code_digest(),
        "python": platform.python_version(),
        **{package: installed(package) for package in PACKAGES},
        "corpus": read_manifest(corpus)["fingerprint"] if built else "missing",
        "tokenizer": read_manifest(corpus)["tokenizer"]["fingerprint"] if built else "missing",
    }
    there = next(path for path in (config.folder(), *config.folder().absolute().parents) if path.exists())
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)  # a rank raises its soft limit itself
    return Facts(same, shutil.disk_usage(there).free, files, time.time())


def code_digest() -> str:
    """Of the sources, so that an edited file is another version."""
    home, digest = Path(__file__).parent.parent, hashlib.sha256()
    for path in sorted(path for package in CODE for path in (home / package).rglob("*.py")):
        digest.update(f"{path.relative_to(home)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def complaints(hosts: Sequence[tuple[str, Facts]], needed: float) -> list[str]:
    """What is wrong, a line each, every host compared with the first; `needed` bytes for checkpoints."""
    found = []
    (first, reference), *others = hosts
    if reference.same["corpus"] == "missing":
        found.append(f"{first}: no corpus. Build it: cumul corpus build CONFIG")
    for host, facts in others:
        for name, theirs in reference.same.items():
            if facts.same[name] != theirs:
                fix = FIXES.get(name, "Install the pins of requirements.txt on both.")
                found.append(f"{host}: {name} is {facts.same[name]}, on {first} it is {theirs}. {fix}")
        if abs(skew := facts.clock - reference.clock) > MAX_SKEW:
            found.append(f"{host}: {CLOCK} is {skew:+.0f} s off that of {first}. Let both follow a time server.")
    for host, facts in hosts:
        if facts.free < needed:
            found.append(
                f"{host}: {facts.free / 1e9:.2f} GB free for runs/, checkpoints take {needed / 1e9:.2f} GB. Make room, "
                "or lower train.keep_last."
            )
        if facts.files < MIN_FILES:
            found.append(f"{host}: a process may open {facts.files} files only. Raise it: ulimit -Hn {MIN_FILES}")
    return found
