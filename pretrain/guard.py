"""The loss guard: a step whose gradient is not finite, or is a spike, changes nothing, and is remembered.

Decided on the device, without waiting for it; only the guard against spikes, where it is on, waits in every step.
"""

from dataclasses import dataclass, field
from math import inf
from statistics import fmean, pstdev
from typing import NamedTuple

from torch import Tensor

from pretrain.data.steps import Share


class Skipped(NamedTuple):
    """A step that was not taken."""

    run_step: int
    share: Share
    norm: float


@dataclass
class Guard:
    norms: dict[str, list[float]]
    """Per task: gradient norms of its last steps that were taken. Part of the run's state where spikes are guarded."""
    spike: float | None = None
    """Standard deviations above the mean."""
    window: int = 100
    limit: float = inf
    """The norm at which the next step is refused."""
    pending: list[tuple[int, Share, Tensor, float]] = field(default_factory=list)

    def prepare(self, task: str) -> None:
        """Before a step of a task."""
        past = self.norms.get(task, [])
        self.limit = inf
        if self.spike is not None and len(past) == self.window:
            self.limit = fmean(past) + self.spike * pstdev(past)

    def refuses(self, norm: Tensor) -> Tensor:
        """1.0 where a step with this norm must not be taken, else 0.0; NaN and infinity are under no limit."""
        return 1 - (norm < self.limit).float()

    def remember(self, run_step: int, share: Share, norm: Tensor) -> None:
        """After a step."""
        self.pending.append((run_step, share, norm, self.limit))
        if self.spike is not None and float(norm) < self.limit:
            self.norms[share.task] = [*self.norms.get(share.task, []), float(norm)][-self.window :]

    def skipped(self) -> list[Skipped]:
        """The steps since the last call that were not taken. Waits for the device."""
        past, self.pending = self.pending, []
        norms = [(run_step, share, float(norm), limit) for run_step, share, norm, limit in past]
        return [Skipped(run_step, share, norm) for run_step, share, norm, limit in norms if not norm < limit]
