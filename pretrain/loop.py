"""The training loop. Everything it needs arrives built; `pretrain.train` assembles it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch.nn import functional

from pretrain.config import TrainConfig
from pretrain.data.batch import Batch, Source, pack
from pretrain.optimizer import awake, learning_rate
from pretrain.schedule import Stage
from pretrain.tasks import TASKS
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
    positions: dict[str, int] = field(default_factory=dict)
    """Per task: instances consumed by all ranks together."""


class StepResult(NamedTuple):
    losses: dict[str, torch.Tensor]
    """Per task: sum over this rank's targets, left on the device."""
    targets: dict[str, int]
    """Per task: number of targets over all ranks."""
    tokens: int
    slots: int
    """Places for tokens that the encoder computed; those that are not tokens are padding."""
    stop: bool
    """Some rank wants to stop."""


def train_stage(
    engine,
    stage: Stage,
    sources: Mapping[str, Source],
    state: State,
    config: TrainConfig,
    seed: int,
    world: World,
    after_step: Callable[[State, str, float, StepResult], None],
    stop_wanted: Callable[[], bool],
) -> bool:
    """Run the steps of a stage from `state` on; False where it was asked to stop before the end."""
    companions = [task for task in config.companions if task in stage.steps]
    order = stage.order
    while state.step < len(order):
        task = order[state.step]
        position = state.positions.get(task, 0)
        batches = read(sources[task], position, companions, config, world)
        torch.manual_seed(seed + 1_000_003 * state.run_step + world.rank)
        rate = learning_rate(state.step + 1, len(order), config.lr, config.warmup_steps, config.decay)
        result = optimizer_step(engine, batches, rate, world, stop_wanted())
        state.positions[task] = position + config.batch_size
        state.step += 1
        state.run_step += 1
        state.tokens += result.tokens
        after_step(state, task, rate, result)
        if result.stop:
            return state.step == len(order)
    return True


def read(source: Source, position: int, companions: Sequence[str], config: TrainConfig, world: World) -> list[Batch]:
    """This rank's share of one step, in micro-batches. Which instances a step has does not depend on the ranks."""
    riding = companions if TASKS[source.task].target is None else []
    mine = range(position + world.rank, position + config.batch_size, world.size)
    chunks = [mine[i : i + config.micro_batch_size] for i in range(0, len(mine), config.micro_batch_size)]
    width = source.phases[0].max_length
    return [pack(source.task, [source.at(i, riding) for i in chunk], width).to(world.device) for chunk in chunks]


def optimizer_step(engine, batches: Sequence[Batch], rate: float, world: World, stop: bool = False) -> StepResult:
    """One optimizer update on one task, the same task on every rank.

    Each task's loss is its sum over targets ÷ the number of its targets on all ranks, however they were cut into ranks
    and micro-batches. DeepSpeed averages gradients over ranks, hence the factor `world.size`.
    """
    tasks = list(batches[0].counts)
    local = [sum(batch.counts[task] for batch in batches) for task in tasks]
    tokens, slots = sum(batch.num_tokens for batch in batches), sum(batch.ids.numel() for batch in batches)
    *counts, tokens, slots, stops = map(int, world.sum([*local, tokens, slots, stop]))
    targets = dict(zip(tasks, counts, strict=True))
    losses = {task: torch.zeros((), device=world.device) for task in tasks}
    for batch in batches:
        logits = engine(batch)
        total = torch.zeros((), device=world.device)
        for task, count in targets.items():
            loss = functional.cross_entropy(logits[task].float(), batch.targets[task][1], reduction="sum")
            losses[task] += loss.detach()
            total = total + loss * (world.size / max(count, 1))  # no target: a loss of zero, and a group at rest
        engine.backward(total)
    trained = awake(batches[0].task, {task for task, count in targets.items() if count})
    for group in engine.optimizer.param_groups:
        group["lr"], group["idle"] = rate, group["name"] not in trained
    engine.step()
    return StepResult(losses, targets, tokens, slots, stops > 0)
