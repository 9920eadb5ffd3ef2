"""What a rank does in tests/finetune/test_finetune_ranks.py."""

from pathlib import Path

import torch
import yaml

from finetune import load_suite, load_together
from finetune.mixing import Turn
from finetune.shared import Learner, SharedModel
from finetune.train import prepare, read_task
from pretrain.engine import get_moments, set_moments
from pretrain.world import joined

SIZES = (5, 4, 1, 3)
"""Of the batches: no number divides them all, and for one there are fewer examples than ranks."""


def suite(folder: Path, trees: dict) -> None:
    (folder / "suite.yaml").write_text(yaml.safe_dump(trees, sort_keys=False))


def learn(folder: Path, out: str, halves: bool = False, **settings) -> dict:
    """Steps of all tasks in turn; `halves`: the second half by a new engine, from the weights and moments of the first.

    Returns of each step the loss and what moved. Rank 0 writes weights and moments.
    """
    torch.set_num_threads(1)
    tasks = load_suite(folder / "suite.yaml")
    with joined() as world:
        data = [read_task(name, task, folder) for name, task in tasks.items()]
        prepared = [prepare(one, folder / "encoder", 0) for one in data]
        together = load_together(folder / "suite.yaml", [f"together.{key}={value}" for key, value in settings.items()])
        model = SharedModel([one.task for one in data], [one.model for one in prepared])
        turns = [
            Turn(task, list(range(first, first + size)))
            for first, size in enumerate(SIZES)
            for task in range(len(data))
        ]
        learner = Learner(model, prepared, together, 0, len(turns), world)
        losses, moved, before = [], [], model.weights()
        for step, turn in enumerate(turns):
            if halves and step == len(turns) // 2:
                moments = get_moments(learner.engine)
                learner.engine.destroy()
                model = SharedModel(
                    [one.task for one in data], [prepare(one, folder / "encoder", 1).model for one in data]
                )
                prepared = [old._replace(model=new) for old, new in zip(prepared, model.models, strict=True)]
                model.load_state_dict(before, strict=False)
                learner = Learner(model, prepared, together, 0, len(turns), world)
                set_moments(learner.engine, *moments)
            losses.append(world.sum([float(learner(step, turn))])[0])
            now = model.weights()
            moved.append([turn.task, [name for name in now if not torch.equal(now[name], before[name])]])
            before = now
        moments, updates = get_moments(learner.engine)
        same = world.gather({name: tensor.sum().item() for name, tensor in before.items()})
        if world.main:
            torch.save({"weights": before, "moments": moments}, folder / out)
        learner.engine.destroy()
    return {"losses": losses, "moved": moved, "updates": updates, "same": all(one == same[0] for one in same)}
