"""Every task on frozen validation instances: loss, metric, and what guessing would reach."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from pretrain.config import TrainConfig
from pretrain.data.batch import Batch, Example, Source, pack
from pretrain.data.feed import spread
from pretrain.deepspeed_config import in_bf16
from pretrain.model.model import Model
from pretrain.tasks import TASKS
from pretrain.world import World

FROZEN = "validation"
"""In the place of an epoch: validation instances are drawn once and for all."""


class Predictions(NamedTuple):
    """What a model says of the validation instances of one task."""

    loss: float
    """Sum over all targets."""
    labels: np.ndarray
    predictions: np.ndarray
    sizes: np.ndarray
    """Targets of each instance."""


def evaluate(model: Model, sources: Mapping[str, Source], limit: int, config: TrainConfig, world: World) -> list[dict]:
    """One record per task, over `limit` instances spread evenly over its shards. Collective."""
    with reading(model, config, world):
        return [record_of(source.task, model, source, limit, config, world) for source in sources.values()]


@contextmanager
def reading(model: Model, config: TrainConfig, world: World) -> Iterator[None]:
    """The model as it predicts: without dropout, gradients, and in the precision of training."""
    was_training = model.training
    model.eval()
    gpu = world.device.type == "cuda"
    with torch.no_grad(), torch.autocast(world.device.type, torch.bfloat16, enabled=in_bf16(config, gpu)):
        yield
    model.train(was_training)


def record_of(task: str, model: Model, source: Source, limit: int, config: TrainConfig, world: World) -> dict:
    begun, spec = time.monotonic(), TASKS[task]
    loss, labels, predictions, sizes = predict(model, source, limit, config.micro_batch_size, world)
    score = spec.metric(labels, predictions)
    return {
        "task": task,
        "loss": loss / max(1, len(labels)),
        "chance_loss": entropy(labels),
        "metric_name": spec.metric_name,
        "metric": score.value,
        "chance": score.chance,
        "detail": score.detail,
        "instances": len(sizes),
        "targets": len(labels),
        "seconds": round(time.monotonic() - begun, 2),
    }


def predict(model: Model, source: Source, limit: int, micro_batch: int, world: World) -> Predictions:
    """Of `limit` instances, in the order of ranks; while the model is `reading`. Collective."""
    total, labels, predictions, sizes = 0.0, [], [], []
    for examples, batch in batches(source, limit, micro_batch, world):
        logits = model.predict(batch)[source.task].float()
        targets = batch.targets[source.task][1]
        total += functional.cross_entropy(logits, targets, reduction="sum").item()
        labels.append(targets.cpu().numpy())
        sizes.append(np.array([len(example.targets[source.task].labels) for example in examples]))
        predictions.append(logits.argmax(-1).cpu().numpy())
    shares = world.gather((total, *map(concatenate, (labels, predictions, sizes))))
    losses, *arrays = zip(*shares, strict=True)
    return Predictions(sum(losses), *map(np.concatenate, arrays))


def batches(source: Source, limit: int, micro_batch: int, world: World) -> Iterator[tuple[list[Example], Batch]]:
    """This rank's part of `limit` validation instances, on its device."""
    mine = spread(len(source.instances), limit)[world.rank :: world.size]
    for start in range(0, len(mine), micro_batch):
        examples = [source.draw(index, FROZEN) for index in mine[start : start + micro_batch]]
        yield examples, pack(source.task, examples).to(world.device)


def concatenate(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0, np.int64)


def entropy(labels: np.ndarray) -> float:
    """Loss, in nats, of who knows only how often each label occurs."""
    share = np.unique(labels, return_counts=True)[1] / max(1, len(labels))
    return float(-(share * np.log(share)).sum())
