"""Customized gate control: y_k = t_k(g_k(x) · [experts of task k; shared experts]) (Tang et al. 2020, section 4.1).

A task reads its own and the shared experts, never another task's.
"""

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from pretrain.config import SharingConfig
from pretrain.sharing.parts import Block, Gate, Parts, weighed


class Cgc(nn.Module):
    def __init__(self, settings: SharingConfig, tasks: Sequence[str], parts: Parts):
        super().__init__()
        own, number = parts.at("own"), settings.task_experts + settings.shared_experts
        self.own = nn.ModuleDict({task: own.blocks(task, settings.task_experts) for task in tasks})
        self.shared = parts.blocks("shared", settings.shared_experts)
        self.gates = nn.ModuleDict({task: parts.gate(number) for task in tasks})

    def forward(self, task: str, states: Tensor, cue: Tensor | None = None) -> Tensor:
        """The gate reads `cue`; None: the states themselves."""
        return weighed(*self.read_by(task), task, states, cue)

    def read_by(self, task: str) -> tuple[Gate, list[Block]]:
        """The gate of a task, and the experts that it weighs: its own, then the shared ones."""
        experts = [*cast(nn.ModuleList, self.own[task]), *self.shared]
        return cast(Gate, self.gates[task]), cast(list[Block], experts)

    def of_task(self, task: str, states: Tensor, learns: bool = True) -> list[Tensor]:
        """What a task's own experts make of the states."""
        return [expert(states, learns) for expert in cast(nn.ModuleList, self.own[task])]

    def of_all(self, states: Tensor) -> list[Tensor]:
        """What the shared experts make of the states."""
        return [expert(states) for expert in self.shared]
