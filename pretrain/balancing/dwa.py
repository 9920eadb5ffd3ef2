"""Dynamic weight average (Liu, Johns and Davison 2019, equation 7), over windows of steps instead of epochs.

λ_k = T · softmax(r / τ)_k with r_k = L_k(t-1) / L_k(t-2), the mean losses of the last two windows: a task whose loss
falls slower than that of the others gets more weight. Before it has two, also where it comes back to a later stage,
r_k = 1; and r_k is at most 2, since of a loss near 0 any change is many times that loss.
"""

from collections.abc import Mapping
from math import exp

from pretrain.balancing.measured import Losses
from pretrain.config import BalancingConfig

MOST = 2.0


class DWA:
    """Remembers the mean losses of each task's last two windows; a window in which it has no target does not count."""

    def __init__(self, config: BalancingConfig, memory: dict[str, list[float]], losses: Losses):
        self.every, self.temperature = config.window, config.temperature
        self.memory, self.losses = memory, losses

    def update(self, weights: Mapping[str, float], run_step: int, step: int) -> dict[str, float]:
        for task, loss in self.losses.means().items():
            if task in weights:
                self.memory[task] = [*self.memory.get(task, []), loss][-2:]
        return weigh({task: ratio(self.memory.get(task, [])) for task in weights}, self.temperature)


def ratio(means: list[float]) -> float:
    return min(means[1] / means[0], MOST) if len(means) == 2 and means[0] > 0 else 1.0


def weigh(ratios: Mapping[str, float], temperature: float) -> dict[str, float]:
    """T · softmax(r / τ)."""
    most = max(ratios.values())
    parts = {task: exp((ratio - most) / temperature) for task, ratio in ratios.items()}
    total = sum(parts.values())
    return {task: len(parts) * part / total for task, part in parts.items()}
