"""The schedules by name."""

from collections.abc import Callable

from pretrain.schedule.stages import Stage, Tasks, alone, continual, joint, pyramid, sequential

SCHEDULES: dict[str, Callable[[Tasks, int], list[Stage]]] = {
    "sequential": sequential,
    "continual": continual,
    "joint": joint,
    "pyramid": pyramid,
    "alone": alone,
}

__all__ = ["SCHEDULES", "Stage"]
