"""Progressive layered extraction: CGC stacked, a stream per task and a shared one (Tang et al. 2020, section 4.2).

At level j task k reads its own experts, computed on its stream, and the shared experts, computed on the shared stream;
the shared stream reads all experts of all tasks. The last level has no shared gate: nothing would read it. So a step of
one task computes the streams of all tasks, but for the last level.
"""

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from pretrain.config import SharingConfig
from pretrain.sharing.cgc import Cgc
from pretrain.sharing.parts import Parts, mix


class Ple(nn.Module):
    def __init__(self, settings: SharingConfig, tasks: Sequence[str], parts: Parts):
        super().__init__()
        levels, number = parts.at("levels"), len(tasks) * settings.task_experts + settings.shared_experts
        self.levels = nn.ModuleList(Cgc(settings, tasks, levels.at(level)) for level in range(settings.levels))
        self.shared_gates = nn.ModuleList(parts.gate(number) for _ in range(settings.levels - 1))
        self.tasks = list(tasks)

    def forward(self, task: str, states: Tensor) -> Tensor:
        streams, shared = dict.fromkeys(self.tasks, states), states
        *lower, last = cast(list[Cgc], list(self.levels))
        for level, shared_gate in zip(lower, self.shared_gates, strict=True):
            own = {name: level.of_task(name, stream, name == task) for name, stream in streams.items()}
            common = level.of_all(shared)
            shared = mix(shared_gate(shared), [*(output for outputs in own.values() for output in outputs), *common])
            streams = {
                name: gated(level, name, stream, [*own[name], *common], name == task)
                for name, stream in streams.items()
            }
        own_stream = streams[task]
        return gated(last, task, own_stream, [*last.of_task(task, own_stream), *last.of_all(shared)])


def gated(level: Cgc, task: str, stream: Tensor, outputs: list[Tensor], learns: bool = True) -> Tensor:
    """The next stream of a task. The gate of one that is only read neither learns nor is logged."""
    return mix(level.gates[task](stream, task if learns else None, learns), outputs)
