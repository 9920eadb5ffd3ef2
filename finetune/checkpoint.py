"""A checkpoint as a local folder: Hugging Face's layout, safetensors only, no code from elsewhere."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import transformers
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from corpus_tools.checkpoint import may_be_on_hub
from corpus_tools.packages import demo_checkpoint


def name_of(checkpoint: str) -> str:
    """What its results are filed under: runs/mine/export is `mine`, a folder its name, nyu/bert is `nyu-bert`."""
    path = Path(checkpoint)
    if path.is_dir():
        path = path.resolve()
        return path.parent.name if path.name == "export" else path.name
    return checkpoint.replace("/", "-").replace(":", "-")


@contextmanager
def local(checkpoint: str) -> Iterator[Path]:
    """A folder that holds it. Raises ValueError where it is not to be had or not in safetensors."""
    with TemporaryDirectory(prefix="cumul-") as folder:
        path = Path(checkpoint)
        if checkpoint.startswith("demo:"):
            path = Path(folder)
            for name, content in demo_checkpoint(checkpoint.removeprefix("demo:")).items():
                (path / name).write_bytes(content)
        elif not path.is_dir():
            if not may_be_on_hub(checkpoint):
                raise ValueError(f"checkpoint {checkpoint}: no such directory.")
            path = download(checkpoint)
        if not (path / "config.json").is_file():
            raise ValueError(f"checkpoint {checkpoint}: no config.json in it.")
        if not any(path.glob("*.safetensors")):
            raise ValueError(
                f"checkpoint {checkpoint}: no safetensors in it. A pytorch_model.bin is a pickle, which may run code, "
                "and is not read: convert it by AutoModel.from_pretrained(…).save_pretrained(…)."
            )
        yield path


def download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.txt", "*.model"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"checkpoint {name} is no local directory, nor did the hub give it: {reason}") from None


def fingerprint(folder: Path) -> str:
    """Of weights, shape and tokenizer."""
    names = sorted(path for path in folder.glob("*") if path.suffix in (".safetensors", ".json", ".txt", ".model"))
    digests = []
    for path in names:
        with path.open("rb") as file:
            digests.append(file_digest(file, "sha256").hexdigest())
    return "-".join(digest[:12] for digest in digests)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    with quiet():
        return AutoTokenizer.from_pretrained(folder)


def load_model(auto: Any, folder: Path, **shape: Any) -> tuple[PreTrainedModel, list[str]]:
    """The model of an `AutoModelFor…` class, and which of its parameters are new: of the head, not of the encoder.

    `shape` goes into its config. Raises ValueError where the checkpoint lacks, or misfits, a weight of the encoder.
    """
    with quiet():
        try:
            model, info = auto.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **shape)
        except (OSError, RuntimeError) as error:
            raise ValueError(f"checkpoint {folder} cannot be loaded: {' '.join(str(error).split())}") from None
    new = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    inside = [key for key in new if key.startswith(f"{model.base_model_prefix}.") and ".pooler." not in key]
    if inside:
        raise ValueError(f"checkpoint {folder} lacks {len(inside)} weights of the encoder, {inside[0]} for one.")
    return model.float(), new


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' reports on what was missing; we say it in a line."""
    level, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity(logging.ERROR)
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()
