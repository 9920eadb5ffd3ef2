"""One encoder under the heads of several tasks, and a step of its training: through DeepSpeed, on any number of ranks.

A step is a batch of one task, whose loss moves the encoder and that task's head; the other heads rest, to the last bit.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from finetune import heads
from finetune.declare import Task, Together
from finetune.heads import Feature
from finetune.mixing import Turn
from finetune.train import Prepared
from pretrain.config import TrainConfig
from pretrain.engine import engine_of, gradient_norm
from pretrain.guard import Guard
from pretrain.world import World

BETAS, CLIP = (0.9, 0.999), 1.0
"""Of AdamW, and the largest gradient norm: the Trainer's."""
NO_DECAY = ".no_decay"


class SharedModel(nn.Module):
    def __init__(self, tasks: Sequence[Task], models: Sequence[heads.Model]):
        super().__init__()
        self.tasks = tasks
        self.encoder = heads.share_encoder(models)
        self.models = nn.ModuleList(models)
        """They hold the encoder too; its parameters are named once, `encoder.…`."""

    def forward(self, task: int, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The task's loss, summed over the targets."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        return heads.loss(self.tasks[task], self.models[task](**inputs).logits, batch["labels"], "sum")

    def weights(self) -> dict[str, torch.Tensor]:
        """A copy on the host."""
        return {name: parameter.detach().to("cpu", copy=True) for name, parameter in self.named_parameters()}

    def awake(self, task: int) -> set[str]:
        """Whose parameters a step of the task trains."""
        return {"encoder", f"head.{task}"} | ({"pooler"} if heads.pools(self.tasks[task]) else set())


def owner_of(name: str) -> str:
    if name.startswith("models."):
        return "head." + name.split(".")[1]
    return "pooler" if name.startswith("encoder.pooler.") else "encoder"


def parameter_groups(model: SharedModel, weight_decay: float) -> list[dict[str, Any]]:
    """By owner, with and without weight decay: matrices decay, biases and norms do not. All rest until a step wakes
    them."""
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault(owner_of(name) + (NO_DECAY if parameter.ndim <= 1 else ""), []).append(parameter)
    return [
        {"params": params, "name": name, "weight_decay": 0.0 if name.endswith(NO_DECAY) else weight_decay, "idle": True}
        for name, params in groups.items()
    ]


class Learner:
    """One step at a time, the same on every rank, each with its share of the examples."""

    def __init__(
        self, model: SharedModel, prepared: Sequence[Prepared], settings: Together, seed: int, steps: int, world: World
    ):
        self.model, self.prepared, self.settings, self.world = model.train(), prepared, settings, world
        self.seed, self.steps = seed, steps
        self.units = [heads.unit(task, one.features["train"]) for task, one in zip(model.tasks, prepared, strict=True)]
        config = TrainConfig(
            lr=settings.lr, betas=BETAS, clip=CLIP, zero_stage=settings.zero_stage,
            batch_size=world.size, micro_batch_size=1,  # DeepSpeed need not know: we cut the batches
        )  # fmt: skip
        self.engine = engine_of(model, parameter_groups(model, settings.weight_decay), config, world, Guard({}))
        self.skipped = torch.zeros((), dtype=torch.long, device=world.device)
        """Steps that changed nothing, since their gradient was not finite."""

    def __call__(self, step: int, turn: Turn) -> torch.Tensor:
        """This rank's part of the mean loss over the targets, in the task's unit, left on the device; the ranks' parts
        add up to it.

        DeepSpeed averages gradients over ranks, hence `world.size`. Steps are counted from 0.
        """
        task, prepared, world = turn.task, self.prepared[turn.task], self.world
        rows = [prepared.features["train"][example] for example in turn.examples]
        size = self.units[task] * max(1, heads.targets(self.model.tasks[task], rows))
        torch.manual_seed(self.seed + 1_000_003 * step + world.rank)
        mean = torch.zeros((), device=world.device)
        for part, weight in cut(rows, world.rank, world.size, self.settings.micro_batch_size):
            batch = {name: tensor.to(world.device) for name, tensor in prepared.collate(part).items()}
            loss = self.engine(task, batch) * (weight / size)
            self.engine.backward(loss * world.size)
            mean += loss.detach()
        awake, lr = self.model.awake(task), rate(step, self.steps, self.settings)
        for group in self.engine.optimizer.param_groups:
            group["lr"], group["idle"] = lr, group["name"].removesuffix(NO_DECAY) not in awake
        self.engine.step()
        self.skipped += ~gradient_norm(self.engine).isfinite().to(world.device)
        return mean


def cut(rows: Sequence[Feature], rank: int, size: int, most: int | None) -> list[tuple[Sequence[Feature], float]]:
    """The micro-batches of a rank, of at most so many rows, with the weight of their loss.

    Every rank has as many, since ZeRO adds up gradients in each; who has no row left computes one that does not count.
    """
    own, largest = rows[rank::size], -(-len(rows) // size)
    most = most or largest
    parts = [own[begin : begin + most] for begin in range(0, largest, most)]
    return [(part, 1.0) if part else (rows[:1], 0.0) for part in parts]


def rate(step: int, steps: int, settings: Together) -> float:
    """The learning rate rises from 0 and falls to 0, linearly, as the Trainer's."""
    warmup = math.ceil(settings.warmup * steps)
    return settings.lr * (step / warmup if step < warmup else (steps - step) / (steps - warmup))
