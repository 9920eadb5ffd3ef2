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
    """Where instances that lie end to end begin and end."""

    lengths: list[int]
    starts: torch.Tensor
    """(instances + 1,), int32: where each begins, and where the last one ends."""
    places: torch.Tensor
    """(sum of lengths,): where each slot would stand if every instance had a row as long as the longest."""

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Layout":
        return Layout(self.lengths, change(self.starts), change(self.places))


class Batch(NamedTuple):
    """Examples of one task, end to end: ids, types and positions have shape (slots,)."""

    task: str
    ids: torch.Tensor
    types: torch.Tensor
    positions: torch.Tensor
    layout: Layout
    read: torch.Tensor
    """(reads,): the slots whose hidden states are read: those with a target, and the first of each instance."""
    read_layout: Layout
    """Of the slots that are read."""
    targets: dict[str, tuple[torch.Tensor, torch.Tensor]]
    """Per task: positions into `read`, and labels."""
    num_tokens: int
    """Slots that hold a token; the rest is padding."""
    counts: dict[str, int]
    """Per task: number of targets, known without asking the device."""

    def to(self, device: torch.device) -> "Batch":
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        return self.map(torch.Tensor.pin_memory)

    def reading_all(self) -> "Batch":
        """The same, of which every slot is read; where targets are is not said."""
        everything = torch.arange(len(self.ids), device=self.ids.device)
        return self._replace(read=everything, read_layout=self.layout, targets={})

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        return self._replace(
            ids=change(self.ids),
            types=change(self.types),
            positions=change(self.positions),
            layout=self.layout.map(change),
            read=change(self.read),
            read_layout=self.read_layout.map(change),
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
        return self.draw(index, epoch, companions, self.phase(position), max_length)

    def phase(self, position: int) -> int:
        """Which of `phases` a position of the feed lies in."""
        return min(position * len(self.phases) // self.budget, len(self.phases) - 1)

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
    """The beginning of every segment, in proportion to its length: at most `room` tokens, but at least one of each."""
    number, total = len(segments), sum(len(segment.ids) for segment in segments)
    if total <= room:
        return segments
    more = max(0, room - number)  # beside one of each
    kept = [1 + (len(segment.ids) - 1) * more // max(1, total - number) for segment in segments]
    return [Tokens(s.ids[:keep], s.annotations[:keep]) for s, keep in zip(segments, kept, strict=True)]


def pack(task: str, examples: Sequence[Example], multiple: int = 1) -> Batch:
    """Examples end to end. The number of slots is a multiple of `multiple`: [PAD]s at the end are an instance too."""
    num_tokens = sum(len(example.ids) for example in examples)
    if lacking := -num_tokens % multiple:
        nothing = {name: Target(np.zeros(0, np.int64), np.zeros(0, np.int64)) for name in examples[0].targets}
        examples = [*examples, Example(np.zeros(lacking, np.int64), np.zeros(lacking, np.int64), nothing)]
    reads = [np.unique(np.concatenate([[0], *(t.positions for t in example.targets.values())])) for example in examples]
    layout, read_layout = lay_out([len(example.ids) for example in examples]), lay_out([len(read) for read in reads])
    targets = {}
    for name in examples[0].targets:
        found = [np.searchsorted(read, e.targets[name].positions) for read, e in zip(reads, examples, strict=True)]
        labels = [example.targets[name].labels for example in examples]
        targets[name] = tensor(shifted(found, read_layout)), tensor(np.concatenate(labels).astype(np.int64))
    return Batch(
        task=task,
        ids=tensor(np.concatenate([example.ids for example in examples])),
        types=tensor(np.concatenate([example.types for example in examples])),
        positions=tensor(np.concatenate([np.arange(len(example.ids)) for example in examples])),
        layout=layout,
        read=tensor(shifted(reads, layout)),
        read_layout=read_layout,
        targets=targets,
        num_tokens=num_tokens,
        counts={name: len(labels) for name, (_, labels) in targets.items()},
    )


def lay_out(lengths: list[int]) -> Layout:
    places = [row * max(lengths) + np.arange(length) for row, length in enumerate(lengths)]
    return Layout(lengths, tensor(np.cumsum([0, *lengths], dtype=np.int32)), tensor(np.concatenate(places)))


def shifted(positions: Sequence[np.ndarray], layout: Layout) -> np.ndarray:
    """Positions inside instances as positions inside the layout."""
    starts = layout.starts.tolist()
    return np.concatenate([inside + start for inside, start in zip(positions, starts, strict=False)])
