"""From instances to the tensors of one forward pass: draw, then pack without leaving room for padding.

Several instances share a row of `max_length` tokens; attention is block-diagonal and positions restart, so an instance
is computed as if it were alone. Measured on CPU at length 128, the block mask costs nothing beside a padding mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import torch
from torch import from_numpy as tensor

from pretrain.data.feed import order
from pretrain.tasks import TASKS
from pretrain.tasks.spec import Settings, Tokens, Vocabulary, assemble


class Target(NamedTuple):
    """What one task predicts: positions (in an instance, or flat in a batch) and labels."""

    positions: np.ndarray
    labels: np.ndarray


class Example(NamedTuple):
    """One drawn instance: what the encoder is shown, and the targets of the task and of its companions."""

    ids: np.ndarray
    types: np.ndarray
    targets: dict[str, Target]


@dataclass(frozen=True)
class Batch:
    """Examples of one task, packed into rows. All tensors but the targets have shape (rows, width)."""

    task: str
    ids: torch.Tensor
    types: torch.Tensor
    positions: torch.Tensor
    owner: torch.Tensor
    """Number of the example that a token belongs to; -1 is padding. Attention stays inside an owner."""
    targets: dict[str, tuple[torch.Tensor, torch.Tensor]]
    """Per task: flat positions into rows × width, and labels."""
    num_tokens: int
    counts: dict[str, int]
    """Per task: number of targets, known without asking the device."""

    def to(self, device: torch.device) -> "Batch":
        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, non_blocking=True)

        return replace(
            self,
            ids=move(self.ids),
            types=move(self.types),
            positions=move(self.positions),
            owner=move(self.owner),
            targets={task: (move(where), move(labels)) for task, (where, labels) in self.targets.items()},
        )


def address(*parts: object) -> np.random.Generator:
    """A generator for one purpose: the same address gives the same numbers on any rank, at any time."""
    digest = blake2b("/".join(map(str, parts)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


@dataclass(frozen=True)
class Source:
    """Draws the examples of one task from one split of a corpus."""

    task: str
    instances: Sequence[tuple[list[Tokens], int]]
    phases: Sequence[Settings]
    """How instances are drawn, one after another, each for an equal part of the budget."""
    vocabulary: Vocabulary
    seed: int
    budget: int = 1
    """Instances of the task in the whole run; beyond them the last phase goes on."""

    def at(self, position: int, companions: Sequence[str] = ()) -> Example:
        """The example at a position of the endless feed."""
        epoch, index = order(position, len(self.instances), self.seed, self.task)
        phase = min(position * len(self.phases) // self.budget, len(self.phases) - 1)
        return self.draw(index, epoch, companions, phase)

    def draw(self, index: int, epoch: int | str, companions: Sequence[str] = (), phase: int = 0) -> Example:
        """One instance, redrawn for this epoch; `epoch` may be a name, such as that of the frozen validation."""
        spec, settings = TASKS[self.task], self.phases[phase]
        segments, label = self.instances[index]
        if spec.draw is not None:
            rng = address(self.seed, self.task, index, epoch)
            segments, label = spec.draw(segments, label, rng, settings)
        tokens, types = assemble(segments, self.vocabulary)
        targets = {}
        if spec.target is None:
            targets[self.task] = Target(np.zeros(1, np.int64), np.array([label]))
        for name in (self.task, *companions):
            predict = TASKS[name].target
            if predict is not None:
                rng = address(self.seed, self.task, index, epoch, name)
                ids, where, labels = predict(tokens, rng, self.vocabulary, settings)
                tokens = Tokens(ids, tokens.annotations)
                targets[name] = Target(where, labels)
        return Example(tokens.ids, types, targets)


def pack(task: str, examples: Sequence[Example], width: int) -> Batch:
    """First fit, longest first: each example goes into the first row that has room."""
    rows: list[list[int]] = []
    room: list[int] = []
    for number in sorted(range(len(examples)), key=lambda i: -len(examples[i].ids)):
        length = len(examples[number].ids)
        row = next((r for r, free in enumerate(room) if free >= length), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(width)
        rows[row].append(number)
        room[row] -= length
    width -= min(room)
    shape = (len(rows), width)
    ids, types, positions = (np.zeros(shape, np.int64) for _ in range(3))
    owner = np.full(shape, -1, np.int32)
    start = {}
    for row, numbers in enumerate(rows):
        column = 0
        for number in numbers:
            example = examples[number]
            span = slice(column, column + len(example.ids))
            ids[row, span], types[row, span], owner[row, span] = example.ids, example.types, number
            positions[row, span] = np.arange(len(example.ids))
            start[number] = row * width + column
            column = span.stop
    targets = {}
    for name in examples[0].targets:
        where = [example.targets[name].positions + start[number] for number, example in enumerate(examples)]
        labels = [example.targets[name].labels for example in examples]
        targets[name] = tensor(np.concatenate(where)), tensor(np.concatenate(labels).astype(np.int64))
    return Batch(
        task=task,
        ids=tensor(ids),
        types=tensor(types),
        positions=tensor(positions),
        owner=tensor(owner),
        targets=targets,
        num_tokens=sum(len(example.ids) for example in examples),
        counts={name: len(labels) for name, (_, labels) in targets.items()},
    )
