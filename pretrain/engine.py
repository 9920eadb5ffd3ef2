"""DeepSpeed at its edges: the engine, and moments by parameter name under any ZeRO stage."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import NamedTuple

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.runtime.zero import GatheredParameters
from torch import nn

from pretrain.config import TrainConfig
from pretrain.deepspeed_config import deepspeed_config
from pretrain.guard import Guard
from pretrain.model.model import Model
from pretrain.optimizer import RestingAdamW, parameter_groups
from pretrain.world import World

MOMENTS = ("exp_avg", "exp_avg_sq")


def make_engine(model: Model, config: TrainConfig, world: World, guard: Guard):
    return engine_of(model, parameter_groups(model, config.weight_decay), config, world, guard)


def engine_of(model: nn.Module, groups: list[dict], config: TrainConfig, world: World, guard: Guard):
    """Any module, with its parameters in groups that have a `name` and rest while they are `idle`."""
    optimizer = RestingAdamW(groups, config.lr, config.betas, config.clip, guard)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        config=deepspeed_config(config, world.size, world.device.type == "cuda"),
        dist_init_required=False,
    )
    if config.zero_stage:
        optimizer.zero_norm = lambda: torch.as_tensor(engine.optimizer._global_grad_norm)
    return engine


def clear_gradients(engine) -> None:
    """Before a step. Under ZeRO 3 what a step does not use would keep an old gradient, which counts in the norm."""
    if engine.zero_optimization_stage() == 3:
        engine.optimizer.grad_partitions_flat_buffer.zero_()


def gradient_norm(engine) -> torch.Tensor:
    """Global norm of the last step's gradient, before clipping; infinite where ZeRO found that it is not finite."""
    if engine.zero_optimization_stage():
        return torch.as_tensor(engine.get_global_grad_norm())
    return engine.optimizer.norm


def get_weights(engine, keep: bool) -> dict[str, torch.Tensor]:
    """A copy of every weight on the host, where `keep` is set; empty elsewhere. Collective."""
    weights = {}
    for name, tensor in engine.module.state_dict(keep_vars=True).items():
        with GatheredParameters([tensor]) if hasattr(tensor, "ds_id") else nullcontext():
            if keep:
                weights[name] = tensor.detach().to("cpu", copy=True)
    return weights


class Fragment(NamedTuple):
    """What this rank optimises of one parameter."""

    name: str
    group: str
    shape: torch.Size
    """Of the whole parameter."""
    master: torch.Tensor
    """What AdamW steps: the parameter, or under ZeRO the flat tensor of its group that this rank owns."""
    state: dict
    ours: slice
    """Of the flattened parameter; empty where another rank owns all of it."""
    theirs: slice
    """The same elements in the flattened master."""


def fragments(engine) -> Iterator[Fragment]:
    names = {id(parameter): name for name, parameter in engine.module.named_parameters()}
    zero, stage = engine.optimizer, engine.zero_optimization_stage()
    if stage == 0:
        for group in zero.param_groups:
            for parameter in group["params"]:
                name, state = names[id(parameter)], zero.state[parameter]
                yield Fragment(name, group["name"], parameter.shape, parameter, state, slice(None), slice(None))
    elif stage == 3:
        for number, (part, flat) in enumerate(zip(zero.fp16_groups, zero.fp32_partitioned_groups_flat, strict=True)):
            group = zero.param_groups[zero.sub_group_to_group_id[number]]
            for parameter in part:
                _, offset, size = zero.grad_position[zero.get_param_id(parameter)]
                begin = dist.get_rank() * size
                count = max(0, min(size, parameter.ds_numel - begin))
                ours, theirs = slice(begin, begin + count), slice(offset, offset + count)
                name, state = names[id(parameter)], zero.optimizer.state[flat]
                yield Fragment(name, group["name"], parameter.ds_shape, flat, state, ours, theirs)
    else:
        flats = zero.single_partition_of_fp32_groups
        for group, parameters, flat in zip(zero.param_groups, zero.bit16_groups, flats, strict=True):
            for parameter in parameters:
                ours = theirs = slice(0, 0)
                if parameter._hp_mapping is not None:
                    low, high = parameter._hp_mapping.lp_fragment_address, parameter._hp_mapping.hp_fragment_address
                    ours, theirs = slice(low.start, low.start + low.numel), slice(high.start, high.start + high.numel)
                name, state = names[id(parameter)], zero.optimizer.state[flat]
                yield Fragment(name, group["name"], parameter.shape, flat, state, ours, theirs)


def get_moments(engine, keep: bool = True) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """AdamW's moments in full as `<parameter>.<moment>`, and the updates that each group has had. Collective.

    The moments are copies on the host, where `keep` is set.
    """
    tensors: dict[str, torch.Tensor] = {}
    updates: dict[str, int] = {}
    for name, group, shape, master, state, ours, theirs in fragments(engine):
        if "step" not in state:
            continue
        updates[group] = int(state["step"])
        for moment in MOMENTS:
            full = torch.zeros(shape.numel(), device=master.device)
            full[ours] = state[moment].flatten()[theirs]
            if engine.zero_optimization_stage():
                dist.all_reduce(full)
            if keep:
                tensors[f"{name}.{moment}"] = full.view(shape).cpu()
    return tensors, updates


def set_moments(engine, tensors: dict[str, torch.Tensor], updates: dict[str, int]) -> None:
    """The reverse, before the first step; a parameter that `tensors` does not name starts afresh."""
    for name, group, _, master, state, ours, theirs in fragments(engine):
        if f"{name}.{MOMENTS[0]}" not in tensors:
            continue
        for moment in MOMENTS:
            whole = state.setdefault(moment, torch.zeros_like(master))
            whole.view(-1)[theirs] = tensors[f"{name}.{moment}"].to(master.device).flatten()[ours]
        state["step"] = torch.tensor(float(updates[group]), device=master.device)
