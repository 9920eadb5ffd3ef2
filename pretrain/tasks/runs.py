"""What tasks share: how documents are cut into runs, and how annotated words become targets."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from pretrain.tasks.spec import WORD_START, AnnotatedDocument, Instance, Run, Sentence, Targets, Tokens


def every_segment(documents: Iterable[AnnotatedDocument]) -> Iterator[Instance]:
    """The instances of token-level tasks: each segment of each document. Their labels lie in the annotations."""
    for document in documents:
        for segment in document.segments:
            yield Instance((segment,))


def join(sentences: Sequence[Sentence]) -> Run:
    """Consecutive sentences as one run."""
    return Run(sentences[0].run.start, sentences[-1].run.stop)


def flagged_words(tokens: Tokens, known: int, flag: int) -> Targets:
    """The first token of every word for which `known` is set; the label is whether `flag` is set too."""
    wanted = WORD_START | known
    positions = np.flatnonzero((tokens.annotations & wanted) == wanted)
    return Targets(tokens.ids, positions, ((tokens.annotations[positions] & flag) > 0).astype(np.int64))
