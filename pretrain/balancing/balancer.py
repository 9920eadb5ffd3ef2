"""How the losses of tasks are weighed against each other: what the loop and the log ask of every method."""

from collections.abc import Mapping
from math import fsum
from statistics import fmean

from torch import Tensor


class Balancer:
    """Weights that stay: L = Σ λ_k L_k. Other methods derive from this one.

    A step trains one task and the companions that ride on it; their losses are multiplied by `weights`, the same on all
    ranks, bit for bit. A task that `weights` does not name counts as it is.
    """

    def __init__(self, weights: Mapping[str, float]):
        self.weights = dict(weights)
        self.seconds = 0.0
        """Spent on probes since the log last asked."""

    def prepare(self, run_step: int, step: int) -> None:
        """Before a step, with the steps done in the run and in the stage: weigh anew where it is time. Collective."""

    def remember(self, losses: Mapping[str, Tensor], targets: Mapping[str, int], norm: Tensor) -> None:
        """After a step: sums over this rank's targets, targets of all ranks, norm of the gradient."""

    def shown(self) -> dict[str, float]:
        """The weights, for the log. Collective."""
        return self.weights

    def state(self) -> dict:
        """What a checkpoint must keep for a run to go on, as plain data. Collective."""
        return {}


NEUTRAL = Balancer({})


LEAST = 0.01
"""Of the mean weight. A task of weight 0 would take its steps, in which AdamW moves by momentum alone, for nothing."""


def neutral(weights: Mapping[str, float], tasks: list[str]) -> dict[str, float]:
    """Weights of these tasks, in their order, with a mean of 1; a task that has none yet gets the mean of the others.

    Where the tasks are those of before, nothing changes, by no bit.
    """
    if list(weights) == tasks:
        return dict(weights)
    mean = fmean([weights[task] for task in tasks if task in weights] or [1.0])
    return {task: weights.get(task, mean) / mean for task in tasks}


def shared_out(weights: Mapping[str, float], found: Mapping[str, float]) -> dict[str, float]:
    """What the found tasks had together, shared out as found, at least LEAST each; the others keep theirs, so the mean
    stays. Where all that is found is 0, nothing changes: no weights help all tasks."""
    if not fsum(found.values()) > 0:
        return dict(weights)
    least = LEAST * fmean(found.values())
    raised = {task: max(weight, least) for task, weight in found.items()}
    each = fsum(weights[task] for task in found) / fsum(raised.values())
    return dict(weights) | {task: weight * each for task, weight in raised.items()}
