"""Small annotated documents, made by hand: a token per word (Chinese: per character), its id its place in the store."""

from collections.abc import Sequence

import numpy as np

from pretrain.tasks.spec import (
    BASIC,
    UNIT_START,
    WORD_START,
    AnnotatedDocument,
    Instance,
    Pool,
    Run,
    Sentence,
    Settings,
    Tokens,
    Vocabulary,
)

VOCABULARY = Vocabulary(cls=1, sep=2, mask=3, pad=0, ordinary=np.arange(1_000, 2_000))


def make_document(
    id: str,
    *paragraphs: Sequence[str],
    start: int = 0,
    title: str | None = None,
    headings: Sequence[str | None] = (),
    neighbours: Sequence[int] = (),
) -> AnnotatedDocument:
    """Paragraphs of sentences; every token from `start` on is its own."""
    sentences = []
    for number, paragraph in enumerate(paragraphs):
        for text in paragraph:
            length = len(text.split()) if text.isascii() else len(text)
            sentences.append(Sentence(text, Run(start, start + length), number))
            start += length
    return AnnotatedDocument(
        id=id,
        title=title,
        headings=tuple(headings or [None] * len(paragraphs)),
        sentences=tuple(sentences),
        segments=(Run(sentences[0].run.start, start),),
        neighbours=tuple(neighbours),
    )


def make_pool(*documents: AnnotatedDocument, seed: int = 0, **settings) -> Pool:
    return Pool(documents, Settings(**settings), seed)


def plain_documents(count: int, num_sentences: int, seed: int = 0) -> list[AnnotatedDocument]:
    """Documents of sentences of 3 to 20 words, one after the other in the store."""
    rng = np.random.default_rng(seed)
    documents, start = [], 0
    for number in range(count):
        sentences = [" ".join(["word"] * length) for length in rng.integers(3, 21, num_sentences)]
        documents.append(make_document(f"d{number}", sentences, start=start))
        start = documents[-1].segments[-1].stop
    return documents


def tokens_of(run: Run) -> Tokens:
    return Tokens(np.arange(run.start, run.stop), np.full(run.length, WORD_START | UNIT_START | BASIC, np.uint8))


def owner(pool: Pool, run: Run) -> AnnotatedDocument:
    """The document that a run lies in, whole."""
    (document,) = (
        document
        for document in pool.documents
        if document.sentences[0].run.start <= run.start and run.stop <= document.sentences[-1].run.stop
    )
    return document


def is_whole_sentences(document: AnnotatedDocument, run: Run) -> bool:
    return run.start in {s.run.start for s in document.sentences} and run.stop in {
        s.run.stop for s in document.sentences
    }


def fits(instance: Instance, settings: Settings) -> bool:
    return sum(run.length for run in instance.segments) <= settings.room(len(instance.segments))
