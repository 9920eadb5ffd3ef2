"""Progressive layered extraction: CGC stacked, a stream per task and a shared one (Tang et al. 2020, section 4.2).

At level j task k reads its own experts, computed on its stream, and the shared experts, computed on the shared stream;
the shared stream reads all experts of all tasks. The last level has no shared gate: nothing would read it. So a step of
one task computes the streams of all tasks, but for what the last two levels hand on.

Inside the encoder levels are its last layers. All streams go through a layer's attention and feed-forward part, which
they share; what a level mixes is what the feed-forward output is added to.
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from pretrain.config import SharingConfig
from pretrain.data.batch import Layout
from pretrain.sharing.cgc import Cgc
from pretrain.sharing.inside import Beside, Inside, cue_of
from pretrain.sharing.parts import Gate, Parts, mix

SHARED = "shared"
"""The stream that is no task's."""


class Ple(nn.Module):
    def __init__(self, settings: SharingConfig, tasks: Sequence[str], parts: Parts):
        super().__init__()
        levels = parts.at("levels")
        self.levels = nn.ModuleList(Cgc(settings, tasks, levels.at(level)) for level in range(settings.levels))
        self.shared_gates = shared_gates(settings, tasks, parts, settings.levels)
        self.tasks = list(tasks)

    def forward(self, task: str, states: Tensor) -> Tensor:
        streams = dict.fromkeys([*self.tasks, SHARED], states)
        wanted = handed_on(len(self.levels), self.tasks, task)
        for level, shared_gate, names in zip(self.levels, [*self.shared_gates, None], wanted, strict=True):
            streams = extract(cast(Cgc, level), cast(Gate | None, shared_gate), streams, task, names, own_states)
        return streams[task]


class PleInside(Inside):
    def __init__(self, settings: SharingConfig, tasks: Sequence[str], parts: Parts):
        layers = parts.at("layers")
        super().__init__([Cgc(settings, tasks, layers.at(number)) for number in range(settings.layers)])
        self.shared_gates = shared_gates(settings, tasks, parts, settings.layers)
        self.tasks = list(tasks)

    def beside(self, task: str) -> list[Beside]:
        wanted = handed_on(len(self.layers), self.tasks, task)
        given = [[*self.tasks, SHARED], *wanted[:-1]]
        return [
            self.extracting(cast(Cgc, level), cast(Gate | None, shared_gate), task, *names)
            for level, shared_gate, *names in zip(self.layers, [*self.shared_gates, None], given, wanted, strict=True)
        ]

    def extracting(
        self, level: Cgc, shared_gate: Gate | None, task: str, given: list[str], wanted: list[str]
    ) -> Beside:
        def extracted(states: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
            apart = len(states) == len(given)  # before the first level all streams are one
            streams = dict(zip(given, states.split(1) if apart else [states] * len(given), strict=True))
            found = extract(level, shared_gate, streams, task, wanted, lambda stream: cue_of(task, stream, layout))
            read = torch.cat([streams[name] for name in wanted]) if apart else states
            return read, torch.cat([found[name] for name in wanted])

        return extracted


def shared_gates(settings: SharingConfig, tasks: Sequence[str], parts: Parts, levels: int) -> nn.ModuleList:
    """Over the experts of all tasks, then the shared ones; one for each level but the last."""
    experts = len(tasks) * settings.task_experts + settings.shared_experts
    return nn.ModuleList(parts.gate(experts) for _ in range(levels - 1))


def handed_on(levels: int, tasks: Sequence[str], task: str) -> list[list[str]]:
    """The streams that each level hands on in a step of a task: those that the next one reads, at last the task's."""
    return [[*tasks, SHARED]] * (levels - 2) + [[task, SHARED], [task]]


def extract(
    level: Cgc,
    shared_gate: Gate | None,
    streams: dict[str, Tensor],
    task: str,
    wanted: Sequence[str],
    cue: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """What a level makes of the streams: those that are wanted. Gates read `cue` of the stream that they gate.

    In a step of `task`, what is another's neither learns nor is logged.
    """
    own = {name: level.of_task(name, states, name == task) for name, states in streams.items() if name != SHARED}
    common, found = level.of_all(streams[SHARED]), {}
    for name in wanted:
        if name == SHARED:
            assert shared_gate is not None
            shares = shared_gate(cue(streams[SHARED]))
            outputs = [*(output for outputs in own.values() for output in outputs), *common]
        else:
            learns = name == task
            shares = cast(Gate, level.gates[name])(cue(streams[name]), task if learns else None, learns)
            outputs = [*own[name], *common]
        found[name] = mix(shares, outputs)
    return found


def own_states(states: Tensor) -> Tensor:
    return states
