"""AdamW in which a task that rests does not move, and the parameter groups that make this possible.

DeepSpeed gives every parameter a gradient, zeros where a step did not use it; AdamW would then still move an idle head
by momentum and weight decay. Here each head is a group of its own and an idle group is passed over: neither its weights
nor its moments change. This holds under ZeRO too, which keeps groups apart.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pretrain.guard import Guard
from pretrain.model.model import Model
from pretrain.sharing import owners
from pretrain.sharing.cross_stitch import CrossStitch
from pretrain.tasks import TASKS
from pretrain.tasks.spec import Head


class RestingAdamW(torch.optim.AdamW):
    """AdamW that passes over the groups whose `idle` is set, and over a whole step whose gradient the guard refuses.

    Where ZeRO has computed the global norm of the gradient and clipped it, `zero_norm` gives that norm; otherwise both
    are done here. Nothing waits for the device.
    """

    def __init__(self, groups: list[dict], lr: float, betas: tuple[float, float], clip: float, guard: Guard):
        super().__init__(groups, lr=lr, betas=betas, eps=1e-8, fused=True)
        self.clip, self.guard = clip, guard
        self.zero_norm: Callable[[], Tensor] | None = None

    def step(self, closure=None):
        groups = self.param_groups
        if self.zero_norm is None:
            parameters = [parameter for group in groups for parameter in group["params"]]
            self.norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            if self.clip:
                nn.utils.clip_grads_with_norm_(parameters, self.clip, self.norm)
        else:
            self.norm = self.zero_norm()
        self.found_inf = self.guard.refuses(self.norm)  # torch's name for: leave weights, moments and step as they are
        self.param_groups = [group for group in groups if not group["idle"]]
        try:
            return super().step(closure)
        finally:
            self.param_groups = groups


def parameter_groups(model: Model, weight_decay: float) -> list[dict]:
    """Encoder with and without weight decay, the pooler, each task's head, embedding and learnt weight, and sharing by
    its owners.

    Only the encoder's matrices decay. All are idle until a step wakes them: ZeRO 3 begins with a step of its own, which
    must change nothing. A rate of a group's own is `own_lr`, or `times` that of all others.
    """
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault(group_of(name, parameter.ndim), []).append(parameter)
    rates = {
        "weight": {} if model.log_variances is None else {"own_lr": model.log_variances.lr},
        "rows": {"times": model.sharing.row_lr} if isinstance(model.sharing, CrossStitch) else {},
    }
    return [
        {"params": params, "name": name, "weight_decay": weight_decay if name == "encoder" else 0.0, "idle": True}
        | rates.get(name.partition(".")[0], {})
        for name, params in sorted(groups.items())
    ]


def group_of(name: str, ndim: int) -> str:
    if name.startswith("heads."):
        return "head." + name.split(".")[1]
    if name.startswith("encoder.embeddings.task_type_embeddings."):
        return "embedding." + name.rsplit(".", 1)[1]
    if name.startswith("sharing."):
        return owners.group_of(name)
    if name.startswith("log_variances."):
        return "weight." + name.rsplit(".", 1)[1]
    if name.startswith("encoder.pooler."):
        return "pooler"
    return "encoder" if ndim >= 2 else "encoder.no_decay"


def awake(task: str, predicted: set[str]) -> set[str]:
    """The groups that a step of `task` trains, where `predicted` are the tasks with targets in it."""
    groups = {"encoder", "encoder.no_decay", f"embedding.{task}"} | owners.awake(task, predicted)
    groups |= {f"{kind}.{name}" for kind in ("head", "weight") for name in predicted}
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
