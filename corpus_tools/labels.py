"""Labels that a user brings, instead of those that a task makes of documents: what names them, which task they feed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from corpus_tools import clicks, grades, relations
from corpus_tools.config import CorpusConfig
from pretrain.tasks import discourse_relation, ir_relevance
from pretrain.tasks.spec import Instance, Pool, TaskSpec

Given = clicks.ClickLog | grades.Grades | relations.Relations


class Kind(NamedTuple):
    """Rows that bring their labels with them."""

    task: str
    item: type
    label: Callable[[Sequence[Any], Pool], Iterator[Instance]]
    read: Callable[[CorpusConfig], Given]
    summary: str
    """What the task predicts with these labels."""
    needs: str
    """What the files must have to feed it."""

    def items(self, rows: Iterable[list[Any]]) -> list[Any]:
        """Items that were written as JSON."""
        return [self.item(*(tuple(field) if isinstance(field, list) else field for field in row)) for row in rows]


def read_clicks(config: CorpusConfig) -> clicks.ClickLog:
    return clicks.ClickLog(config.clicks, most_bytes(config), config.examined_only)


def read_grades(config: CorpusConfig) -> grades.Grades:
    return grades.Grades(config.grades, most_bytes(config))


def read_relations(config: CorpusConfig) -> relations.Relations:
    return relations.Relations(config.relations, most_bytes(config), config.validation_share)


def most_bytes(config: CorpusConfig) -> int:
    return round(config.max_document_mb * 1e6)


LABELLED = {
    "clicks": Kind(ir_relevance.NAME, clicks.Query, clicks.label, read_clicks, clicks.SUMMARY, clicks.NEEDS),
    "grades": Kind(ir_relevance.NAME, grades.Judged, grades.label, read_grades, grades.SUMMARY, grades.NEEDS),
    "relations": Kind(
        discourse_relation.NAME,
        relations.Pair,
        relations.label,
        read_relations,
        relations.SUMMARY,
        relations.NEEDS,
    ),
}
"""The settings that name files of such rows."""
MADE = {ir_relevance.NAME: "pseudo", discourse_relation.NAME: "markers"}
"""Where the labels of these tasks come from otherwise."""


def labels_from(task: str, config: CorpusConfig) -> str | None:
    """As the manifest tells it: `clicks`, `grades` or `pseudo`; `relations` or `markers`; None for other tasks."""
    given = (name for name, kind in LABELLED.items() if kind.task == task and getattr(config, name))
    return next(given, MADE.get(task))


def predicts(spec: TaskSpec, manifest: dict) -> str:
    """What a task predicts in this corpus, which depends on where its labels come from."""
    kind = LABELLED.get(manifest["tasks"][spec.name].get("labels_from", ""))
    return kind.summary if kind else spec.summary
