"""From documents to a pool and its token store, and from what the tasks make of it to runs of that store."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, islice, pairwise

import numpy as np

from corpus_tools.annotate import Annotator, recurrence
from corpus_tools.document import Document, Refused
from corpus_tools.neighbours import neighbours
from corpus_tools.segmentation import sentences
from pretrain.tasks.spec import WORD_START, AnnotatedDocument, Instance, Pool, Run, Sentence, Settings, Tokens

COMPARED_WORDS = 300
"""Words at the beginning of a document that stand for it when titles are matched."""
NO_TOKENS = Tokens(np.zeros(0, np.int32), np.zeros(0, np.uint8))


def make_pool(
    documents: Sequence[Document], annotator: Annotator, settings: Settings, min_tokens: int, seed: int
) -> tuple[Pool, Tokens, list[Refused]]:
    """Annotate documents into one token store; those of fewer than `min_tokens` are refused and leave nothing in it."""
    written = [sentences_of(document, settings.language) for document in documents]
    encoded = iter(annotator.encode([text for found in written for text, _ in found]))
    annotated: list[AnnotatedDocument] = []
    refused: list[Refused] = []
    beginnings: list[list[str]] = []
    store = [NO_TOKENS]
    start = 0
    for document, found in zip(documents, written, strict=True):
        pieces = list(islice(encoded, len(found)))
        ends = list(accumulate((len(piece.tokens.ids) for piece in pieces), initial=start))
        if ends[-1] - start < min_tokens:
            refused.append(Refused(document.id, f"fewer than {min_tokens} tokens"))
            continue
        runs = [Run(*edges) for edges in pairwise(ends)]
        tokens = join(piece.tokens for piece in pieces)
        segments = cut(runs, tokens.annotations, settings.room(1))
        words = [
            (run.start + first, run.start + last, key)
            for run, piece in zip(runs, pieces, strict=True)
            for first, last, key in piece.words
        ]
        tokens.annotations[:] |= recurrence(words, segments)
        store.append(tokens)
        beginnings.append([key for _, _, key in words[:COMPARED_WORDS]])
        annotated.append(
            AnnotatedDocument(
                id=document.id,
                title=document.title,
                headings=tuple(section.heading for section in document.sections for _ in section.paragraphs),
                sentences=tuple(
                    Sentence(text, run, paragraph)
                    for (text, paragraph), run in zip(found, runs, strict=True)
                    if run.length
                ),
                segments=tuple(segments),
                neighbours=(),
            )
        )
        start = ends[-1]
    titles = annotator.encode([document.title or "" for document in annotated])
    nearest = neighbours([[key for _, _, key in title.words] for title in titles], beginnings)
    pool = tuple(replace(document, neighbours=near) for document, near in zip(annotated, nearest, strict=True))
    return Pool(pool, settings, seed), join(store), refused


def sentences_of(document: Document, language: str) -> list[tuple[str, int]]:
    """Every sentence and the number of its paragraph."""
    paragraphs = [paragraph for section in document.sections for paragraph in section.paragraphs]
    return [(text, number) for number, paragraph in enumerate(paragraphs) for text in sentences(paragraph, language)]


def join(tokens: Iterable[Tokens]) -> Tokens:
    ids, annotations = zip(*tokens, strict=True)
    return Tokens(np.concatenate(ids), np.concatenate(annotations))


def cut(sentences: Sequence[Run], annotations: np.ndarray, room: int) -> list[Run]:
    """Fill runs of at most `room` tokens with whole sentences; a longer sentence is cut, before a word if it can be.

    `annotations` are those of the document, whose first token is the first of `sentences`.
    """
    origin = start = sentences[0].start
    segments = []
    for sentence in sentences:
        if sentence.stop - start > room and sentence.start > start:
            segments.append(Run(start, sentence.start))
            start = sentence.start
        while sentence.stop - start > room:
            window = annotations[start + 1 - origin : start + room + 1 - origin]
            words = np.flatnonzero(window & WORD_START)
            stop = start + 1 + int(words[-1]) if len(words) else start + room
            segments.append(Run(start, stop))
            start = stop
    if start < sentences[-1].stop:
        segments.append(Run(start, sentences[-1].stop))
    return segments


def settle(
    made: Mapping[str, Sequence[Instance]], store: Tokens, pool: Pool, annotator: Annotator
) -> tuple[Tokens, dict[str, list[Instance]]]:
    """Make every segment a run. Texts that are no sentence of the pool are encoded behind the store, equal ones once.

    Instances with texts are cut to fit.
    """
    settings = pool.settings
    place = {sentence.text: sentence.run for document in pool.documents for sentence in document.sentences}
    segments = (segment for instances in made.values() for instance in instances for segment in instance.segments)
    texts = list(dict.fromkeys(text for text in segments if isinstance(text, str) and text not in place))
    tokens = [Tokens(*(array[: settings.room(1)] for array in piece.tokens)) for piece in annotator.encode(texts)]
    ends = accumulate((len(piece.ids) for piece in tokens), initial=len(store.ids))
    place |= {text: Run(*edges) for text, edges in zip(texts, pairwise(ends), strict=True)}
    settled: dict[str, list[Instance]] = {}
    for task, instances in made.items():
        settled[task] = []
        for instance in instances:
            if str in map(type, instance.segments):
                runs = tuple(place[segment] if isinstance(segment, str) else segment for segment in instance.segments)
                instance = Instance(fit(runs, settings.room(len(runs))), instance.label)
                if not all(stop > start for start, stop in runs):
                    continue  # a text of nothing but control characters has no tokens
            settled[task].append(instance)
    return join([store, *tokens]), settled


def fit(runs: tuple[Run, ...], room: int) -> tuple[Run, ...]:
    """Cut the ends of the longest runs until all fit together."""
    lengths = sorted(run.length for run in runs)
    for number, length in enumerate(lengths):
        most = room // (len(lengths) - number)
        if length > most:
            return tuple(Run(run.start, min(run.stop, run.start + most)) for run in runs)
        room -= length
    return runs
