"""The batches of every step of a stage, and reading them ahead of the loop."""

import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Dataset

from pretrain.data.batch import Batch, Example, Source, address, pack
from pretrain.schedule.reading import Reading
from pretrain.tasks import TASKS

AHEAD = 4
"""Steps that each reader prepares before they are asked for."""
ALIGNED = 64
"""On GPU the number of slots is a multiple of this: matrix products are faster."""


class Share(NamedTuple):
    """The instances of one step: `size` of them from `position` in the feed of a task."""

    task: str
    position: int
    size: int


@dataclass(frozen=True)
class Steps(Dataset):
    """Item k: what step k of a stage reads on one rank, in micro-batches; k counts from 0.

    Which instances a step has depends neither on ranks and micro-batches nor on the steps that were run before it.
    """

    reading: Reading
    sources: Mapping[str, Source]
    begin: Mapping[str, int]
    """Where the feed of each task stands when the stage begins."""
    companions: Sequence[str]
    micro_batch_size: int
    rank: int = 0
    ranks: int = 1
    multiple: int = 1

    def __len__(self) -> int:
        return self.reading.stage.total

    def __getitem__(self, step: int) -> list[Batch]:
        task, position, size = self.share(step)
        source, length, riding = self.sources[task], self.reading.length(step), self.riding(task)
        return self.cut(task, size, lambda number: source.at(position + number, riding, length))

    def beside(self, task: str, step: int, run_step: int) -> list[Batch]:
        """A batch of a task as large as that of a step, of instances and masks of its own, addressed by the run's step.

        No feed moves. Companions ride along, so that the encoder is shown what it is shown in training.
        """
        source, length, riding = self.sources[task], self.reading.length(step), self.riding(task)
        size, phase = self.reading.size(step), source.phase(self.position(task, step))
        chosen = address(source.seed, task, "probe", run_step).integers(len(source.instances), size=size).tolist()
        return self.cut(
            task, size, lambda number: source.draw(chosen[number], f"probe/{run_step}/{number}", riding, phase, length)
        )

    def cut(self, task: str, size: int, example: Callable[[int], Example]) -> list[Batch]:
        """This rank's part of `size` examples, in micro-batches."""
        mine = np.arange(self.rank, size, self.ranks)
        # as many for every rank, because they reduce together; where a rank has an instance more, a batch has too
        number = -(-(size // self.ranks) // self.micro_batch_size)
        micro = [chunk.tolist() for chunk in np.array_split(mine, number)]
        return [pack(task, [example(at) for at in chunk], self.multiple) for chunk in micro]

    def riding(self, task: str) -> list[str]:
        """The companions of a task."""
        return [name for name in self.companions if name in self.reading.stage.steps and TASKS[task].target is None]

    def share(self, step: int) -> Share:
        task = self.reading.stage.task_at(step)
        return Share(task, self.position(task, step), self.reading.size(step))

    def position(self, task: str, step: int) -> int:
        """Where the feed of a task stands before a step."""
        return self.begin.get(task, 0) + self.reading.before(task, step)


def read_ahead(steps: Steps, first: int, readers: int, gpu: bool) -> Iterator[list[Batch]]:
    """The items of `steps` from `first` on, prepared by as many processes; 0: by a thread of this one."""
    if not readers:
        yield from in_a_thread(steps, first, gpu)
        return
    yield from DataLoader(
        steps,
        batch_size=None,
        sampler=range(first, len(steps)),
        collate_fn=as_it_is,
        num_workers=readers,
        multiprocessing_context="forkserver",
        prefetch_factor=AHEAD,
        worker_init_fn=ignore_signals,
        pin_memory=gpu,
    )


def in_a_thread(steps: Steps, first: int, gpu: bool) -> Iterator[list[Batch]]:
    """It reads while the loop computes: on CPU as good as a process, which would take as much of the cores."""

    def read(step: int) -> list[Batch]:
        return [batch.pin_memory() if gpu else batch for batch in steps[step]]

    with ThreadPoolExecutor(1) as thread:
        ahead = deque(thread.submit(read, step) for step in range(first, min(first + AHEAD, len(steps))))
        for step in range(first + AHEAD, len(steps) + AHEAD):
            if not ahead:
                return
            batches = ahead.popleft().result()
            if step < len(steps):
                ahead.append(thread.submit(read, step))
            yield batches


def as_it_is(batches: list[Batch]) -> list[Batch]:
    return batches


def ignore_signals(_reader: int) -> None:
    """A terminal's Ctrl-C reaches readers too; the loop, which finishes its step, is who ends them."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
