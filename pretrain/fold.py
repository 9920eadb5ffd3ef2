"""Experts inside the encoder become part of its feed-forward layers, for an export.

FFN(x) + Σ ḡᵢ Fᵢ(x) with constant shares ḡ is one wider feed-forward layer: W₁' = [W₁; W₁ᵢ …], W₂' = [W₂, ḡᵢ W₂ᵢ …] and
b₂' = b₂ + Σ ḡᵢ b₂ᵢ. What is lost is that gates choose anew for every token, and the experts and gates of other tasks.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.ernie.modeling_ernie import ErnieLayer

from pretrain.config import Config
from pretrain.data.batch import Source
from pretrain.evaluate import batches, reading, record_of
from pretrain.model.model import Model
from pretrain.sharing.hard import Hard
from pretrain.sharing.inside import Inside
from pretrain.sharing.parts import Block, Gate
from pretrain.tasks import knowledge_masking
from pretrain.train import fit, read_sources
from pretrain.world import World, join


class Folding(NamedTuple):
    """What became part of the feed-forward layers, and what that costs."""

    task: str
    """Whose gates and experts: those of masked words, whose row of the task embedding fine-tuning uses; where the run
    has no such task, of its first one."""
    shares: dict[int, list[float]]
    """By number of the layer, the first being 0: what each expert counts now, a task's own ones first."""
    widths: tuple[int, int]
    """Of the feed-forward layers, before and after."""
    gated: dict[str, Any]
    """The task's evaluation with gates that choose, as trained."""
    constant: dict[str, Any]
    """The same with constant shares, as exported."""


def fold_experts(config: Config, model: Model, tasks: Sequence[str]) -> Folding:
    """Make the model of a finished stage one without sharing; gates are held at their mean over validation."""
    task = knowledge_masking.NAME if knowledge_masking.NAME in tasks else tasks[0]
    world, train, limit = join(), config.train, config.evaluate.instances
    source, before = read_sources(config, "validation", [task])[task], model.config.intermediate_size
    fit(model.to(world.device), config, world.device)
    with reading(model, train, world):
        gated = record_of(task, model, source, limit, train, world)
        shares = mean_shares(model, source, limit, train.micro_batch_size, world)
    fold(model, task, shares)
    with reading(model, train, world):
        constant = record_of(task, model, source, limit, train, world)
    model.cpu()
    plain = len(model.layers) - len(shares)
    by_layer = {number: of.tolist() for number, of in enumerate(shares, plain)}
    return Folding(task, by_layer, (before, model.config.intermediate_size), gated, constant)


def mean_shares(model: Model, source: Source, limit: int, micro_batch: int, world: World) -> list[Tensor]:
    """In each layer with experts, over all tokens of the task's validation instances."""
    gates = [gate for gate, _ in mixtures(model, source.task)]
    sums: dict[Gate, Tensor] = {}

    def add(gate: Gate, _: tuple, shares: Tensor) -> None:
        sums[gate] = sums.get(gate, 0) + shares.double().flatten(0, -2).sum(0)

    hooks = [gate.register_forward_hook(add) for gate in gates]
    for _, batch in batches(source, limit, micro_batch, world):
        model.encode(batch.reading_all())
    for hook in hooks:
        hook.remove()
    return [(sums[gate] / sums[gate].sum()).float() for gate in gates]


def mixtures(model: Model, task: str) -> list[tuple[Gate, list[Block]]]:
    """A task's gate and the experts that it weighs, in each layer that has experts."""
    return [layer.read_by(task) for layer in cast(Any, cast(Inside, model.sharing).layers)]


@torch.no_grad()
def fold(model: Model, task: str, shares: Sequence[Tensor]) -> None:
    """All layers of a stock model are equally wide, so those without experts get units of zeros, which give nothing."""
    experts = [experts for _, experts in mixtures(model, task)]
    added = [sum(expert.inner.out_features for expert in beside) for beside in experts]
    width = model.config.intermediate_size + max(added)
    plain = len(model.layers) - len(experts)
    for layer in model.layers[:plain]:
        widen(layer, [], torch.zeros(0), width)
    for layer, beside, weights in zip(model.layers[plain:], experts, shares, strict=True):
        widen(layer, beside, weights, width)
    model.config.intermediate_size = width
    model.sharing = Hard()


def widen(layer: ErnieLayer, experts: Sequence[Block], shares: Tensor, width: int) -> None:
    inner, outer = layer.intermediate.dense, layer.output.dense
    weight = torch.cat([inner.weight, *(expert.inner.weight for expert in experts)])
    bias = torch.cat([inner.bias, *(expert.inner.bias for expert in experts)])
    weighed = list(zip(shares, experts, strict=True))
    out = torch.cat([outer.weight, *(share * expert.outer.weight for share, expert in weighed)], 1)
    missing = width - len(bias)
    inner.weight.data = functional.pad(weight, (0, 0, 0, missing))
    inner.bias.data = functional.pad(bias, (0, missing))
    outer.weight.data = functional.pad(out, (0, missing))
    for share, expert in weighed:
        outer.bias.data += share * expert.outer.bias
    inner.out_features = outer.in_features = width
