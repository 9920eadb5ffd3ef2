"""GradNorm (Chen et al. 2018, equations 1 and 2): gradients of like size, and larger ones for tasks that learn slower.

G_k = ‖∇_W λ_k L_k‖ is to be Ḡ · r_k^α, where W is the last matrix that all tasks share and r_k = L̃_k / mean L̃ with
L̃_k = L_k(t) / L_k(0). λ_k is a positive factor, so G_k = λ_k n_k with n_k = ‖∇_W L_k‖, and the gradient of
Σ_k |G_k - Ḡ r_k^α| needs no second derivative: only the norms.
"""

from collections.abc import Mapping
from math import exp
from statistics import fmean

from pretrain.balancing.measured import Losses
from pretrain.balancing.probe import Probe
from pretrain.config import BalancingConfig


class GradNorm:
    """Remembers L_k(0): each task's mean loss between the first two probes between which it was trained."""

    def __init__(self, config: BalancingConfig, memory: dict[str, float], losses: Losses, probe: Probe):
        self.every, self.alpha, self.lr = config.probe_every, config.alpha, config.lr
        self.memory, self.losses, self.probe = memory, losses, probe

    def update(self, weights: Mapping[str, float], run_step: int, step: int) -> dict[str, float]:
        means = self.losses.means()
        for task, loss in means.items():
            self.memory.setdefault(task, loss)
        if len(weights) < 2:
            return {}
        norms = {task: gradient.norm().item() for task, gradient in self.probe.gradients(run_step, step).items()}
        left = {task: means[task] / self.memory[task] for task in norms if task in means}
        return weigh({task: weights[task] for task in norms}, norms, rates(left, list(norms)), self.alpha, self.lr)


def rates(left: Mapping[str, float], tasks: list[str]) -> dict[str, float]:
    """r_k from L̃_k, the part of the first loss that is left; 1 for a task of which it is not known."""
    mean = fmean(left.values()) if left else 1.0
    return {task: left.get(task, mean) / mean for task in tasks}


def weigh(
    weights: Mapping[str, float], norms: Mapping[str, float], rates: Mapping[str, float], alpha: float, lr: float
) -> dict[str, float]:
    """One step down the gradient of Σ |G_k - Ḡ r_k^α| / Ḡ with respect to log λ_k, Ḡ r_k^α held constant.

    The logarithm keeps weights positive, and dividing by Ḡ makes `lr` mean the same whatever the size of gradients.
    """
    sizes = {task: weight * norms[task] for task, weight in weights.items()}
    mean = fmean(sizes.values()) if sizes else 1.0
    return {
        task: weights[task] * exp(-lr * sign(size - mean * rates[task] ** alpha) * size / mean)
        for task, size in sizes.items()
    }


def sign(number: float) -> int:
    return (number > 0) - (number < 0)
