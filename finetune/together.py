"""Fine-tuning of one encoder on several tasks at once: MT-DNN (Liu et al. 2019, section 3.1).

Every step is a batch of one task, whose loss moves the encoder and that task's head; the other heads rest. The
optimizer is AdamW, as for one task; the paper's is Adamax.
"""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import clip_grad_norm_
from transformers import PreTrainedModel, PreTrainedTokenizerBase, get_linear_schedule_with_warmup

from finetune import heads
from finetune.checkpoint import quiet
from finetune.declare import Together
from finetune.metrics import METRICS
from finetune.mixing import Pool, turns
from finetune.train import Prepared, TaskData, predict, prepare, size_of
from pretrain.report import clock

CLIP = 1.0
"""Largest gradient norm, as the Trainer's."""


class Learnt(NamedTuple):
    """What one task has of it."""

    head: dict[str, torch.Tensor]
    predictions: list[Any]
    """Of the reported split."""
    epochs: list[float]
    """The metric on dev after each epoch."""
    new: list[str]
    """Parameters that the checkpoint had not."""


class Shared(NamedTuple):
    encoder: PreTrainedModel
    """Of the best epoch, as are the heads."""
    tokenizer: PreTrainedTokenizerBase
    learnt: list[Learnt]
    """One a task."""
    best: int
    """The first of the epochs whose metrics on dev have the highest mean over the tasks, from 1."""


def train_together(
    tasks: Sequence[TaskData], folder: Path, settings: Together, seed: int, say: Callable[[str], object]
) -> Shared:
    """Each head begins as it does where its task is learnt alone from this seed. On a CPU the same seed gives the same
    scores."""
    prepared = [prepare(data, folder, seed) for data in tasks]
    models = nn.ModuleList([one.model for one in prepared])
    encoder = heads.share_encoder([one.model for one in prepared])
    models.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    pools = [pool_of(data, one, settings) for data, one in zip(tasks, prepared, strict=True)]
    learn = Learner(models, settings, settings.epochs * sum(pool.batches for pool in pools))
    scores, best, weights = list[list[float]](), 0, dict[str, torch.Tensor]()
    begun = time.monotonic()
    for epoch in range(settings.epochs):
        tokens, epoch_begun = 0, time.monotonic()
        for turn in turns(pools, settings.mixing, seed, epoch, settings.epochs):
            learn(tasks[turn.task], prepared[turn.task], turn.examples)
            tokens += sum(pools[turn.task].sizes[example] for example in turn.examples)
        speed = tokens / (time.monotonic() - epoch_begun)
        scores.append([dev_score(data, one) for data, one in zip(tasks, prepared, strict=True)])
        means = [float(np.mean(row)) for row in scores]
        if means[-1] > max(means[:-1], default=-math.inf):
            best = epoch + 1
            weights = {name: tensor.detach().cpu().clone() for name, tensor in models.named_parameters()}
        left = (time.monotonic() - begun) / (epoch + 1) * (settings.epochs - epoch - 1)
        each = "  ".join(f"{data.name} {score:.3f}" for data, score in zip(tasks, scores[-1], strict=True))
        say(
            f"together  seed {seed}  epoch {epoch + 1}/{settings.epochs}  dev mean {means[-1]:.3f}  {each}  "
            f"{speed:,.0f} tok/s  left {clock(left)}"
        )
    models.load_state_dict(weights, strict=False)  # the encoder is in every model, and here once
    learnt = [
        Learnt(
            heads.head_of(one.model),
            predict(one.model, data, one.features[data.reported], one.collate),
            list(dev),
            one.new,
        )
        for data, one, dev in zip(tasks, prepared, zip(*scores, strict=True), strict=True)
    ]
    return Shared(encoder, prepared[0].tokenizer, learnt, best)


def pool_of(data: TaskData, prepared: Prepared, settings: Together) -> Pool:
    size = data.task.batch_size if data.task.kind == "ranking" else settings.batch_size
    return Pool(data.name, [size_of(feature) for feature in prepared.features["train"]], size)


def dev_score(data: TaskData, prepared: Prepared) -> float:
    found = predict(prepared.model, data, prepared.features["dev"], prepared.collate)
    return METRICS[data.task.metric](data.labels("dev"), found)


class Learner:
    """One step at a time. A head that is not in the step has no gradient, and AdamW passes it over."""

    def __init__(self, models: nn.ModuleList, settings: Together, steps: int):
        self.models = models.train()
        matrices = [one for one in models.parameters() if one.ndim > 1]
        others = [one for one in models.parameters() if one.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.lr)
        warmup = math.ceil(settings.warmup * steps)
        self.schedule = get_linear_schedule_with_warmup(self.optimizer, warmup, steps)

    def __call__(self, data: TaskData, prepared: Prepared, examples: Sequence[int]) -> None:
        rows = [prepared.features["train"][example] for example in examples]
        device = heads.encoder_of(prepared.model).device
        batch = {name: tensor.to(device) for name, tensor in prepared.collate(rows).items()}
        labels = batch.pop("labels")
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = prepared.model(**batch).logits
        heads.loss(data.task, logits, labels).backward()
        clip_grad_norm_(self.models.parameters(), CLIP)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)


def save_shared(folder: Path, names: Sequence[str], shared: Shared) -> None:
    """The encoder as a checkpoint of its own, and each task's head below it."""
    (folder / "heads").mkdir(parents=True)
    with quiet():
        shared.encoder.save_pretrained(folder)
        shared.tokenizer.save_pretrained(folder)
    for name, learnt in zip(names, shared.learnt, strict=True):
        save_file({key: tensor.cpu().contiguous() for key, tensor in learnt.head.items()}, head_path(folder, name))


def load_head(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(head_path(folder, name))


def head_path(folder: Path, name: str) -> Path:
    return folder / "heads" / f"{name}.safetensors"
