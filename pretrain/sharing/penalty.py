"""Regularised sharing: what is added to the loss for how much the weights of tasks differ, once per step.

W_k are the weights of one shape that each task, or family, has of its own: the matrices of its experts or bottoms.
There is a term for each such matrix, over all its owners.
"""

from collections.abc import Set

import torch
from torch import Tensor, nn

from pretrain.config import PenaltyConfig
from pretrain.sharing.owners import group_of, owner_of

INNER, OUTER = ".inner.weight", ".outer.weight"
"""How the names of a block's matrices end."""


def mean(stack: Tensor) -> Tensor:
    """Σ_k ‖W_k − W̄‖² of (owners, out, in): they are held near their mean (Evgeniou & Pontil 2004)."""
    return (stack - stack.mean(0)).square().sum()


def joint_feature(stack: Tensor) -> Tensor:
    """Σᵢ (Σ_k ‖W_k[:, i]‖²)^½ of (owners, out, in): all read the same few features i (Argyriou et al. 2007)."""
    return torch.linalg.vector_norm(stack, dim=(0, 1)).sum()


def low_rank(stack: Tensor) -> Tensor:
    """Trace norm, Σ singular values, of the matrix with a row for each owner (Ji & Ye 2009).

    By the eigenvalues of its Gram matrix: cheap for few owners, and at equal rows the smallest subgradient.
    """
    rows = stack.flatten(1)
    squares = torch.linalg.eigvalsh(rows @ rows.T)
    kept = squares > 1e-6 * squares[-1].clamp(min=0)
    return torch.where(kept, squares, 1.0).sqrt().where(kept, 0.0).sum()


PENALTIES = {"mean": mean, "joint_feature": joint_feature, "low_rank": low_rank}


def penalty(sharing: nn.Module, settings: PenaltyConfig, awake: Set[str]) -> Tensor | None:
    """What a step adds to its loss; None: nothing. The weights of those that rest count, but stay as they are."""
    if settings.kind == "none":
        return None
    # joint features are those of the states: the units of an inner layer mean something else to each owner
    endings = (INNER,) if settings.kind == "joint_feature" else (INNER, OUTER)
    terms = [PENALTIES[settings.kind](stack) for stack in stacks(sharing, endings, awake)]
    return settings.weight * torch.stack(terms).sum()


def stacks(sharing: nn.Module, endings: tuple[str, ...], awake: Set[str]) -> list[Tensor]:
    """(owners, out, in) for each matrix that every owner has one of; through those that rest no gradient passes."""
    places: dict[str, list[Tensor]] = {}
    for name, weight in sharing.named_parameters(prefix="sharing"):
        owner = owner_of(name)
        if owner is not None and name.endswith(endings):
            learns = group_of(name) in awake
            places.setdefault(name.replace(owner, "*"), []).append(weight if learns else weight.detach())
    return [torch.stack(weights) for weights in places.values()]
