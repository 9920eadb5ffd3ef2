"""Fine-tuning of one encoder on several tasks at once: MT-DNN (Liu et al. 2019, section 3.1).

Runs in every rank, a world of one included. While it lasts its folder holds `checkpoints/step<n>/` (as those of
`pretrain.checkpoint`, with the best weights so far in `best.safetensors`), at its end `shared/`: encoder, heads, and
what they predict. The optimizer is AdamW, as for one task; the paper's is Adamax.
"""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from corpus_tools.config import Section
from finetune import heads
from finetune.checkpoint import quiet
from finetune.declare import Split, Task, Together
from finetune.metrics import METRICS
from finetune.mixing import Pool, Turn, turns
from finetune.results import Origin, refuse_other
from finetune.shared import Learner, SharedModel
from finetune.train import Prepared, TaskData, predict, prepare, read_task, size_of
from pretrain.checkpoint import Checkpoints, Snapshot, newest_whole, write_json, write_tensors
from pretrain.engine import get_moments, set_moments
from pretrain.report import clock
from pretrain.run import alone
from pretrain.world import World, joined

KEEP = 2
"""Checkpoints; the newest whole one is where it goes on."""
PAUSE = 30
"""Seconds at least between two lines inside an epoch."""
Say = Callable[[str], object]


class Request(Section):
    """All that the shared training from one seed needs; ranks are handed it as JSON."""

    tasks: dict[str, Task]
    settings: Together
    checkpoint: Path
    data: Path | None
    seed: int
    folder: Path
    """Its own."""
    origin: Origin

    def shared(self) -> Path:
        return self.folder / "shared"

    def read(self) -> list[TaskData]:
        return [read_task(name, task, self.data) for name, task in self.tasks.items()]


class Learnt(NamedTuple):
    """What one task has of it."""

    predictions: list[Any]
    """Of the reported split."""
    epochs: list[float]
    """The metric on dev after each epoch."""
    new: list[str]
    """Parameters that the checkpoint had not."""


class Ended(NamedTuple):
    learnt: list[Learnt]
    """One a task."""
    best: int
    """The first of the epochs whose metrics on dev have the highest mean over the tasks, from 1."""
    seconds: float


@dataclass
class State:
    """Where it stands, beside weights and moments."""

    step: int = 0
    scores: list[list[float]] = field(default_factory=list)
    """After each epoch: the metric of every task on dev."""
    best: int = 0
    seconds: float = 0
    skipped: int = 0
    """Steps that changed nothing."""


def train_together(request: Request, data: Sequence[TaskData], say: Say) -> None:
    """Begin, or go on from the last checkpoint, to the end.

    Each head begins as it does where its task is learnt alone from this seed. On a CPU the same seed and number of
    ranks give the same scores, interrupted or not. Raises ValueError where a checkpoint was made from something else.
    """
    with joined() as world, world.watched():
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # else it warns of our optimizer
        if world.main:
            with alone(request.folder / "lock", "give another --out"):
                train(request, data, world, say)
        else:
            train(request, data, world, lambda line: None)


