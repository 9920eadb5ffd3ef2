"""Probes: a batch of every task of the stage at one set of weights, read beside the feeds, which do not move."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.config import Config
from pretrain.data.batch import Batch
from pretrain.data.steps import Steps
from pretrain.deepspeed_config import in_bf16
from pretrain.evaluate import concatenate, reading
from pretrain.model.model import Model
from pretrain.sharing.parts import uncounted
from pretrain.tasks import TASKS
from pretrain.world import World

SAMPLE = 1024
MOST_CHANCE = 0.999
"""Of a task whose label is nearly always the same; 1 would leave no way to go from guessing to perfect."""


class Probe:
    """Asks the model itself, past DeepSpeed, whose backward pass and step know nothing of it (so not under ZeRO 3)."""

    def __init__(self, model: Model, steps: Steps, config: Config, world: World):
        self.model, self.steps, self.config, self.world = model, steps, config, world
        self.tasks = list(steps.reading.stage.steps)

    def gradients(self, run_step: int, step: int) -> dict[str, Tensor]:
        """Of every task: the gradient of its mean loss with respect to the last matrix that all share, flat, float64.

        It is that of the instances of all ranks together, as in a step. A task without a target, or without a finite
        gradient other than zero, is left out. Collective.
        """
        weight = self.model.last_shared
        torch.manual_seed(self.config.seed + 1_000_003 * run_step + self.world.rank)  # dropout; the loop seeds anew
        rows, local = [], []
        with uncounted(self.model.sharing):
            for task in self.tasks:
                row, count = torch.zeros_like(weight), 0
                for batch in self.batches(task, run_step, step):
                    with self.autocast():
                        loss = self.model(batch)[task]
                    row += torch.autograd.grad(loss, weight)[0]
                    count += batch.counts[task]
                rows.append(row.flatten())
                local.append(count)
        sums = torch.stack(rows)
        dist.all_reduce(sums)  # the gradients, not their products: a mean of those would be something else
        counts = self.world.sum(local)
        found = {
            task: total.double() / count for task, total, count in zip(self.tasks, sums, counts, strict=True) if count
        }
        norms = torch.stack([row.norm() for row in found.values()]).tolist() if found else []
        return {task: row for (task, row), norm in zip(found.items(), norms, strict=True) if 0 < norm < torch.inf}

    def predictions(self, run_step: int, step: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Labels and predictions of every task, of all ranks, without dropout. Collective."""
        local = {}
        with reading(self.model, self.config.train, self.world):
            for task in self.tasks:
                labels, predictions = [], []
                for batch in self.batches(task, run_step, step):
                    labels.append(batch.targets[task][1].cpu().numpy())
                    predictions.append(self.model.predict(batch)[task].argmax(-1).cpu().numpy())
                local[task] = np.stack([concatenate(labels), concatenate(predictions)])
        return {task: (both[0], both[1]) for task, both in self.of_all_ranks(local).items()}

    def chances(self) -> dict[str, float]:
        """What guessing reaches in the metric of every task, by the labels of SAMPLE instances. Collective."""
        last = len(self.steps) - 1
        number = -(-SAMPLE // self.steps.reading.size(last))
        local = {
            task: concatenate(
                [b.targets[task][1].numpy() for at in range(number) for b in self.steps.beside(task, last, at)]
            )
            for task in self.tasks
        }
        labels = self.of_all_ranks(local)
        return {task: min(TASKS[task].metric(of, of).chance, MOST_CHANCE) for task, of in labels.items()}

    def of_all_ranks(self, local: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """End to end, in rank order."""
        everyone = self.world.gather(local)
        return {task: np.concatenate([of[task] for of in everyone], axis=-1) for task in self.tasks}

    def batches(self, task: str, run_step: int, step: int) -> Iterator[Batch]:
        """With the targets of the task alone."""
        for batch in self.steps.beside(task, step, run_step):
            alone = batch._replace(targets={task: batch.targets[task]}, counts={task: batch.counts[task]})
            yield alone.to(self.world.device)

    def autocast(self) -> torch.autocast:
        device = self.world.device.type
        return torch.autocast(device, torch.bfloat16, enabled=in_bf16(self.config.train, device == "cuda"))
