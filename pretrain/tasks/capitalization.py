"""Capitalization: is the word capitalised in the original (ERNIE 2.0 §4.2.1)?

The label comes from the cased text, the input is lower-cased: with a cased tokenizer the task would be copying. Only
the first token of a word carries the label, and only where the word has letters with case: its other pieces would say
nothing more. Few words are capitalised, so the metric is F1 of the capitalised ones.
"""

from collections.abc import Iterator

import numpy as np

from pretrain.tasks.metrics import f1
from pretrain.tasks.runs import every_segment, flagged_words
from pretrain.tasks.spec import (
    CAPITALISED,
    CASED,
    AnnotatedDocument,
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
    yield from every_segment(document for document in pool.documents if has_both_cases(document))


def has_both_cases(document: AnnotatedDocument) -> bool:
    """Text that was lower-cased, or typed in capitals throughout, would teach that nothing, or everything, is."""
    texts = [sentence.text for sentence in document.sentences]
    return any(text != text.lower() for text in texts) and any(text != text.upper() for text in texts)


def target(tokens: Tokens, rng: np.random.Generator, vocabulary: Vocabulary, settings: Settings) -> Targets:
    return flagged_words(tokens, CASED, CAPITALISED)


def metric(labels: np.ndarray, predictions: np.ndarray) -> Score:
    return Score(f1(labels, predictions), chance=f1(labels, np.ones_like(labels)))


SPEC = TaskSpec(
    name="capitalization",
    family=Family.WORD,
    head=Head.TOKEN,
    summary="whether a word is capitalised in the original",
    build=build,
    target=target,
    labels=lambda settings: ("lower case", "capitalised"),
    metric_name="F1",
    metric=metric,
    languages=frozenset({"en"}),
    needs_uncased=True,
    needs="documents written in upper and lower case",
)
