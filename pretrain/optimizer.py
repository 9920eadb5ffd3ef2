"""AdamW in which a task that rests does not move, and the parameter groups that make this possible.

DeepSpeed gives every parameter a gradient, zeros where a step did not use it; AdamW would then still move an idle head
by momentum and weight decay. Here each head is a group of its own and an idle group is passed over: neither its weights
nor its moments change. This holds under ZeRO too, which keeps groups apart.
"""

import torch
from torch import nn

from pretrain.model.model import Model
from pretrain.tasks import TASKS
from pretrain.tasks.spec import Head


class RestingAdamW(torch.optim.AdamW):
    """AdamW that passes over the groups whose `idle` is set."""

    def step(self, closure=None):
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["idle"]]
        try:
            return super().step(closure)
        finally:
            self.param_groups = groups


def parameter_groups(model: Model, weight_decay: float) -> list[dict]:
    """Encoder with and without weight decay, the pooler, and each task's head and embedding; only matrices decay."""
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault(group_of(name, parameter), []).append(parameter)
    return [
        {"params": params, "name": name, "weight_decay": weight_decay if name == "encoder" else 0.0, "idle": False}
        for name, params in sorted(groups.items())
    ]


def group_of(name: str, parameter: nn.Parameter) -> str:
    if name.startswith("heads."):
        return "head." + name.split(".")[1]
    if name.startswith("encoder.embeddings.task_type_embeddings."):
        return "embedding." + name.rsplit(".", 1)[1]
    if name.startswith("encoder.pooler."):
        return "pooler"
    return "encoder" if parameter.ndim >= 2 else "encoder.no_decay"


def awake(task: str, predicted: set[str]) -> set[str]:
    """The groups that a step of `task` trains, where `predicted` are the tasks with targets in it."""
    groups = {"encoder", "encoder.no_decay", f"embedding.{task}"} | {f"head.{name}" for name in predicted}
    if any(TASKS[name].head is Head.SEQUENCE for name in predicted):
        groups.add("pooler")
    return groups


def learning_rate(step: int, num_steps: int, peak: float, warmup: int, decay: str) -> float:
    """Rate of step 1..num_steps of a stage: linear warm-up to `peak`, then noam (∝ 1/√step) or linear to zero."""
    if step < warmup:
        return peak * step / warmup
    if decay == "noam":
        return peak * (max(warmup, 1) / step) ** 0.5
    return peak * (num_steps - step + 1) / (num_steps - max(warmup, 1) + 1)
