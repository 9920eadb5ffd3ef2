"""Labels that a user brings, instead of those that a task makes of documents: where from, and for which task."""

from collections.abc import Sequence
from types import ModuleType

from corpus_tools import clicks, grades, relations
from corpus_tools.clicks import ClickLog
from corpus_tools.config import CorpusConfig
from corpus_tools.grades import Grades
from corpus_tools.relations import Relations
from pretrain.tasks import discourse_relation, ir_relevance
from pretrain.tasks.spec import TaskSpec

Given = ClickLog | Grades | Relations
MODULES: dict[str, ModuleType] = {"clicks": clicks, "grades": grades, "relations": relations}
"""By the setting that names the files: what labels its items, and what the labels mean."""
TASKS = {"clicks": ir_relevance.NAME, "grades": ir_relevance.NAME, "relations": discourse_relation.NAME}
MADE = {ir_relevance.NAME: "pseudo", discourse_relation.NAME: "markers"}
"""Where the labels of these tasks come from otherwise."""


def read_given(config: CorpusConfig) -> dict[str, Given]:
    """By setting, what its files hold; settings that name none are left out."""
    max_bytes = round(config.max_document_mb * 1e6)
    given: dict[str, Given] = {}
    if config.clicks:
        given["clicks"] = ClickLog(config.clicks, max_bytes, config.examined_only)
    if config.grades:
        given["grades"] = Grades(config.grades, max_bytes)
    if config.relations:
        given["relations"] = Relations(config.relations, max_bytes, config.validation_share)
    return given


def labels_from(task: str, given: Sequence[str]) -> str | None:
    """As the manifest tells it: `clicks`, `grades` or `pseudo`; `relations` or `markers`; None for other tasks."""
    return next((setting for setting in given if TASKS[setting] == task), MADE.get(task))


def predicts(spec: TaskSpec, manifest: dict) -> str:
    """What a task predicts in this corpus, which depends on where its labels come from."""
    module = MODULES.get(manifest["tasks"][spec.name].get("labels_from", ""))
    return module.SUMMARY if module else spec.summary
