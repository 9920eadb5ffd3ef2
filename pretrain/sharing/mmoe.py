"""Multi-gate mixture of experts: y_k = t_k(Σᵢ g_k(x)ᵢ Eᵢ(x)), a gate per task (Ma et al. 2018, equations 6 to 8)."""

from collections.abc import Sequence

from torch import Tensor, nn

from pretrain.config import SharingConfig
from pretrain.sharing.parts import Parts, mix


class Mmoe(nn.Module):
    def __init__(self, settings: SharingConfig, tasks: Sequence[str], parts: Parts):
        super().__init__()
        self.experts = parts.blocks("experts", settings.experts)
        self.gates = nn.ModuleDict({task: parts.gate(settings.experts) for task in tasks})

    def forward(self, task: str, states: Tensor, cue: Tensor | None = None) -> Tensor:
        """The gate reads `cue`; None: the states themselves."""
        shares = self.gates[task](states if cue is None else cue, task)
        return mix(shares, [expert(states) for expert in self.experts])
