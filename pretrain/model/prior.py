"""Prior weights: reading a BERT or ERNIE checkpoint, from a directory, the hub, or the demo package.

Only safetensors is read: a pickle from the internet can run code. Parameter names come out as those of `ErnieModel`
(`embeddings.…`, `encoder.…`, `pooler.…`) and of its masked-LM head (`cls.predictions.…`).
"""

from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from corpus_tools.checkpoint import read_config, read_files

SAME_IN_ERNIE = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
    "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "pad_token_id", "initializer_range",
)  # fmt: skip


class Prior(NamedTuple):
    config: dict
    """The fields of `ErnieConfig` that the checkpoint decides."""
    tensors: dict[str, torch.Tensor]


def read_prior(source: str, setting: str = "model.prior") -> Prior:
    """Raises ValueError, naming `setting`, where a checkpoint is missing, damaged, not BERT-like or no safetensors."""
    files = read_files(source, ["config.json", "model.safetensors"], setting)
    config = read_config(source, files, setting)
    if "model.safetensors" not in files:
        raise ValueError(
            f"{setting}={source}: no model.safetensors in it. A pytorch_model.bin is a pickle, which may run code, "
            "and is not read: convert it by AutoModelForMaskedLM.from_pretrained(…).save_pretrained(…)."
        )
    try:
        found = load(files["model.safetensors"])
    except SafetensorError as error:
        raise ValueError(f"{setting}={source}: model.safetensors is damaged ({error}). Fetch it again.") from None
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise ValueError(f"{setting}={source}: only absolute position embeddings are supported.")
    tensors = {}
    for name, tensor in found.items():
        name = name.removeprefix("bert.").removeprefix("ernie.")
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if name.startswith(("embeddings.", "encoder.", "pooler.", "cls.predictions.")):
            tensors[name] = tensor.float()
    if not config.get("use_task_id"):  # transformers ignores the table then, and so do the checkpoint's users
        tensors.pop("embeddings.task_type_embeddings.weight", None)
    return Prior({key: config[key] for key in SAME_IN_ERNIE if key in config}, tensors)


def fit_types(table: torch.Tensor, rows: int) -> torch.Tensor:
    """Token-type embeddings for more segments than the checkpoint knew: a new segment starts as the last known one."""
    missing = max(0, rows - len(table))
    return torch.cat([table, table[-1:].expand(missing, -1)])
