"""What a rank does in tests/pretrain/test_engine.py."""

import os
import signal
from pathlib import Path

import torch

from pretrain.config import Config
from pretrain.data.steps import Steps
from pretrain.engine import get_moments, get_weights, make_engine, set_moments
from pretrain.guard import Guard
from pretrain.loop import State, train_stage
from pretrain.report import Report
from pretrain.run import Typed, finished
from pretrain.schedule import Stage
from pretrain.schedule.reading import Reading
from pretrain.train import build_model, first_shape, rate_of, read_sources, train
from pretrain.world import join


def train_some(
    folder: Path, config: dict, steps: dict[str, int], known: list[str], moments_from: str | None = None
) -> dict:
    """Train a stage; returns losses per step, a digest of every parameter, and the optimizer's updates per group."""
    os.chdir(folder)
    torch.set_num_threads(1)
    parsed, world = Config.model_validate(config), join()
    guard = Guard({})
    model = build_model(parsed, known, first_shape(parsed, None))
    model.prepare(parsed.train.activation_checkpointing, parsed.train.compile)
    engine = make_engine(model, parsed.train, world, guard)
    if moments_from is not None:
        tensors, updates = torch.load(moments_from)
        set_moments(engine, tensors, updates)
    before = get_weights(engine, keep=True)
    losses, moved = [], []

    def after_step(state, task, rate, result):
        names = list(result.losses)
        sums = world.sum([float(result.losses[name]) for name in names])
        losses.append({name: s / result.targets[name] for name, s in zip(names, sums, strict=True)})
        now = get_weights(engine, keep=True)
        moved.append([task, sorted(name for name, old in before.items() if not torch.equal(old, now[name]))])
        before.update(now)

    reading = Reading(Stage(steps), parsed.train.batch_size, parsed.corpus.max_length)
    sources, state, micro = read_sources(parsed, "train", known), State(stage=1), parsed.train.micro_batch_size
    read = Steps(reading, sources, {}, parsed.train.companions, micro, world.rank, world.size)
    train_stage(engine, read, state, rate_of(parsed, 1), 0, world, guard, 0, after_step, lambda: False)
    tensors, updates = get_moments(engine)
    if world.main:
        torch.save((tensors, updates), folder / f"moments-{world.size}-{parsed.train.zero_stage}.pt")
    return {
        "losses": losses,
        "moved": moved,
        "weights": {name: tensor.double().sum().item() for name, tensor in before.items()},
        "moments": {name: tensor.double().abs().sum().item() for name, tensor in tensors.items()},
        "updates": updates,
        "positions": state.positions,
    }


def run(folder: Path, home: str, config: dict, stop: int | None) -> dict:
    """Train a run in the folder `home`, and be interrupted at a step; returns the stages that are finished."""
    os.chdir(home)
    torch.set_num_threads(1)
    parsed, rank = Config.model_validate(config), int(os.environ["RANK"])

    class Stopping(Report):
        def step(self, record):
            super().step(record)
            if record["run_step"] == stop:
                os.kill(os.getpid(), signal.SIGINT)

    with Stopping(parsed, rank) as report:
        train(parsed, None, report, Typed(Path("tiny.yaml")))
    return {"finished": [number for number in (1, 2) if finished(parsed, number)]}
