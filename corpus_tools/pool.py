"""From documents to a pool and its token store, and from what the tasks make of it to runs of that store."""

import gc
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, pairwise

import numpy as np

from corpus_tools.annotate import Annotator, Words, recurrence
from corpus_tools.document import Document, Refused
from corpus_tools.fragments import bounds_of, spread
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
    titles = [document.title or "" for document in documents]
    tokens, bounds, words = annotator.encode([*(text for found in written for text, _ in found), *titles])
    edges = bounds_of([len(found) for found in written])  # of the documents, in sentences
    lengths = np.diff(bounds[edges])
    kept = np.zeros(len(tokens.ids), bool)
    kept[: bounds[edges[-1]]] = np.repeat(lengths >= min_tokens, lengths)
    place = bounds_of(kept)  # in the store, of every token
    store = Tokens(tokens.ids[kept], tokens.annotations[kept])
    ends = place[bounds].tolist()
    starts_word = np.flatnonzero(store.annotations & WORD_START).tolist()
    first_word = np.searchsorted(words.first, bounds)

    annotated: list[AnnotatedDocument] = []
    refused: list[Refused] = []
    cuts: list[list[int]] = []
    asked, beginnings = [], []
    for number, (document, found, length) in enumerate(zip(documents, written, lengths.tolist(), strict=True)):
        if length < min_tokens:
            refused.append(Refused(document.id, f"fewer than {min_tokens} tokens"))
            continue
        first, last, title = edges[number], edges[number + 1], edges[-1] + number
        runs = list(map(Run, ends[first:last], ends[first + 1 : last + 1]))
        cuts.append(cut(ends[first : last + 1], starts_word, settings.room(1)))
        asked.append(words.key[first_word[title] : first_word[title + 1]])
        beginnings.append(words.key[first_word[first] : first_word[last]][:COMPARED_WORDS])
        annotated.append(
            AnnotatedDocument(
                id=document.id,
                title=document.title,
                headings=tuple(section.heading for section in document.sections for _ in section.paragraphs),
                sentences=tuple(
                    Sentence(text, run, paragraph)
                    for (text, paragraph), run in zip(found, runs, strict=True)
                    if run.stop > run.start
                ),
                segments=tuple(map(Run, cuts[-1], cuts[-1][1:])),
                neighbours=(),
            )
        )
    inside = kept[words.first]
    stored = Words(place[words.first[inside]], place[words.stop[inside]], words.key[inside])
    store.annotations[:] |= recurrence(stored, cuts, len(store.ids))
    nearest = neighbours(asked, beginnings)
    pool = tuple(replace(document, neighbours=near) for document, near in zip(annotated, nearest, strict=True))
    return Pool(pool, settings, seed), store, refused


def sentences_of(document: Document, language: str) -> list[tuple[str, int]]:
    """Every sentence and the number of its paragraph."""
    paragraphs = [paragraph for section in document.sections for paragraph in section.paragraphs]
    return [(text, number) for number, paragraph in enumerate(paragraphs) for text in sentences(paragraph, language)]


def join(tokens: Iterable[Tokens]) -> Tokens:
    ids, annotations = zip(*tokens, strict=True)
    return Tokens(np.concatenate(ids), np.concatenate(annotations))


def take(store: Tokens, runs: np.ndarray) -> Tokens:
    """The tokens of runs, given as rows of start and stop, one run after the other."""
    places = spread(runs[:, 0], runs[:, 1] - runs[:, 0])
    return Tokens(store.ids[places], store.annotations[places])


@contextmanager
def no_collection() -> Iterator[None]:
    """Python's collector of cycles rests: it would search a pool's many objects, of which none are cycles, for long."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def cut(sentences: Sequence[int], words: Sequence[int], room: int) -> list[int]:
    """Segments of at most `room` tokens, filled with whole sentences; a longer one is cut, before a word if it can be.

    Segments, as sentences, are given by the tokens that they begin with and the one behind the last; `words` are the
    tokens that words begin with.
    """
    edges = [sentences[0]]
    for start, stop in pairwise(sentences):
        if stop - edges[-1] > room and start > edges[-1]:
            edges.append(start)
        while stop - edges[-1] > room:
            word = words[bisect_right(words, edges[-1] + room) - 1]
            edges.append(word if word > edges[-1] else edges[-1] + room)
    if edges[-1] < sentences[-1]:
        edges.append(sentences[-1])
    return edges


def settle(
    made: Mapping[str, Sequence[Instance]], store: Tokens, pool: Pool, annotator: Annotator
) -> tuple[Tokens, dict[str, list[Instance]]]:
    """Make every segment a run. Texts that are no sentence of the pool are encoded behind the store, equal ones once.

    Instances with texts are cut to fit.
    """
    settings = pool.settings
    place = {sentence.text: sentence.run for document in pool.documents for sentence in document.sentences}
    wordy = {task for task, instances in made.items() if str in set(map(type, segments_of(instances)))}
    segments = dict.fromkeys(segment for task in made if task in wordy for segment in segments_of(made[task]))
    texts = [segment for segment in segments if isinstance(segment, str) and segment not in place]
    tokens, bounds, _ = annotator.encode(texts)
    lengths = np.diff(bounds)
    kept = np.arange(len(tokens.ids)) - np.repeat(bounds[:-1], lengths) < settings.room(1)
    ends = len(store.ids) + bounds_of(np.minimum(lengths, settings.room(1)))
    place |= {text: Run(*edges) for text, edges in zip(texts, pairwise(ends.tolist()), strict=True)}
    settled: dict[str, list[Instance]] = {}
    for task, instances in made.items():
        settled[task] = [] if task in wordy else list(instances)
        for instance in instances if task in wordy else ():
            if str in map(type, instance.segments):
                runs = tuple(place[segment] if isinstance(segment, str) else segment for segment in instance.segments)
                if not all(stop > start for start, stop in runs):
                    continue  # a text of nothing but control characters has no tokens
                instance = Instance(fit(runs, settings.room(len(runs))), instance.label)
            settled[task].append(instance)
    return join([store, Tokens(tokens.ids[kept], tokens.annotations[kept])]), settled


def segments_of(instances: Iterable[Instance]) -> Iterator[Run | str]:
    return chain.from_iterable(instance.segments for instance in instances)


def fit(runs: tuple[Run, ...], room: int) -> tuple[Run, ...]:
    """Cut the ends of the longest runs until all fit together."""
    lengths = sorted(stop - start for start, stop in runs)
    if sum(lengths) <= room:
        return runs
    for number, length in enumerate(lengths):
        most = room // (len(lengths) - number)
        if length > most:
            return tuple(Run(run.start, min(run.stop, run.start + most)) for run in runs)
        room -= length
    return runs
