"""One-gate mixture of experts: y_k = t_k(Σᵢ g(x)ᵢ Eᵢ(x)), one gate for all tasks (Ma et al. 2018, equation 5)."""

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from pretrain.config import SharingConfig
from pretrain.sharing.parts import Block, Gate, Parts, weighed


class Omoe(nn.Module):
    def __init__(self, settings: SharingConfig, tasks: Sequence[str], parts: Parts):
        super().__init__()
        self.experts = parts.blocks("experts", settings.experts)
        self.gate = parts.gate(settings.experts)

    def forward(self, task: str, states: Tensor, cue: Tensor | None = None) -> Tensor:
        """The gate reads `cue`; None: the states themselves."""
        return weighed(*self.read_by(task), task, states, cue)

    def read_by(self, task: str) -> tuple[Gate, list[Block]]:
        """The gate of a task, and the experts that it weighs."""
        return self.gate, cast(list[Block], list(self.experts))
