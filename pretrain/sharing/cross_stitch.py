"""Cross-stitch: after each level of parallel bottoms x̃_A = Σ_B α_AB x_B (Misra et al. 2016, section 3.2).

One bottom per family and level. Rows of α sum to 1 at first, 0.9 for the family's own and the rest for the others, so
that states keep their size with any number of families. A row is its family's, and scalar.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pretrain.config import SharingConfig
from pretrain.sharing.parts import Parts
from pretrain.tasks import TASKS, families_of

OWN = 0.9


class Row(nn.Module):
    """α_A: what a family takes of each family's states."""

    def __init__(self, own: int, families: int):
        super().__init__()
        self.weight = nn.Parameter(torch.full((families,), (1 - OWN) / (families - 1)))
        self.weight.data[own] = OWN

    def forward(self, streams: Sequence[Tensor], learns: bool = True) -> Tensor:
        return torch.stack(list(streams), -1) @ (self.weight if learns else self.weight.detach())


class CrossStitch(nn.Module):
    def __init__(self, settings: SharingConfig, tasks: Sequence[str], parts: Parts):
        super().__init__()
        families = families_of(tasks)
        self.bottoms, self.rows = nn.ModuleList(), nn.ModuleList()
        for level in range(settings.levels):
            bottoms = {family: parts.at("bottoms").block(level) for family in families}  # copies of one another
            rows = {family: Row(number, len(families)) for number, family in enumerate(families)}
            self.bottoms.append(nn.ModuleDict(bottoms))
            self.rows.append(nn.ModuleDict(rows))

    def forward(self, task: str, states: Tensor) -> Tensor:
        own = TASKS[task].family.value
        streams = {family: states for family in self.rows[0]}
        for bottoms, rows in zip(self.bottoms, self.rows, strict=True):
            found = [bottoms[family](stream, learns=family == own) for family, stream in streams.items()]
            last = rows is self.rows[-1]
            streams = {
                family: row(found, learns=family == own) for family, row in rows.items() if family == own or not last
            }
        return streams[own]
