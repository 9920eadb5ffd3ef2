"""The task list: its order is the order in which the curriculum introduces tasks."""

from pretrain.tasks import (
    capitalization,
    discourse_relation,
    ir_relevance,
    knowledge_masking,
    sentence_distance,
    sentence_reordering,
    token_document,
)
from pretrain.tasks.spec import TaskSpec

TASKS: dict[str, TaskSpec] = {
    module.SPEC.name: module.SPEC
    for module in (
        knowledge_masking,
        capitalization,
        token_document,
        sentence_reordering,
        sentence_distance,
        discourse_relation,
        ir_relevance,
    )
}
