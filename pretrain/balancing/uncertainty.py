"""Uncertainty weighting (Kendall, Gal and Cipolla 2018, section 3.2): Σ_k e^-s_k L_k + s_k / 2, s_k = log σ_k² learnt.

That is the form for classification, which all tasks are. At its best e^-s_k = 1 / (2 L_k), so without bounds a task
whose loss goes to nothing would get all the weight.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from math import exp, log
from statistics import fmean

import torch
from deepspeed.runtime.zero import GatheredParameters
from torch import Tensor, nn

from pretrain.balancing.balancer import Balancer

LOWEST, HIGHEST = -2.0, 4.0
"""Bounds of s: weights from 0.018, for a loss of 27, to 7.4, for one of 0.07."""
QUIET = 1e-3
"""Factor of the gradient of s. AdamW does not mind, and the norm by which gradients are clipped stays the model's."""


class LogVariances(nn.Module):
    """s of every task, shape (1,). Part of the model, so that DeepSpeed reduces its gradient like any other."""

    def __init__(self, tasks: Sequence[str], lr: float):
        super().__init__()
        self.s = nn.ParameterDict({task: nn.Parameter(torch.zeros(1)) for task in tasks})
        self.lr = lr

    def forward(self, losses: Mapping[str, Tensor], counts: Mapping[str, int]) -> dict[str, Tensor]:
        """Losses, summed over `counts` targets, with the values that they had and the gradients of the objective.

        So what is logged stays a loss, while the objective may well be negative. Outside its bounds s is drawn back at
        a constant rate: held fast there, it would never leave.
        """
        return {
            task: with_gradient(loss, objective(loss, self.s[task][0], counts[task])) for task, loss in losses.items()
        }

    def join(self, tasks: Sequence[str]) -> None:
        """Tasks that are new begin with the mean weight of the others."""
        if others := [weight_of(self.s[task].item()) for task in self.s if task not in tasks]:
            for task in tasks:
                self.s[task].data.fill_(-log(fmean(others)))


def objective(loss: Tensor, s: Tensor, count: int) -> Tensor:
    """e^-s · loss + count · s / 2: that of the paper, summed over targets, with a quiet gradient for s."""
    bounded = s.clamp(LOWEST, HIGHEST)
    of_s = (-bounded).exp() * loss.detach() + count / 2 * (bounded + (s - bounded).abs())
    return (-bounded).exp().detach() * loss + QUIET * of_s


def weight_of(s: float) -> float:
    return exp(-min(max(s, LOWEST), HIGHEST))


def with_gradient(value: Tensor, other: Tensor) -> Tensor:
    """`value`, with the gradient of another tensor."""
    return value.detach() + (other - other.detach())


class Uncertainty(Balancer):
    """The weights are in the model: to the loop every loss counts as it is."""

    def __init__(self, log_variances: LogVariances, tasks: Sequence[str]):
        super().__init__({})
        self.log_variances, self.tasks = log_variances, tasks

    def shown(self) -> dict[str, float]:
        return {task: weight_of(self.read(task)) for task in self.tasks}

    def read(self, task: str) -> float:
        s = self.log_variances.s[task]
        with GatheredParameters([s]) if hasattr(s, "ds_id") else nullcontext():
            return s.item()