def train(request: Request, data: Sequence[TaskData], world: World, say: Say) -> None:
    settings, seed = request.settings, request.seed
    prepared = [prepare(one, request.checkpoint, seed) for one in data]
    model = SharedModel([one.task for one in data], [one.model for one in prepared])
    pools = [pool_of(one, its, settings) for one, its in zip(data, prepared, strict=True)]
    length = sum(pool.batches for pool in pools)
    state, moments, best = begin(request, model, length, world, say)
    model.to(world.device)
    learner = Learner(model, prepared, settings, seed, settings.epochs * length, world)
    set_moments(learner.engine, *moments)
    learner.skipped += state.skipped
    pace = Pace(f"together  seed {seed}", pools, settings.epochs * length, state, world, say)
    checkpoints = Checkpoints(request.folder / "checkpoints", KEEP, None)

    def save() -> None:
        tensors, updates = get_moments(learner.engine, world.main)
        state.skipped, state.seconds = int(learner.skipped), pace.seconds()
        if world.main:
            about = {"state": asdict(state), "updates": updates, "steps": length, "origin": request.origin._asdict()}
            checkpoints.save(Snapshot({"model": model.weights(), "moments": tensors, "best": best}, about))

    try:
        for epoch in range(state.step // length, settings.epochs):
            pace.new_epoch()
            for turn in turns(pools, settings.mixing, seed, epoch, settings.epochs)[state.step - epoch * length :]:
                loss = learner(state.step, turn)
                state.step += 1
                pace.step(turn, loss)
                if state.step % settings.checkpoint_every == 0 and state.step % length:
                    save()
            speed = pace.speed()
            state.scores.append([dev_score(one, its, world) for one, its in zip(data, prepared, strict=True)])
            means = [float(np.mean(row)) for row in state.scores]
            if epoch == 0 or means[-1] > max(means[:-1]):
                state.best, best = epoch + 1, model.weights() if world.main else {}
            save()
            each = "  ".join(f"{one.name} {score:.3f}" for one, score in zip(data, state.scores[-1], strict=True))
            pace.say(f"epoch {epoch + 1}/{settings.epochs}  dev mean {means[-1]:.3f}  {each}", speed)
    finally:
        checkpoints.wait()
    learner.engine.destroy()
    put(model, best, world)
    learnt = [
        Learnt(predict_all(one, its, one.reported, world), list(dev), its.new)
        for one, its, dev in zip(data, prepared, zip(*state.scores, strict=True), strict=True)
    ]
    if world.main:
        save_shared(request, model, prepared, Ended(learnt, state.best, pace.seconds()))


Moments = tuple[dict[str, torch.Tensor], dict[str, int]]
Weights = dict[str, torch.Tensor]


def begin(request: Request, model: SharedModel, length: int, world: World, say: Say) -> tuple[State, Moments, Weights]:
    """The newest checkpoint: its weights in the model, its state, moments and, in the main rank, best weights."""
    checkpoints = request.folder / "checkpoints"
    found, damage = world.gather(newest_whole(checkpoints) if world.main else None)[0]
    for line in damage:
        say(f"{line}; the one before is used")
    if found is None:
        return State(), ({}, {}), {}
    about = json.loads((found / "state.json").read_text())
    mend = f"Delete {request.folder}, or give another --out."
    refuse_other(found, Origin(**about["origin"]), request.origin, mend)
    if about["steps"] != length:
        raise ValueError(f"{found} was made with other rows: {about['steps']} steps an epoch, now {length}. {mend}")
    model.load_state_dict(load_file(found / "model.safetensors"), strict=False)  # the encoder is in every model too
    state = State(**about["state"])
    say(f"together  seed {request.seed}  goes on from step {state.step}/{length * request.settings.epochs}")
    best = load_file(found / "best.safetensors") if world.main else {}
    return state, (load_file(found / "moments.safetensors"), about["updates"]), best


def pool_of(data: TaskData, prepared: Prepared, settings: Together) -> Pool:
    size = data.task.batch_size if data.task.kind == "ranking" else settings.batch_size
    return Pool(data.name, [size_of(feature) for feature in prepared.features["train"]], size)


def dev_score(data: TaskData, prepared: Prepared, world: World) -> float:
    return METRICS[data.task.metric](data.labels("dev"), predict_all(data, prepared, "dev", world))


def predict_all(data: TaskData, prepared: Prepared, split: Split, world: World) -> list[Any]:
    """The ranks take turns with the batches, which are the same for any number of ranks. Collective."""
    own = slice(world.rank, None, world.size)
    parts = world.gather(predict(prepared.model, data, prepared.features[split], prepared.collate, own))
    return [next(one for one in found if one is not None) for found in zip(*parts, strict=True)]


def put(model: SharedModel, weights: Weights, world: World) -> None:
    """The main rank's weights into every rank's model, each in memory of its own: ZeRO had laid them end to end."""
    for name, parameter in model.named_parameters():
        tensor = weights[name].to(world.device) if world.main else torch.empty_like(parameter)
        dist.broadcast(tensor, 0)
        parameter.data = tensor


class Pace:
    """Says how it goes: at the end of an epoch, and now and then inside."""

    def __init__(self, name: str, pools: Sequence[Pool], steps: int, state: State, world: World, say: Say):
        self.name, self.pools, self.steps, self.state, self.world, self.say_line = name, pools, steps, state, world, say
        self.begun, self.first, self.before = time.monotonic(), state.step, state.seconds
        self.new_epoch()

    def seconds(self) -> float:
        """In all, also before it was interrupted."""
        return self.before + time.monotonic() - self.begun

    def new_epoch(self) -> None:
        self.epoch_begun, self.tokens = time.monotonic(), 0
        self.new_line()

    def new_line(self) -> None:
        """Losses are those since the line before."""
        self.told = time.monotonic()
        self.losses: dict[int, list[torch.Tensor]] = {}

    def speed(self) -> float:
        return self.tokens / (time.monotonic() - self.epoch_begun)

    def step(self, turn: Turn, loss: torch.Tensor) -> None:
        """After each. Collective."""
        self.tokens += sum(self.pools[turn.task].sizes[example] for example in turn.examples)
        self.losses.setdefault(turn.task, []).append(loss)
        if self.world.sum([self.world.main and time.monotonic() > self.told + PAUSE])[0]:
            means = self.world.sum([float(torch.stack(its).mean()) for its in self.losses.values()])
            shown = [f"{self.pools[task].name} {mean:.3f}" for task, mean in zip(self.losses, means, strict=True)]
            self.say(f"step {self.state.step}/{self.steps}  loss: {', '.join(shown)}", self.speed())
            self.new_line()

    def say(self, line: str, speed: float) -> None:
        if self.state.skipped:
            line += f"  {self.state.skipped} steps skipped, their gradient was not finite"
        left = (time.monotonic() - self.begun) / (self.state.step - self.first) * (self.steps - self.state.step)
        self.say_line(f"{self.name}  {line}  {speed:,.0f} tok/s  left {clock(left)}")


def save_shared(request: Request, model: SharedModel, prepared: Sequence[Prepared], ended: Ended) -> None:
    """The encoder as a checkpoint of its own, each task's head below it, and what came out. Aside, then renamed."""
    aside = request.folder / "shared.part"
    for old in (aside, request.shared()):
        if old.is_dir():
            rmtree(old)
    (aside / "heads").mkdir(parents=True)
    with quiet():
        model.encoder.save_pretrained(aside)
        prepared[0].tokenizer.save_pretrained(aside)
    for name, one in zip(request.tasks, prepared, strict=True):
        head = {key: tensor.cpu().contiguous() for key, tensor in heads.head_of(one.model).items()}
        write_tensors(head_path(aside, name), head)
    write_json(aside / ENDED, ended._asdict())
    aside.rename(request.shared())


ENDED = "ended.json"


def take_shared(request: Request, folder: Path) -> Ended:
    """What came out, whose encoder and heads are moved to a folder."""
    tree = json.loads((request.shared() / ENDED).read_text())
    if folder.is_dir():
        rmtree(folder)
    request.shared().rename(folder)
    (folder / ENDED).unlink()
    return Ended(**tree | {"learnt": [Learnt(*one) for one in tree["learnt"]]})


def load_head(folder: Path, name: str) -> Weights:
    return load_file(head_path(folder, name))


def head_path(folder: Path, name: str) -> Path:
    return folder / "heads" / f"{name}.safetensors"
