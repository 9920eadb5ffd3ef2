"""What sharing modules are made of: blocks, which are bottoms or experts, gates and joins."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import ErnieConfig
from transformers.activations import ACT2FN


class Linear(nn.Linear):
    """Where it does not learn, a gradient passes through it and leaves weight and bias alone."""

    def forward(self, states: Tensor, learns: bool = True) -> Tensor:
        weight, bias = (self.weight, self.bias) if learns else (self.weight.detach(), self.bias.detach())
        return functional.linear(states, weight, bias)


class Block(nn.Module):
    """x + W₂ · activation(W₁ · norm(x)) for every token, with W₂ = 0 at first: the identity.

    The norm has no parameters of its own: W₁ would take them in. Inside the encoder there is none: x is what a
    LayerNorm gave there, and reads as the layer's own feed-forward part does (`pretrain.fold`).
    """

    def __init__(self, shape: ErnieConfig, width: int, normed: bool):
        super().__init__()
        self.normed, self.eps = normed, shape.layer_norm_eps
        self.inner = Linear(shape.hidden_size, width)
        self.activation = ACT2FN[shape.hidden_act]
        self.outer = Linear(width, shape.hidden_size)
        self.dropout = nn.Dropout(shape.hidden_dropout_prob)
        nn.init.normal_(self.inner.weight, std=shape.initializer_range)
        for parameter in (self.inner.bias, self.outer.weight, self.outer.bias):
            nn.init.zeros_(parameter)

    def forward(self, states: Tensor, learns: bool = True) -> Tensor:
        read = functional.layer_norm(states, states.shape[-1:], eps=self.eps) if self.normed else states
        return states + self.dropout(self.outer(self.activation(self.inner(read, learns)), learns))


class Gate(nn.Module):
    """softmax(W x): the share of each expert, for every token; W = 0 at first, so that all have the same.

    In training an expert is left out with the probability `dropout` (where none would be left, none is), and the others
    share what it had. What the log tells of a gate is added up per task, before that: shares, their entropy in nats,
    and the tokens.
    """

    def __init__(self, hidden: int, experts: int, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.weight = nn.Parameter(torch.zeros(experts, hidden))
        self.seen: dict[str, Tensor] = {}

    def forward(self, cue: Tensor, task: str | None = None, learns: bool = True) -> Tensor:
        """Shares (…, experts) from what the gate reads (…, hidden); counted for a task, if one is named."""
        logits = functional.linear(cue, self.weight if learns else self.weight.detach())
        shares = logits.softmax(-1)
        if self.training and task is not None:
            with torch.no_grad():
                entropy = -(shares * logits.log_softmax(-1)).sum()
                sums = [shares.flatten(0, -2).sum(0), entropy[None], shares.new_full((1,), shares[..., 0].numel())]
                self.seen[task] = self.seen.get(task, 0) + torch.cat(sums)
        if not (self.training and self.dropout):
            return shares
        dropped = torch.rand_like(logits) < self.dropout
        return logits.masked_fill(dropped & ~dropped.all(-1, keepdim=True), -torch.inf).softmax(-1)


@contextmanager
def uncounted(module: nn.Module) -> Iterator[None]:
    """What gates do in here is not for the log."""
    before = [(gate, dict(gate.seen)) for gate in module.modules() if isinstance(gate, Gate)]
    yield
    for gate, seen in before:
        gate.seen = seen


def mix(shares: Tensor, outputs: Sequence[Tensor]) -> Tensor:
    """Σ gᵢ Eᵢ, from shares (…, experts) and the outputs of the experts, each (…, hidden)."""
    return (shares.unsqueeze(-2) @ torch.stack(list(outputs), -2)).squeeze(-2)


def weighed(gate: Gate, experts: Sequence[Block], task: str, states: Tensor, cue: Tensor | None) -> Tensor:
    """What experts make of the states, mixed as the gate says of `cue`; None: of the states themselves."""
    return mix(gate(states if cue is None else cue, task), [expert(states) for expert in experts])


class Parts(NamedTuple):
    """Makes the parts of a model's sharing; initial values are addressed by (seed, name), whatever else there is."""

    shape: ErnieConfig
    width: int
    """Of the inner layer of a block."""
    gate_dropout: float
    seed: int
    normed: bool
    """Whether blocks normalise what they read."""
    place: str = "sharing"

    def at(self, name: str | int) -> "Parts":
        return self._replace(place=f"{self.place}.{name}")

    def block(self, name: str | int) -> Block:
        with drawn_from(f"{self.seed}/{self.place}.{name}"):
            return Block(self.shape, self.width, self.normed)

    def blocks(self, name: str, number: int) -> nn.ModuleList:
        return nn.ModuleList(self.at(name).block(n) for n in range(number))

    def gate(self, experts: int) -> Gate:
        return Gate(self.shape.hidden_size, experts, self.gate_dropout)

    def join(self, number: int) -> nn.Linear:
        """From concatenated states to states; at first their average."""
        hidden = self.shape.hidden_size
        with drawn_from(""):
            join = nn.Linear(number * hidden, hidden)
        join.weight.data = torch.eye(hidden).repeat(1, number) / number
        nn.init.zeros_(join.bias)
        return join


@contextmanager
def drawn_from(address: str) -> Iterator[None]:
    """Random numbers that depend on nothing but an address, and leave torch's generator where it was."""
    with torch.random.fork_rng():
        torch.manual_seed(int.from_bytes(blake2b(address.encode(), digest_size=7).digest(), "big"))
        yield
