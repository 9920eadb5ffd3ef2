"""How large a kind of sharing is and how much it computes, by formula. Torch-free, for `cumul plan`."""

from collections.abc import Sequence

from pretrain.config import SharingConfig
from pretrain.tasks import families_of


def shared_parameters(settings: SharingConfig, tasks: Sequence[str], hidden: int) -> int:
    """Weights of blocks, gates, joins and cross-stitch rows for states of width `hidden`."""
    number, families = len(tasks), len(families_of(tasks))
    block, levels = block_of(settings, hidden), levels_of(settings)
    mixture = settings.experts * (block + hidden * number)
    own, shared = settings.task_experts, settings.shared_experts
    extraction = (number * own + shared) * block + number * hidden * (own + shared)
    match settings.kind:
        case "hard":
            return 0
        case "asymmetric":
            reads = [1 + len(others) for others in settings.uses.values() if others]
            return families * block + sum(join(hidden, number) for number in reads)
        case "customized":
            return (1 + families) * block + families * join(hidden, 2)
        case "cross_stitch":
            return levels * families * (block + families * (hidden if settings.per_channel else 1))
        case "omoe":
            return settings.layers * settings.experts * (block + hidden)
        case "mmoe":
            return mixture
        case "ml_mmoe":
            return levels * mixture
        case "cgc":
            return settings.layers * extraction
        case "ple":
            return levels * extraction + (levels - 1) * hidden * (number * own + shared)


def shared_work(settings: SharingConfig, tasks: Sequence[str], hidden: int) -> int:
    """Weights that a slot of one task is multiplied with, at most: on top where it has targets, inside everywhere."""
    own, shared = settings.task_experts, settings.shared_experts
    block, levels = block_of(settings, hidden), levels_of(settings)
    match settings.kind:
        case "hard":
            return 0
        case "asymmetric":
            reads = 1 + max(map(len, settings.uses.values()), default=0)
            return reads * block + (join(hidden, reads) if reads > 1 else 0)
        case "customized":
            return 2 * block + join(hidden, 2)
        case "cross_stitch":
            return levels * len(families_of(tasks)) * block
        case "omoe" | "mmoe":
            return settings.layers * settings.experts * block
        case "ml_mmoe":
            return levels * settings.experts * block
        case "cgc":
            return settings.layers * (own + shared) * block
        case "ple":
            return ((levels - 1) * (len(tasks) * own + shared) + own + shared) * block


def layers_again(settings: SharingConfig, tasks: Sequence[str]) -> int:
    """How many more layers' work several streams make, where they go through the encoder."""
    if (settings.kind, settings.place) != ("ple", "inside"):
        return 0
    return (len(tasks) + 1) * (settings.layers - 2) + 2 + 1 - settings.layers


def block_of(settings: SharingConfig, hidden: int) -> int:
    width = settings.width or hidden
    return 2 * hidden * width + width + hidden


def levels_of(settings: SharingConfig) -> int:
    return settings.layers if settings.place == "inside" else settings.levels


def join(hidden: int, number: int) -> int:
    return number * hidden * hidden + hidden
