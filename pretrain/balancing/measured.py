"""Balancers that weigh tasks anew every so many steps, by what they measure."""

import time
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from pretrain.balancing.balancer import Balancer, neutral, shared_out
from pretrain.world import World


class Losses:
    """The mean loss of every task over the steps since it was last asked for.

    Sums are in float64, where those of float32 hardly ever round: neither ranks nor a resume change them.
    """

    def __init__(self, world: World, saved: Mapping[str, list[float]]):
        self.world = world
        self.sums = {
            task: torch.tensor([loss if world.main else 0.0, count], dtype=torch.float64, device=world.device)
            for task, (loss, count) in saved.items()
        }

    def add(self, losses: Mapping[str, Tensor], targets: Mapping[str, int], norm: Tensor) -> None:
        """A step whose gradient is not finite has no loss to speak of."""
        for task, loss in losses.items():
            step = torch.stack([loss.double(), torch.full_like(loss, targets[task], dtype=torch.float64)])
            self.sums[task] = self.sums.get(task, 0.0) + torch.where(norm.isfinite(), step, 0.0)

    def totals(self) -> dict[str, list[float]]:
        """Per task: the sum over all ranks, and the targets. Collective."""
        pairs = {task: sums.tolist() for task, sums in self.sums.items()}
        totals = self.world.sum([loss for loss, _ in pairs.values()])
        return {task: [total, count] for (task, (_, count)), total in zip(pairs.items(), totals, strict=True)}

    def means(self) -> dict[str, float]:
        """Of the tasks that had targets; then it begins anew. Collective."""
        totals = self.totals()
        self.sums = {}
        return {task: loss / count for task, (loss, count) in totals.items() if count}


class Method(Protocol):
    every: int
    """Steps between updates."""
    memory: dict
    """By task, as plain data: what it remembers over the border of stages, of tasks that rest too."""

    def update(self, weights: Mapping[str, float], run_step: int, step: int) -> dict[str, float]:
        """How tasks of the stage weigh against each other now; those of which nothing is found are left out."""


class Measured(Balancer):
    """Weights with a mean of 1 over the tasks of the stage. `losses`: where the method asks for them."""

    def __init__(self, tasks: list[str], saved: Mapping, method: Method, losses: Losses | None, world: World):
        super().__init__(neutral(saved.get("weights", {}), tasks))
        self.method, self.losses, self.world = method, losses, world

    def prepare(self, run_step: int, step: int) -> None:
        if run_step % self.method.every:
            return
        self.wait()
        begun = time.perf_counter()
        found = self.method.update(self.weights, run_step, step)
        self.weights = self.world.gather(shared_out(self.weights, found))[0]
        self.seconds += time.perf_counter() - begun

    def remember(self, losses: Mapping[str, Tensor], targets: Mapping[str, int], norm: Tensor) -> None:
        if self.losses is not None:
            self.losses.add(losses, targets, norm)

    def state(self) -> dict:
        losses = self.losses.totals() if self.losses is not None else {}
        return {"weights": self.weights, "memory": self.method.memory, "losses": losses}

    def wait(self) -> None:
        """For the steps before: the time that they take is not that of a probe."""
        if self.world.device.type == "cuda":
            torch.cuda.synchronize(self.world.device)
