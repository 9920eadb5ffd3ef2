"""The task list: its order is the order in which the curriculum introduces tasks. A module is named after its task."""

from collections.abc import Iterable
from importlib import import_module

from pretrain.tasks.spec import TaskSpec

NAMES = (
    "knowledge_masking",
    "capitalization",
    "token_document",
    "sentence_reordering",
    "sentence_distance",
    "discourse_relation",
    "ir_relevance",
)
TASKS: dict[str, TaskSpec] = {name: import_module(f"pretrain.tasks.{name}").SPEC for name in NAMES}


def families_of(tasks: Iterable[str]) -> list[str]:
    """In the order in which the tasks name them."""
    return list(dict.fromkeys(TASKS[task].family.value for task in tasks))
