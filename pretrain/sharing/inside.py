"""Experts inside the encoder: in each of the last layers they stand beside the feed-forward layer.

Where a layer computed norm(FFN(x) + x), it computes norm(FFN(x) + Σᵢ gᵢ Eᵢ(x)). As Eᵢ(x) = x + Fᵢ(x) and shares sum to
1, that is a mixture of the experts FFN + Fᵢ: the layer's own FFN is what they have in common. Companions ride on the
stream of the step's task, so that task's gates and experts serve them too, as its row of the task embedding does.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pretrain.data.batch import Layout
from pretrain.tasks import TASKS

Residual = Callable[[Tensor, Layout], Tensor]
"""What a layer adds its feed-forward output to, from states (1, slots, hidden) and where instances begin in them."""


class Inside(nn.Module):
    def __init__(self, layers: list[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, task: str, states: Tensor) -> Tensor:
        """Nothing lies on top."""
        return states

    def residuals(self, task: str) -> list[Residual]:
        """One for each of the last layers, in a step of a task."""
        return [self.residual(experts, task) for experts in self.layers]

    def residual(self, experts: nn.Module, task: str) -> Residual:
        def mixed(states: Tensor, layout: Layout) -> Tensor:
            return experts(task, states, cue_of(task, states, layout))

        return mixed


def cue_of(task: str, states: Tensor, layout: Layout) -> Tensor:
    """What gates read for every slot: its own state, or for a sentence-level task that of its instance's [CLS]."""
    if TASKS[task].target is not None:
        return states
    starts = layout.starts.long()
    first = torch.repeat_interleave(starts[:-1], starts.diff(), output_size=states.shape[-2])
    return states[..., first, :]
