"""What a rank does in tests/pretrain/test_balancing.py."""

import os
from dataclasses import replace
from pathlib import Path

import torch

from pretrain.balancing.make import make_balancer
from pretrain.balancing.probe import Probe
from pretrain.config import Config
from pretrain.engine import get_weights, make_engine
from pretrain.guard import Guard
from pretrain.loop import State, train_stage
from pretrain.schedule import Stage
from pretrain.schedule.reading import Reading
from pretrain.train import build_model, first_shape, rate_of, read_sources, steps_of
from pretrain.world import join


def built(config: Config, tasks: dict[str, int]):
    """What the loop needs for a stage of these tasks: engine, steps, state, world, guard."""
    torch.set_num_threads(1)
    world, state, guard = join(), State(stage=1), Guard({})
    engine = make_engine(build_model(config, list(tasks), first_shape(config, None)), config.train, world, guard)
    reading = Reading(Stage(tasks), config.train.batch_size, config.corpus.max_length)
    steps = replace(steps_of(config, 1, read_sources(config, "train", config.tasks), state, world), reading=reading)
    return engine, steps, state, world, guard


def balanced(folder: Path, home: str, configs: list[dict], tasks: dict[str, int]) -> list[dict]:
    """Of every configuration: the weights after every step, which learnt ones that step moved, and how all ended."""
    os.chdir(home)
    return [trained(Config.model_validate(config), tasks) for config in configs]


def trained(config: Config, tasks: dict[str, int]) -> dict:
    engine, steps, state, world, guard = built(config, tasks)
    balancer = make_balancer(config, engine.module, steps, {}, world)
    gramian, predicted = [], {}
    if config.balancing.probes:
        probe = Probe(engine.module, steps, config, world)
        rows = torch.stack(list(probe.gradients(3, 0).values()))
        gramian = (rows @ rows.T).tolist()
        found = {task: zip(*both, strict=True) for task, both in probe.predictions(3, 0).items()}
        predicted = {task: sorted([int(label), int(guess)] for label, guess in pairs) for task, pairs in found.items()}
    before = get_weights(engine, keep=True)
    shown, moved, losses = [], [], []

    def after_step(state, task, rate, result):
        shown.append(balancer.shown())
        now = get_weights(engine, keep=True)
        changed = sorted(name for name, old in before.items() if not torch.equal(old, now[name]))
        moved.append([task, [name.removeprefix("log_variances.s.") for name in changed if "log_variances" in name]])
        before.update(now)
        sums = world.sum([float(loss) for loss in result.losses.values()])
        losses.append([s / count for s, count in zip(sums, result.targets.values(), strict=True)])

    train_stage(
        engine, steps, state, rate_of(config, 1), config.seed, world, guard, 0, after_step, lambda: False, balancer
    )
    return {
        "weights": shown,
        "moved": moved,
        "losses": losses,
        "end": {name: tensor.double().sum().item() for name, tensor in before.items()},
        "state": balancer.state(),
        "gramian": gramian,
        "predicted": predicted,
        "positions": state.positions,
    }
