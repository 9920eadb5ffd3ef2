"""Token-document relation: does the word occur in another segment of its document (ERNIE 2.0 §4.2.1)?

Recurrence is counted over words, not pieces, and over the whole document, before anything is cut: it is an annotation.
A document of one segment has no other segment, so it has no labels, rather than negative ones. As in the paper no word
is left out: function words nearly always recur, so the metric weighs both classes alike.
"""

from collections.abc import Iterator

import numpy as np

from pretrain.tasks.metrics import balanced_accuracy
from pretrain.tasks.runs import every_segment, flagged_words
from pretrain.tasks.spec import (
    RECURRENCE_KNOWN,
    RECURS,
    Family,
    Head,
    Instance,
    Pool,
    Score,
    Settings,
    Targets,
    TaskSpec,
    Tokens,
    Vocabulary,
)


def build(pool: Pool) -> Iterator[Instance]:
    yield from every_segment(document for document in pool.documents if len(document.segments) > 1)


def target(tokens: Tokens, rng: np.random.Generator, vocabulary: Vocabulary, settings: Settings) -> Targets:
    return flagged_words(tokens, RECURRENCE_KNOWN, RECURS)


def metric(labels: np.ndarray, predictions: np.ndarray) -> Score:
    return Score(balanced_accuracy(labels, predictions), chance=balanced_accuracy(labels, np.ones_like(labels)))


SPEC = TaskSpec(
    name="token_document",
    family=Family.WORD,
    head=Head.TOKEN,
    summary="whether a word occurs in another segment of its document",
    build=build,
    target=target,
    labels=lambda settings: ("occurs here alone", "recurs"),
    metric_name="balanced accuracy",
    metric=metric,
    needs="documents of at least two segments",
)
