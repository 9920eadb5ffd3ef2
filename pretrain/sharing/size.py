"""How many parameters a kind of sharing has, by formula. Torch-free, for `cumul plan`."""

from collections.abc import Sequence

from pretrain.config import SharingConfig
from pretrain.tasks import families_of


def shared_parameters(settings: SharingConfig, tasks: Sequence[str], hidden: int) -> int:
    """Weights of blocks, gates, joins and cross-stitch rows for states of width `hidden`."""
    number, families = len(tasks), len(families_of(tasks))
    width = settings.width or hidden
    block = 2 * hidden * width + width + hidden
    mixture = settings.experts * (block + hidden * number)
    own, shared = settings.task_experts, settings.shared_experts
    extraction = (number * own + shared) * block + number * hidden * (own + shared)
    levels = settings.layers if settings.place == "inside" else settings.levels
    match settings.kind:
        case "hard":
            return 0
        case "asymmetric":
            reads = [1 + len(others) for others in settings.uses.values() if others]
            return families * block + sum(join(hidden, number) for number in reads)
        case "customized":
            return (1 + families) * block + families * join(hidden, 2)
        case "cross_stitch":
            return settings.levels * families * (block + families)
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


def join(hidden: int, number: int) -> int:
    return number * hidden * hidden + hidden
