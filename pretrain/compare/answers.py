"""What a finished run says of every validation instance, kept beside it, so that instances can be drawn anew."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load_file

from pretrain.tasks import TASKS

FILE = "validation.safetensors"


class Answers(NamedTuple):
    """Of one task; an instance has one target or more."""

    task: str
    labels: np.ndarray
    predictions: np.ndarray
    sizes: np.ndarray
    """Targets of each instance."""

    def score(self, instances: np.ndarray) -> float:
        """The task's metric on these instances, with repetition."""
        starts = np.cumsum(self.sizes) - self.sizes
        sizes = self.sizes[instances]
        inside = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        chosen = np.repeat(starts[instances], sizes) + inside
        return TASKS[self.task].metric(self.labels[chosen], self.predictions[chosen]).value


def read_answers(folder: Path) -> dict[str, Answers]:
    """By task."""
    found = load_file(folder / FILE)
    tasks = dict.fromkeys(name.partition(".")[0] for name in found)
    return {task: Answers(task, *(found[f"{task}.{name}"] for name in Answers._fields[1:])) for task in tasks}
