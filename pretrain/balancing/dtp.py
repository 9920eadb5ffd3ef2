"""Dynamic task prioritization (Guo et al. 2018, section 3): hard tasks first.

λ_k = -(1 - κ̄_k)^γ log κ̄_k, where κ̄_k is the moving mean of a task's skill. Skill is the metric that the task is
evaluated with, here of a batch of training instances, such that 0 is guessing and 1 is perfect: tasks have few classes
or many. What guessing reaches is that of many more instances, because in a batch the most frequent label is always too
frequent.
"""

from collections.abc import Mapping
from math import log

import numpy as np

from pretrain.balancing.probe import Probe
from pretrain.config import BalancingConfig
from pretrain.tasks import TASKS

LOWEST, HIGHEST = 0.1, 0.99
"""Bounds of the skill: at 0 the weight would be infinite, at 1 nothing."""


class DTP:
    """Remembers the moving mean of each task's skill."""

    def __init__(self, config: BalancingConfig, memory: dict[str, float], probe: Probe):
        self.every, self.smoothing, self.gamma = config.probe_every, config.smoothing, config.gamma
        self.memory, self.probe = memory, probe
        self.chances: dict[str, float] = {}

    def update(self, weights: Mapping[str, float], run_step: int, step: int) -> dict[str, float]:
        if len(weights) < 2:
            return {}
        self.chances = self.chances or self.probe.chances()
        for task, (labels, predictions) in self.probe.predictions(run_step, step).items():
            if len(np.unique(labels)) > 1:  # those that are all the same tell nothing
                now = skill(TASKS[task].metric(labels, predictions).value, self.chances[task])
                self.memory[task] = self.smoothing * now + (1 - self.smoothing) * self.memory.get(task, now)
        return {task: weigh(self.memory[task], self.gamma) for task in weights if task in self.memory}


def skill(value: float, chance: float) -> float:
    """κ: the part of the way from guessing to perfect, inside its bounds."""
    return min(max((value - chance) / (1 - chance), LOWEST), HIGHEST)


def weigh(kappa: float, gamma: float) -> float:
    """The focal loss of a skill."""
    return -((1 - kappa) ** gamma) * log(kappa)
