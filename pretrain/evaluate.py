"""Every task on frozen validation instances: loss, metric, and what guessing would reach."""

import time
from collections.abc import Mapping

import numpy as np
import torch
from torch.nn import functional

from pretrain.config import TrainConfig
from pretrain.data.batch import Source, pack
from pretrain.engine import in_bf16
from pretrain.model.model import Model
from pretrain.tasks import TASKS
from pretrain.world import World

FROZEN = "validation"
"""In the place of an epoch: validation instances are drawn once and for all."""


@torch.no_grad()
def evaluate(model: Model, sources: Mapping[str, Source], limit: int, config: TrainConfig, world: World) -> list[dict]:
    """One record per task, over `limit` instances spread evenly over its shards. Collective."""
    was_training = model.training
    model.eval()
    with torch.autocast(world.device.type, torch.bfloat16, enabled=in_bf16(config, world.device.type == "cuda")):
        micro_batch = config.micro_batch_size
        records = [evaluate_task(model, source, limit, micro_batch, world) for source in sources.values()]
    model.train(was_training)
    return records


def evaluate_task(model: Model, source: Source, limit: int, micro_batch: int, world: World) -> dict:
    begun = time.monotonic()
    spec = TASKS[source.task]
    chosen = spread(len(source.instances), limit)
    mine = chosen[world.rank :: world.size]
    total, labels, predictions = 0.0, [], []
    for start in range(0, len(mine), micro_batch):
        examples = [source.draw(index, FROZEN) for index in mine[start : start + micro_batch]]
        batch = pack(source.task, examples).to(world.device)
        logits = model.predict(batch)[source.task].float()
        targets = batch.targets[source.task][1]
        total += functional.cross_entropy(logits, targets, reduction="sum").item()
        labels.append(targets.cpu().numpy())
        predictions.append(logits.argmax(-1).cpu().numpy())
    shares = world.gather((total, concatenate(labels), concatenate(predictions)))
    truth = np.concatenate([share[1] for share in shares])
    score = spec.metric(truth, np.concatenate([share[2] for share in shares]))
    return {
        "task": source.task,
        "loss": sum(share[0] for share in shares) / max(1, len(truth)),
        "chance_loss": entropy(truth),
        "metric_name": spec.metric_name,
        "metric": score.value,
        "chance": score.chance,
        "detail": score.detail,
        "instances": len(chosen),
        "targets": len(truth),
        "seconds": round(time.monotonic() - begun, 2),
    }


def spread(size: int, limit: int) -> list[int]:
    """Up to `limit` indices, evenly over all instances, so that every shard and label is met."""
    return np.linspace(0, size, min(size, limit), endpoint=False).astype(int).tolist()


def concatenate(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0, np.int64)


def entropy(labels: np.ndarray) -> float:
    """Loss, in nats, of who knows only how often each label occurs."""
    share = np.unique(labels, return_counts=True)[1] / max(1, len(labels))
    return float(-(share * np.log(share)).sum())
