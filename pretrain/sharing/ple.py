"""Progressive layered extraction: CGC stacked, with a stream per task and a shared one (Tang et al. 2020, section 4.2).

At level j task k reads its own experts, computed on its stream, and the shared experts, computed on the shared stream; the
shared stream reads all experts of all tasks. The last level has no shared gate: nothing would read it. So a step of one
task computes the streams of all, but for the last level.
"""

from collections.abc import Sequence

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

    def forward(self, task: str, states: Tensor) -> Tensor:
        streams, shared = {name: states for name in self.levels[0].gates}, states
        for level, shared_gate in zip(self.levels, [*self.shared_gates, None], strict=True):
            if shared_gate is None:
                streams = {task: streams[task]}
            own = {
                name: [expert(stream, learns=name == task) for expert in level.own[name]]
                for name, stream in streams.items()
            }
            common = [expert(shared) for expert in level.shared]
            if shared_gate is not None:
                shared = mix(
                    shared_gate(shared), [*(output for outputs in own.values() for output in outputs), *common]
                )
            for name, stream in streams.items():
                gate, learns = level.gates[name], name == task
                shares = gate(stream, task if learns else None, learns)
                streams[name] = mix(shares, [*own[name], *common])
        return streams[task]
