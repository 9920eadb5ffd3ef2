"""Experts inside the encoder: in each of the last layers they stand beside the feed-forward layer.

Where a layer computed norm(FFN(x) + x), it computes norm(FFN(x) + Σᵢ gᵢ Eᵢ(x)). As Eᵢ(x) = x + Fᵢ(x) and shares sum to
1, that is a mixture of the experts FFN + Fᵢ: the layer's own FFN is what they have in common. Companions ride on the
stream of the step's task, so that task's gates and experts serve them too, as its row of the task embedding does.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pretrain.data.batch import Layout
from pretrain.tasks import TASKS

Beside = Callable[[Tensor, Layout], tuple[Tensor, Tensor]]
"""What stands beside the feed-forward part of a layer: from attended states (streams, slots, hidden), and where
instances begin in them, to what feed-forward reads and what its output is added to, for each stream handed on."""


class Inside(nn.Module):
    def __init__(self, layers: Sequence[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, task: str, states: Tensor) -> Tensor:
        """Nothing lies on top."""
        return states

    def beside(self, task: str) -> list[Beside]:
        """For each of the last layers, in a step of a task, which is the only stream."""
        return [self.mixing(experts, task) for experts in self.layers]

    def mixing(self, experts: nn.Module, task: str) -> Beside:
        def mixed(states: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
            return states, experts(task, states, cue_of(task, states, layout))

        return mixed


def cue_of(task: str, states: Tensor, layout: Layout) -> Tensor:
    """What gates read for every slot: its own state, or for a sentence-level task that of its instance's [CLS]."""
    if TASKS[task].target is not None:
        return states
    starts = layout.starts.long()
    first = torch.repeat_interleave(starts[:-1], starts.diff(), output_size=states.shape[-2])
    return states[..., first, :]
