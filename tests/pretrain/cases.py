"""What a rank does in tests/pretrain/test_engine.py."""

import os
from pathlib import Path

import torch

from pretrain.config import Config
from pretrain.engine import get_moments, make_engine, set_moments
from pretrain.loop import State, train_stage
from pretrain.schedule import Stage
from pretrain.train import build_model, first_shape, read_sources
from pretrain.world import join


def train_some(
    folder: Path, config: dict, steps: dict[str, int], known: list[str], moments_from: str | None = None
) -> dict:
    """Train a stage; returns losses per step, a digest of every parameter, and the optimizer's updates per group."""
    os.chdir(folder)
    torch.set_num_threads(1)
    parsed, world = Config.model_validate(config), join()
    engine = make_engine(build_model(parsed, known, first_shape(parsed, None)), parsed.train, world)
    if moments_from is not None:
        tensors, updates = torch.load(moments_from)
        set_moments(engine, tensors, updates)
    before = {name: p.detach().clone() for name, p in engine.module.named_parameters()}
    losses, moved = [], []

    def after_step(state, task, rate, result):
        names = list(result.losses)
        sums = world.sum([float(result.losses[name]) for name in names])
        losses.append({name: s / result.targets[name] for name, s in zip(names, sums, strict=True)})
        now = dict(engine.module.named_parameters())
        moved.append([task, sorted(name for name, old in before.items() if not torch.equal(old, now[name]))])
        before.update({name: p.detach().clone() for name, p in now.items()})

    sources = read_sources(parsed, "train", known)
    state = State(stage=1)
    train_stage(engine, Stage(steps), sources, state, parsed.train, 0, world, after_step, lambda: False)
    tensors, updates = get_moments(engine)
    if world.main:
        torch.save((tensors, updates), folder / f"moments-{world.size}-{parsed.train.zero_stage}.pt")
    return {
        "losses": losses,
        "moved": moved,
        "weights": {name: p.double().sum().item() for name, p in engine.module.named_parameters()},
        "moments": {name: tensor.double().abs().sum().item() for name, tensor in tensors.items()},
        "updates": updates,
        "positions": state.positions,
    }
