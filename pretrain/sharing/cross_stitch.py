"""Cross-stitch: after each level of parallel bottoms x̃_A = Σ_B α_AB x_B (Misra et al. 2016, section 3.2).

One bottom per family and level. Rows of α sum to 1 at first, 0.9 for the family's own and the rest for the others, so
that states keep their size with any number of families. A row is its family's; its numbers are fifty times as large as
those of a matrix, hence a learning rate of its own.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from pretrain.config import SharingConfig
from pretrain.sharing.parts import Block, Parts
from pretrain.tasks import TASKS, families_of

OWN = 0.9


class Row(nn.Module):
    """α_A: what a family takes of each family's states, (channels, families): one row for all channels, or one each."""

    def __init__(self, own: int, families: int, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels, families), (1 - OWN) / (families - 1)))
        self.weight.data[:, own] = OWN

    def forward(self, streams: Sequence[Tensor], learns: bool = True) -> Tensor:
        weight = self.weight if learns else self.weight.detach()
        return (torch.stack(list(streams), -1) * weight).sum(-1)


class Level(nn.Module):
    def __init__(self, families: Sequence[str], make_bottom: Callable[[], Block], channels: int):
        super().__init__()
        self.bottoms = nn.ModuleDict({family: make_bottom() for family in families})  # copies of one another
        self.rows = nn.ModuleDict({name: Row(number, len(families), channels) for number, name in enumerate(families)})

    def forward(self, streams: dict[str, Tensor], wanted: Iterable[str], own: str) -> dict[str, Tensor]:
        """The streams of the families that are wanted, in a step of the family `own`."""
        found = [self.bottoms[family](stream, family == own) for family, stream in streams.items()]
        return {family: self.rows[family](found, family == own) for family in wanted}


class CrossStitch(nn.Module):
    def __init__(self, settings: SharingConfig, tasks: Sequence[str], parts: Parts):
        super().__init__()
        self.families, levels, self.row_lr = families_of(tasks), parts.at("levels"), settings.row_lr
        channels = parts.shape.hidden_size if settings.per_channel else 1
        self.levels = nn.ModuleList(
            Level(self.families, partial(levels.block, number), channels) for number in range(settings.levels)
        )

    def forward(self, task: str, states: Tensor) -> Tensor:
        own = TASKS[task].family.value
        streams = dict.fromkeys(self.families, states)
        *lower, last = self.levels
        for level in lower:
            streams = level(streams, self.families, own)
        return last(streams, [own], own)[own]
