"""The training loop. Everything it needs arrives built; `pretrain.train` assembles it."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from pretrain.balancing.balancer import NEUTRAL, Balancer
from pretrain.data.batch import Batch
from pretrain.data.steps import Steps, read_ahead
from pretrain.engine import clear_gradients, gradient_norm
from pretrain.guard import Guard
from pretrain.optimizer import awake
from pretrain.world import World


@dataclass
class State:
    """Where a run stands, whole: what a checkpoint needs beside weights and moments."""

    stage: int
    step: int = 0
    """Steps done in this stage."""
    run_step: int = 0
    """Steps done in the run."""
    tokens: int = 0
    """Real tokens seen in the run, padding not counted."""
    skipped: int = 0
    """Steps of the run that the guard refused."""
    positions: dict[str, int] = field(default_factory=dict)
    """Per task: instances consumed by all ranks together."""
    norms: dict[str, list[float]] = field(default_factory=dict)
    """Per task: the last gradient norms, where spikes are guarded."""
    balance: dict = field(default_factory=dict)
    """What the method that weighs tasks remembers, as of the last checkpoint."""


class StepResult(NamedTuple):
    losses: dict[str, torch.Tensor]
    """Per task: sum over this rank's targets, left on the device; of other losses, over its tokens."""
    targets: dict[str, int]
    """Per task: number of targets over all ranks; of other losses, of tokens."""
    tokens: int
    slots: int
    """Places for tokens that the encoder computed; those that are not tokens are padding."""
    stop: bool
    """Some rank wants to stop."""
    norm: torch.Tensor
    """Global norm of the gradient before clipping, left on the device."""
    penalty: torch.Tensor | None = None
    """What regularised sharing added to the loss, left on the device."""
    waited: float = 0
    """Seconds for which the loop waited for this step's batches."""


def train_stage(
    engine,
    steps: Steps,
    state: State,
    rate_after: Callable[[State], float],
    seed: int,
    world: World,
    guard: Guard,
    readers: int,
    after_step: Callable[[State, str, float, StepResult], None],
    stop_wanted: Callable[[], bool],
    balancer: Balancer = NEUTRAL,
) -> bool:
    """Run the steps of a stage from `state` on; False where it was asked to stop before the end.

    `rate_after` is the learning rate of the step after a state.
    """
    total = len(steps)
    feed = read_ahead(steps, state.step, readers, world.device.type == "cuda")
    while state.step < total:
        begun = time.perf_counter()
        batches = [batch.to(world.device) for batch in next(feed)]
        waited = time.perf_counter() - begun
        share = steps.share(state.step)
        balancer.prepare(state.run_step, state.step)
        torch.manual_seed(seed + 1_000_003 * state.run_step + world.rank)
        rate = rate_after(state)
        guard.prepare(share.task)
        result = optimizer_step(engine, batches, rate, world, stop_wanted(), balancer.weights)
        state.positions[share.task] = share.position + share.size
        state.step += 1
        state.run_step += 1
        state.tokens += result.tokens
        guard.remember(state.run_step, share, result.norm)
        balancer.remember(result.losses, result.targets, result.norm)
        after_step(state, share.task, rate, result._replace(waited=waited))
        if result.stop:
            return state.step == total
    return True


def optimizer_step(
    engine,
    batches: Sequence[Batch],
    rate: float,
    world: World,
    stop: bool = False,
    weights: Mapping[str, float] = NEUTRAL.weights,
) -> StepResult:
    """One optimizer update on one task, the same task on every rank.

    Each task's loss is its sum over targets ÷ the number of its targets on all ranks, however they were cut into ranks
    and micro-batches, times the weight of the task. DeepSpeed averages gradients over ranks, hence `world.size`.
    """
    tasks = list(batches[0].counts)
    local = [sum(batch.counts[task] for batch in batches) for task in tasks]
    tokens, slots = sum(batch.num_tokens for batch in batches), sum(len(batch.ids) for batch in batches)
    *counts, tokens, slots, stops = map(int, world.sum([*local, tokens, slots, stop]))
    targets = dict(zip(tasks, counts, strict=True))
    trained = awake(batches[0].task, {task for task, count in targets.items() if count})
    own = engine.module.loss_weights
    targets |= {name: tokens for name in own if name not in targets}
    losses = {name: torch.zeros((), device=world.device) for name in targets}
    penalty = engine.module.regularise(trained)
    clear_gradients(engine)
    for number, batch in enumerate(batches):
        total = torch.zeros((), device=world.device)
        if penalty is not None and number == 0:  # once per step, and equal on all ranks: their mean is the penalty
            total = total + penalty
        for name, loss in engine(batch).items():
            losses[name] += loss.detach()
            share = own.get(name, 1) * weights.get(name, 1) * world.size / max(targets[name], 1)
            total = total + loss * share  # no target: a loss of zero, a group at rest
        engine.backward(total)
    for group in engine.optimizer.param_groups:
        group["lr"] = group.get("own_lr", rate * group.get("times", 1))
        group["idle"] = group["name"] not in trained
    engine.step()
    penalty = None if penalty is None else penalty.detach()
    return StepResult(losses, targets, tokens, slots, stops > 0, gradient_norm(engine), penalty)
