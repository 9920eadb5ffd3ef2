"""Customized sharing: y_k = t_k(J_k [f_s(x); f_k(x)]), a shared bottom and one per family (Tang et al. 2020).

J_k is part of t_k: it makes one state of the two, and begins as their average.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pretrain.config import SharingConfig
from pretrain.sharing.parts import Parts
from pretrain.tasks import TASKS, families_of


class Customized(nn.Module):
    def __init__(self, settings: SharingConfig, tasks: Sequence[str], parts: Parts):
        super().__init__()
        families = families_of(tasks)
        self.shared = parts.block("shared")
        self.bottoms = nn.ModuleDict({family: parts.block("bottoms") for family in families})  # copies of one another
        self.joins = nn.ModuleDict({family: parts.join(2) for family in families})

    def forward(self, task: str, states: Tensor) -> Tensor:
        own = TASKS[task].family.value
        return self.joins[own](torch.cat([self.shared(states), self.bottoms[own](states)], -1))
