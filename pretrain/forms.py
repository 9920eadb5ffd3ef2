"""The forms of Hugging Face's that an encoder is exported in: what transformers has a class for, under its names.

ERNIE: the pooler is kept although masked LM does not use it: the sentence tasks trained it. The task-type embedding is
kept and switched on (`use_task_id`); fine-tuning uses row 0 unless told otherwise.

DistilBERT: a student. It has neither token types nor tasks: row 0 of both is added to every position, so that hidden
states are those of one segment.

ALBERT: an encoder that shares its layers or has narrow embeddings. It has no task-type embedding: row 0 is added to
every token type, so that hidden states are those of row 0. Where layers are not shared each is a group of its own;
where embeddings are as wide as the layers the matrix between them is the identity.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import AlbertConfig, DistilBertConfig, PreTrainedConfig

from pretrain.model.model import MASKED_LM_NAMES, TASK_IDS, Model, embedding_width, shares_layers
from pretrain.model.student import MASKED, Student

BERT_INPUTS = ["input_ids", "token_type_ids", "attention_mask"]
LAYER_IN_ALBERT = {
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.output.dense": "attention.dense",
    "attention.output.LayerNorm": "attention.LayerNorm",
    "intermediate.dense": "ffn",
    "output.dense": "ffn_output",
    "output.LayerNorm": "full_layer_layer_norm",
}
LAYER_IN_DISTILBERT = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}
HEAD_IN_DISTILBERT = {"dense": "vocab_transform", "norm": "vocab_layer_norm", "bias": "vocab_projector.bias"}
HEAD_IN_ALBERT = {"dense": "predictions.dense", "norm": "predictions.LayerNorm", "bias": "predictions.bias"}


class Form(NamedTuple):
    config: PreTrainedConfig
    tensors: dict[str, Tensor]
    inputs: list[str]
    """What its tokenizer gives."""
    size: int
    """Weights of the encoder, heads not counted."""
    note: str
    """For the model card."""


def form_of(model: Model, masked: list[str]) -> Form:
    """`masked` names the tasks with a masked-LM head."""
    if isinstance(model, Student) and model.distill.shape == "distilbert":
        return as_distilbert(model)
    if shares_layers(model.config) or embedding_width(model.config) != model.config.hidden_size:
        return as_albert(model, masked)
    return as_ernie(model, masked)


def as_ernie(model: Model, masked: list[str]) -> Form:
    """Our parameters under the names of `ErnieForMaskedLM`; the task rows become one table."""
    model.config.task_type_vocab_size = len(TASK_IDS)  # more than when the run began, where a task was added since
    model.config.architectures = ["ErnieForMaskedLM" if masked else "ErnieModel"]
    rows = "embeddings.task_type_embeddings."
    tensors: dict[str, Tensor] = {
        f"ernie.{name}": parameter for name, parameter in model.encoder.named_parameters() if not name.startswith(rows)
    }
    tensors[f"ernie.{rows}weight"] = model.task_embeddings.table()
    for task in masked:
        place = dict(model.heads[task].named_parameters())
        tensors |= {theirs: place[ours] for theirs, ours in MASKED_LM_NAMES.items()}
    note = (
        "`task_type_ids` selects a row of the task embedding (tasks.json has the numbers); without it row 0 is used, "
        "which is right for fine-tuning."
    )
    size = sum(parameter.numel() for parameter in model.encoder.parameters())
    return Form(model.config, kept(tensors), BERT_INPUTS, size, note)


def as_albert(model: Model, masked: list[str]) -> Form:
    """Our parameters under the names of `AlbertForMaskedLM`."""
    shape, encoder = model.config, model.encoder
    width, groups = embedding_width(shape), len(encoder.encoder.layer)
    config = AlbertConfig(
        **{name: getattr(shape, name) for name in SAME_IN_ALBERT},
        embedding_size=width,
        num_hidden_groups=groups,
        architectures=["AlbertForMaskedLM" if masked else "AlbertModel"],
    )
    tensors = {f"albert.embeddings.{name}": tensor for name, tensor in tables(model).items()}
    types = "albert.embeddings.token_type_embeddings.weight"
    tensors[types] = tensors[types] + model.task_embeddings.table()[0]
    wide = model.projection
    tensors |= {
        "albert.encoder.embedding_hidden_mapping_in.weight": torch.eye(width) if wide is None else wide.weight,
        "albert.encoder.embedding_hidden_mapping_in.bias": torch.zeros(width) if wide is None else wide.bias,
    }
    for number, layer in enumerate(encoder.encoder.layer):
        place = f"albert.encoder.albert_layer_groups.{number}.albert_layers.0"
        tensors |= {f"{place}.{name}": tensor for name, tensor in renamed(layer, LAYER_IN_ALBERT).items()}
    tensors |= {f"albert.{name}": tensor for name, tensor in renamed(encoder, {"pooler.dense": "pooler"}).items()}
    size = sum(tensor.numel() for tensor in tensors.values())
    for task in masked:
        tensors |= renamed(model.heads[task], HEAD_IN_ALBERT)
    note = f"The embedding of the task {next(iter(TASK_IDS))} is part of the token types."
    return Form(config, kept(tensors), BERT_INPUTS, size, note)


def as_distilbert(student: Student) -> Form:
    """Our parameters under the names of `DistilBertForMaskedLM`."""
    shape = student.config
    config = DistilBertConfig(
        vocab_size=shape.vocab_size,
        max_position_embeddings=shape.max_position_embeddings,
        n_layers=shape.num_hidden_layers,
        n_heads=shape.num_attention_heads,
        dim=shape.hidden_size,
        hidden_dim=shape.intermediate_size,
        activation=shape.hidden_act,
        dropout=shape.hidden_dropout_prob,
        attention_dropout=shape.attention_probs_dropout_prob,
        initializer_range=shape.initializer_range,
        pad_token_id=shape.pad_token_id,
        architectures=["DistilBertForMaskedLM"],
    )
    tensors = {f"distilbert.embeddings.{name}": tensor for name, tensor in tables(student).items()}
    types = tensors.pop("distilbert.embeddings.token_type_embeddings.weight")
    positions = "distilbert.embeddings.position_embeddings.weight"
    tensors[positions] = tensors[positions] + types[0] + student.task_embeddings.table()[TASK_IDS[MASKED]]
    for number, layer in enumerate(student.layers):
        place = f"distilbert.transformer.layer.{number}"
        tensors |= {f"{place}.{name}": tensor for name, tensor in renamed(layer, LAYER_IN_DISTILBERT).items()}
    size = sum(tensor.numel() for tensor in tensors.values())
    tensors |= renamed(student.heads[MASKED], HEAD_IN_DISTILBERT)
    note = "It reads all tokens as one segment: there are no token types, and no pooler."
    return Form(config, kept(tensors), ["input_ids", "attention_mask"], size, note)


SAME_IN_ALBERT = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
    "hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings", "type_vocab_size",
    "initializer_range", "layer_norm_eps", "pad_token_id",
)  # fmt: skip


def tables(model: Model) -> dict[str, Tensor]:
    """The embeddings of words, positions and token types, and their norm."""
    wanted = ("word_", "position_", "token_type_", "LayerNorm")
    return {name: p for name, p in model.encoder.embeddings.named_parameters() if name.startswith(wanted)}


def renamed(module: nn.Module, names: dict[str, str]) -> dict[str, Tensor]:
    """The parameters of the submodules named, under other names."""
    parameters = dict(module.named_parameters())
    return {
        theirs + name.removeprefix(ours): parameter
        for ours, theirs in names.items()
        for name, parameter in parameters.items()
        if name == ours or name.startswith(f"{ours}.")
    }


def kept(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As they are written."""
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
