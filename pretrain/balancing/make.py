"""The balancer that a configuration asks for."""

from collections.abc import Mapping

from pretrain.balancing.balancer import Balancer
from pretrain.balancing.dtp import DTP
from pretrain.balancing.dwa import DWA
from pretrain.balancing.gradnorm import GradNorm
from pretrain.balancing.jacobian import WEIGHTINGS, Jacobian, weighting
from pretrain.balancing.measured import Losses, Measured
from pretrain.balancing.probe import Probe
from pretrain.balancing.uncertainty import Uncertainty
from pretrain.config import BalancingConfig, Config
from pretrain.data.steps import Steps
from pretrain.model.model import Model
from pretrain.world import World


def refuse_absent(config: BalancingConfig) -> None:
    """Raises ValueError where the method needs a package that is missing."""
    if config.kind in WEIGHTINGS:
        weighting(config)


def make_balancer(config: Config, model: Model, steps: Steps, saved: Mapping, world: World) -> Balancer:
    """For the tasks of a stage, from the state in which a checkpoint or the stage before left it."""
    ours, tasks = config.balancing, list(steps.reading.stage.steps)
    if ours.kind == "fixed":
        return Balancer({task: ours.weights.get(task, 1.0) for task in tasks})
    if ours.kind == "uncertainty":
        assert model.log_variances is not None
        return Uncertainty(model.log_variances, tasks)
    memory, losses = dict(saved.get("memory", {})), Losses(world, saved.get("losses", {}))
    probe = Probe(model, steps, config, world)
    if ours.kind == "dwa":
        following = {task: means for task, means in memory.items() if task in tasks}  # else windows lie apart
        return Measured(tasks, saved, DWA(ours, following, losses), losses, world)
    if ours.kind == "gradnorm":
        return Measured(tasks, saved, GradNorm(ours, memory, losses, probe), losses, world)
    method = DTP(ours, memory, probe) if ours.kind == "dtp" else Jacobian(config, probe)
    return Measured(tasks, saved, method, None, world)
