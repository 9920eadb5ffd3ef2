"""From instances to the tensors of one forward pass: draw, then lay them end to end, without padding.

Positions restart with every instance and attention stays inside it (`pretrain.model.attention`), so an instance is
computed as if it were alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


class Layout(NamedTuple):
    """Where the instances of a flat batch lie."""

    lengths: list[int]
    starts: torch.Tensor
    """(instances + 1,), int32: where each begins, and where the last one ends."""
    places: torch.Tensor
    """(tokens,): where each token would stand if every instance had a row as long as the longest."""


class Batch(NamedTuple):
    """Examples of one task, end to end: ids, types and positions have shape (slots,)."""

    task: str
    ids: torch.Tensor
    types: torch.Tensor
    positions: torch.Tensor
    layout: Layout
    targets: dict[str, tuple[torch.Tensor, torch.Tensor]]
    """Per task: positions into the slots, and labels."""
    num_tokens: int
    """Slots that hold a token; the rest is padding."""
    counts: dict[str, int]
    """Per task: number of targets, known without asking the device."""

    def to(self, device: torch.device) -> "Batch":
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        return self.map(torch.Tensor.pin_memory)

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        return self._replace(
            ids=change(self.ids),
            types=change(self.types),
            positions=change(self.positions),
            layout=Layout(self.layout.lengths, change(self.layout.starts), change(self.layout.places)),
            targets={task: (change(where), change(labels)) for task, (where, labels) in self.targets.items()},
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

    def at(self, position: int, companions: Sequence[str] = (), max_length: int | None = None) -> Example:
        """The example at a position of the endless feed, cut to `max_length` tokens."""
        epoch, index = order(position, len(self.instances), self.seed, self.task)
        phase = min(position * len(self.phases) // self.budget, len(self.phases) - 1)
        return self.draw(index, epoch, companions, phase, max_length)

    def draw(
        self,
        index: int,
        epoch: int | str,
        companions: Sequence[str] = (),
        phase: int = 0,
        max_length: int | None = None,
    ) -> Example:
        """One instance, redrawn for this epoch; `epoch` may be a name, such as that of the frozen validation."""
        spec, settings = TASKS[self.task], self.phases[phase]
        segments, label = self.instances[index]
        if max_length is not None:
            segments = shorten(segments, max_length - 1 - len(segments))
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


def shorten(segments: list[Tokens], room: int) -> list[Tokens]:
    """The beginning of every segment, each in proportion to its length, at most `room` tokens but one of each."""
    total = sum(len(segment.ids) for segment in segments)
    if total <= room:
        return segments
    kept = [max(1, len(segment.ids) * room // total) for segment in segments]
    return [Tokens(s.ids[:keep], s.annotations[:keep]) for s, keep in zip(segments, kept, strict=True)]


def pack(task: str, examples: Sequence[Example], multiple: int = 1) -> Batch:
    """Examples end to end. The number of slots is a multiple of `multiple`: [PAD]s at the end are an instance too."""
    lengths = [len(example.ids) for example in examples]
    num_tokens = sum(lengths)
    starts = np.cumsum([0, *lengths])
    targets = {}
    for name in examples[0].targets:
        where = [example.targets[name].positions + start for example, start in zip(examples, starts, strict=False)]
        labels = [example.targets[name].labels for example in examples]
        targets[name] = tensor(np.concatenate(where)), tensor(np.concatenate(labels).astype(np.int64))
    filler = np.zeros(-num_tokens % multiple, np.int64)
    if len(filler):
        lengths.append(len(filler))
    positions = [np.arange(length) for length in lengths]
    return Batch(
        task=task,
        ids=tensor(np.concatenate([*(example.ids for example in examples), filler])),
        types=tensor(np.concatenate([*(example.types for example in examples), filler])),
        positions=tensor(np.concatenate(positions)),
        layout=Layout(
            lengths=lengths,
            starts=tensor(np.cumsum([0, *lengths], dtype=np.int32)),
            places=tensor(np.concatenate([row * max(lengths) + place for row, place in enumerate(positions)])),
        ),
        targets=targets,
        num_tokens=num_tokens,
        counts={name: len(labels) for name, (_, labels) in targets.items()},
    )
