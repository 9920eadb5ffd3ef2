"""Whose a parameter of sharing is, read off its name: a task's, a family's or everyone's. Torch-free."""

from collections.abc import Iterable

from pretrain.tasks import TASKS, families_of

OWNERS = {*TASKS, *families_of(TASKS)}
SHARED = "sharing"
"""The optimizer's group of what is everyone's."""


def owner_of(name: str) -> str | None:
    """The task or family in a name such as `sharing.gates.capitalization.weight`; None: everyone's."""
    return next((part for part in name.split(".") if part in OWNERS), None)


def group_of(name: str) -> str:
    """The optimizer's group of a parameter `sharing.…`: one for each owner, on top, inside, and of rows α."""
    owner = owner_of(name)
    if owner is None:
        return SHARED
    if ".rows." in name:
        return f"rows.{owner}"
    return f"inside.{owner}" if name.startswith("sharing.layers.") else f"sharing.{owner}"


def awake(task: str, predicted: Iterable[str]) -> set[str]:
    """The groups that a step of `task` trains, where `predicted` are the tasks with targets in it.

    Inside the encoder there is one stream, that of the step's task; on top one for each task that is predicted.
    """
    owners = {*predicted, *families_of(predicted)}
    on_top = {f"{kind}.{owner}" for kind in ("sharing", "rows") for owner in owners}
    return {SHARED} | on_top | ({f"inside.{task}"} if owners else set())
