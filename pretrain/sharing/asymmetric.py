"""Asymmetric sharing: y_k = t_k(J_k [f_k(x); f_j(x) for j in uses_k]), a bottom f per family (Tang et al. 2020).

Who reads whom is given. J_k makes one state of the concatenated ones; it is part of t_k and begins as their average, so
sums and averages are values of it. A bottom that another family reads learns nothing from it: that is the asymmetry.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pretrain.config import SharingConfig
from pretrain.sharing.parts import Parts
from pretrain.tasks import TASKS, families_of


class Asymmetric(nn.Module):
    def __init__(self, settings: SharingConfig, tasks: Sequence[str], parts: Parts):
        super().__init__()
        families = families_of(tasks)
        uses = {family.value: [other.value for other in others] for family, others in settings.uses.items()}
        self.reads = {family: [family, *uses.get(family, [])] for family in families}
        self.bottoms = nn.ModuleDict({family: parts.block("bottoms") for family in families})  # copies of one another
        self.joins = nn.ModuleDict(
            {family: parts.join(len(reads)) for family, reads in self.reads.items() if len(reads) > 1}
        )

    def forward(self, task: str, states: Tensor) -> Tensor:
        own = TASKS[task].family.value
        read = [self.bottoms[family](states, learns=family == own) for family in self.reads[own]]
        return self.joins[own](torch.cat(read, -1)) if len(read) > 1 else read[0]
