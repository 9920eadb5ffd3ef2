"""How much of each feed the steps of a stage read: a pure function of the step, while batch and sequences grow too."""

from itertools import accumulate
from typing import NamedTuple

from pretrain.schedule.stages import Stage


class Growth(NamedTuple):
    """A stage that begins with small batches, short sequences, or both, and grows evenly to full size."""

    steps: int
    batch_size: int | None = None
    """Instances of the first step; batches are multiples of it. None: full batches."""
    max_length: int | None = None
    """Tokens of the first step's instances. None: full length."""


class Reading:
    """What the steps of a stage, from 0, read. Found in time that does not grow with the step."""

    def __init__(self, stage: Stage, batch_size: int, max_length: int, growth: Growth | None = None):
        self.stage, self.batch_size, self.max_length = stage, batch_size, max_length
        self.growth = growth or Growth(0)
        growing = [stage.task_at(step) for step in range(min(self.growth.steps, stage.total))]
        self.early = {
            task: [0, *accumulate(self.size(step) if now == task else 0 for step, now in enumerate(growing))]
            for task in stage.steps
        }

    def size(self, step: int) -> int:
        """Instances of a step, over all ranks."""
        steps, start, _ = self.growth
        if start is None or step >= steps:
            return self.batch_size
        return start * (1 + (self.batch_size // start - 1) * step // steps)

    def length(self, step: int) -> int:
        """Tokens that an instance of a step may have."""
        steps, _, start = self.growth
        if start is None or step >= steps:
            return self.max_length
        return start + (self.max_length - start) * step // steps

    def before(self, task: str, step: int) -> int:
        """Instances of a task that the first `step` steps read."""
        early = self.early[task]
        grown = min(step, len(early) - 1)
        return early[grown] + (self.stage.done(task, step) - self.stage.done(task, grown)) * self.batch_size
