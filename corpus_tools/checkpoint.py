"""Where a checkpoint's files come from: a local directory, the hub, or the demo package."""

import json
from collections.abc import Sequence
from pathlib import Path

from corpus_tools import packages

ARCHITECTURES = ("bert", "ernie")


def read_files(source: str, names: Sequence[str], setting: str) -> dict[str, bytes]:
    """Those of the named files that the checkpoint has; `setting` is named in the ValueError of a bad source."""
    if source.startswith("demo:"):
        files = packages.demo_checkpoint(source.removeprefix("demo:"))
        return {name: files[name] for name in names if name in files}
    folder = Path(source)
    if not folder.is_dir():
        if not may_be_on_hub(source):
            raise ValueError(f"{setting}={source}: no such directory.")
        folder = download(source, names, setting)
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


def may_be_on_hub(source: str) -> bool:
    """Names there are NAME or OWNER/NAME."""
    return source.count("/") < 2 and not source.startswith((".", "/"))


def read_config(source: str, files: dict[str, bytes], setting: str) -> dict:
    """config.json among the files; ValueError where it is missing, damaged, or of neither BERT nor ERNIE."""
    if "config.json" not in files:
        raise ValueError(f"{setting}={source}: no config.json in it.")
    try:
        config = json.loads(files["config.json"])
    except json.JSONDecodeError as error:
        raise ValueError(f"{setting}={source}: config.json is damaged ({error}). Fetch it again.") from None
    if config.get("model_type") not in ARCHITECTURES:
        raise ValueError(
            f"{setting}={source}: a {config.get('model_type')!r} checkpoint; only {' and '.join(ARCHITECTURES)} have "
            "the layers of this encoder."
        )
    return config


def download(name: str, names: Sequence[str], setting: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(names)))
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{setting}={name} is no local directory, nor did the hub give it: {reason}") from None
