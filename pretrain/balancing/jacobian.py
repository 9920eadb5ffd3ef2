"""UPGrad, MGDA, PCGrad and CAGrad: weights from the inner products of the tasks' gradients, as torchjd computes them.

Each combines the gradients of the tasks into one that hurts none of them, and the combination is a weighted sum.
torchjd gets the matrix of inner products alone: its own backward passes know nothing of several ranks.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pretrain.balancing.probe import Probe
from pretrain.config import BalancingConfig, Config

WEIGHTINGS = {
    "upgrad": "UPGradWeighting",
    "mgda": "MGDAWeighting",
    "pcgrad": "PCGradWeighting",
    "cagrad": "CAGradWeighting",
}
"""torchjd's names: Quinton and Rey 2024, Sener and Koltun 2018, Yu et al. 2020, Liu et al. 2021."""


EPS = 1e-10
"""For torchjd, in parts of the trace. Its own 1e-4 does not protect a task of a thirtieth of another's gradient."""


class Jacobian:
    """Remembers nothing but the weights."""

    def __init__(self, config: Config, probe: Probe):
        self.every, self.seed = config.balancing.probe_every, config.seed
        self.memory: dict = {}
        self.probe, self.weighting = probe, weighting(config.balancing)

    def update(self, weights: Mapping[str, float], run_step: int, step: int) -> dict[str, float]:
        if len(weights) < 2:
            return {}
        gradients = self.probe.gradients(run_step, step)
        return weigh(gradients, self.weighting, self.seed + 1_000_003 * run_step)


def weighting(config: BalancingConfig) -> Callable[[Tensor], Tensor]:
    """From (tasks, tasks) to (tasks,). Raises ValueError where a package is missing."""
    try:
        from torchjd import aggregation, linalg

        settings: dict = {}
        if config.kind == "upgrad":
            settings = {"projector": linalg.QuadprogProjector(norm_eps=0.0, reg_eps=EPS)}
        elif config.kind == "cagrad":
            settings = {"c": config.c, "norm_eps": EPS}
        return getattr(aggregation, WEIGHTINGS[config.kind])(**settings)
    except ImportError:
        raise ValueError(
            f"balancing.kind={config.kind} needs torchjd, which is not installed with all that it needs: make extras, "
            "or choose a balancing.kind that does without: fixed, uncertainty, dwa, dtp, gradnorm."
        ) from None


def weigh(gradients: Mapping[str, Tensor], weighting: Callable[[Tensor], Tensor], seed: int) -> dict[str, float]:
    """0 for all where no weights help all tasks. PCGrad draws the order of tasks from torch: here, by `seed`.

    The products are divided by their trace: weights do not depend on the size of gradients, but torchjd's bounds would.
    """
    if not gradients:
        return {}
    rows = torch.stack(list(gradients.values()))
    products = (rows @ rows.T).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = weighting(products / products.trace()).tolist()
    return dict(zip(gradients, weights, strict=True))
