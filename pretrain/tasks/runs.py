"""How tasks cut documents into runs."""

from collections.abc import Iterable, Iterator, Sequence

from pretrain.tasks.spec import AnnotatedDocument, Instance, Run, Sentence


def every_segment(documents: Iterable[AnnotatedDocument]) -> Iterator[Instance]:
    """The instances of token-level tasks: each segment of each document. Their labels lie in the annotations."""
    for document in documents:
        for segment in document.segments:
            yield Instance((segment,))


def join(sentences: Sequence[Sentence]) -> Run:
    """Consecutive sentences as one run."""
    return Run(sentences[0].run.start, sentences[-1].run.stop)
