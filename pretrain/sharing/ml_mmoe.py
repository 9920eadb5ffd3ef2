"""Multi-level MMoE: MMoE stacked, each task with a stream of its own (Tang et al. 2020).

The input of level j for task k is what task k got at level j − 1; the experts of every level are shared by all tasks.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from pretrain.config import SharingConfig
from pretrain.sharing.mmoe import Mmoe
from pretrain.sharing.parts import Parts


class MultiLevelMmoe(nn.Module):
    def __init__(self, settings: SharingConfig, tasks: Sequence[str], parts: Parts):
        super().__init__()
        levels = parts.at("levels")
        self.levels = nn.ModuleList(Mmoe(settings, tasks, levels.at(level)) for level in range(settings.levels))

    def forward(self, task: str, states: Tensor) -> Tensor:
        for level in self.levels:
            states = level(task, states)
        return states
