"""Multi-gate mixture of experts: y_k = t_k(Σᵢ g_k(x)ᵢ Eᵢ(x)), a gate per task (Ma et al. 2018, equations 6 to 8)."""

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from pretrain.config import SharingConfig
from pretrain.sharing.parts import Block, Gate, Parts, weighed


class Mmoe(nn.Module):
    def __init__(self, settings: SharingConfig, tasks: Sequence[str], parts: Parts):
        super().__init__()
        self.experts = parts.blocks("experts", settings.experts)
        self.gates = nn.ModuleDict({task: parts.gate(settings.experts) for task in tasks})

    def forward(self, task: str, states: Tensor, cue: Tensor | None = None) -> Tensor:
        """The gate reads `cue`; None: the states themselves."""
        return weighed(*self.read_by(task), task, states, cue)

    def read_by(self, task: str) -> tuple[Gate, list[Block]]:
        """The gate of a task, and the experts that it weighs."""
        return cast(Gate, self.gates[task]), cast(list[Block], list(self.experts))
