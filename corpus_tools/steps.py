"""The steps of a build, as datatrove runs them: a task is known by its rank, and reads and writes files of its own.

    ReadSources     the slices of a task                 to chunks of documents
    Sketch, Count   every n-th chunk of a sample         to what phrases are mined from
    ReadChunk       a chunk                              to documents, for the steps of datatrove and for BuildShard
    BuildShard      the documents of a chunk, or rows    to a shard, and what is to be known of it

Steps are pickled and travel to other machines, so they hold settings and paths, nothing else.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import file_digest
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import zstandard
from datatrove.data import Document as Text
from datatrove.pipeline.base import PipelineStep

from corpus_tools.annotate import Annotator
from corpus_tools.chunks import DOCUMENTS, Chunk, read_documents, read_rows, write_chunk, write_ids
from corpus_tools.clicks import Query
from corpus_tools.config import CorpusConfig
from corpus_tools.document import Document, Refused, hashed, held_out
from corpus_tools.grades import Judged
from corpus_tools.knowledge import make_knowledge, mining
from corpus_tools.labels import LABELLED
from corpus_tools.pool import make_pool, no_collection, settle, take
from corpus_tools.readers import Share, read
from corpus_tools.relations import Pair
from corpus_tools.shards import SPLITS, aside, runs_of, write_shard
from corpus_tools.slices import Slice
from corpus_tools.tokenizer import load_tokenizer, vocabulary
from pretrain.tasks import TASKS
from pretrain.tasks.spec import Instance, Pool, TaskSpec, Tokens, Vocabulary

Item = TypeVar("Item", Document, Query, Judged, Pair)
Found = TypeVar("Found", mining.Numbered, mining.Runs)
SAMPLE_BYTES = 200_000_000
"""Train text that the tokenizer and the phrases are learnt from."""
LEAST_POOL = 0.25
"""A last pool smaller than this share of a shard joins the one before: negatives need other documents."""


class Work(NamedTuple):
    """What the steps of a build share."""

    home: str
    """The working directory: sources and corpus are named from it, on every machine."""
    build: str
    """The folder of the build, from the working directory."""
    config: CorpusConfig
    tasks: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return Path(self.build)

    def mined(self) -> list[str]:
        """The tasks whose labels come from documents."""
        labelled = {kind.task for name, kind in LABELLED.items() if getattr(self.config, name)}
        return [task for task in self.tasks if task not in labelled]

    def enter(self) -> None:
        os.chdir(self.home)

    def account(self, stage: str, rank: int) -> Path:
        """The note that a task leaves."""
        return self.folder / stage / "notes" / f"{rank:06}.json"


class ReadSources(PipelineStep):
    type = "Reader"
    name = "sources to chunks"

    def __init__(self, work: Work):
        super().__init__()
        self.work = work

    def run(self, data: object = None, rank: int = 0, world_size: int = 1) -> Iterable:
        work = self.work
        work.enter()
        found = 0
        refused: list[Refused] = []

        def documents(slice: Slice) -> Iterator[Document]:
            nonlocal found
            keys = {f"{field}": name for field, name in work.config.keys.items()}
            most = round(work.config.max_document_mb * 1e6)
            for document in read(slice.source, slice.name, keys, most, slice.share):
                found += 1
                if isinstance(document, Refused):
                    refused.append(document)
                else:
                    yield document

        slices = plan_of(work.folder)[rank]
        chunks = []
        everything = (document for slice in slices for document in documents(slice))
        for split, number, items in pools(everything, work.config):
            path = f"{DOCUMENTS}/{split}/{rank:06}-{number:06}.jsonl.zst"
            write_chunk(work.folder / path, items)
            write_ids(ids_of(work.folder / path), [hashed(document.id) for document in items])
            chunks.append(chunk_of(split, DOCUMENTS, path, items))
        write_json(work.account("read", rank), {"found": found, "refused": refused, "chunks": chunks})
        return ()


class Sketch(PipelineStep):
    type = "Stats"
    name = "phrases, first pass"

    def __init__(self, work: Work):
        super().__init__()
        self.work = work

    def run(self, data: object = None, rank: int = 0, world_size: int = 1) -> Iterable:
        self.work.enter()
        folder = self.work.folder / "sketch"
        text = mining.numbered(paragraphs(self.work.folder, rank, world_size), self.work.config.language)
        write_array(folder / f"{rank:06}.npy.zst", mining.sketch(text))
        write_words(folder / f"{rank:06}.npz", text)
        return ()


class Count(PipelineStep):
    type = "Stats"
    name = "phrases, second pass"

    def __init__(self, work: Work):
        super().__init__()
        self.work = work

    def run(self, data: object = None, rank: int = 0, world_size: int = 1) -> Iterable:
        self.work.enter()
        folder = self.work.folder
        text = read_words(folder / "sketch" / f"{rank:06}.npz", mining.Numbered)
        found = mining.count(text, read_array(folder / "survivors.npy.zst"))
        write_words(folder / "count" / f"{rank:06}.npz", found)
        return ()


class ReadChunk(PipelineStep):
    type = "Reader"
    name = "documents of a chunk"

    def __init__(self, work: Work):
        super().__init__()
        self.work = work
        self.refused: list[Refused] = []
        """What this step and those after it leave out of the chunk at hand."""

    def run(self, data: object = None, rank: int = 0, world_size: int = 1) -> Iterator[Text]:
        self.work.enter()
        self.refused.clear()
        chunk = readings(self.work.folder).chunks[rank]
        if chunk.kind != DOCUMENTS:
            return
        repeated = repeated_in(self.work.folder, rank)
        for index, document in enumerate(read_documents(self.work.folder / chunk.path)):
            if index in repeated:
                self.refused.append(Refused(document.id, "duplicate id"))
            else:
                text = "\n".join(text for section in document.sections for text in section.paragraphs)
                yield Text(text, document.id, metadata={"document": document})


class Excluded:
    """Takes what a filter of datatrove drops, as its writers do."""

    def __init__(self, reader: ReadChunk, reason: str):
        self.reader = reader
        self.reason = reason

    def __enter__(self) -> "Excluded":
        return self

    def __exit__(self, *_: object) -> None: ...

    def write(self, document: Text, rank: int = 0) -> None:
        self.reader.refused.append(Refused(document.id, self.reason))


class BuildShard(PipelineStep):
    type = "Writer"
    name = "shard"

    def __init__(self, work: Work, reader: ReadChunk):
        super().__init__()
        self.work = work
        self.reader = reader

    def run(self, data: Iterable[Text], rank: int = 0, world_size: int = 1) -> Iterable:
        documents = [text.metadata["document"] for text in data]
        work = self.work
        chunk = readings(work.folder).chunks[rank]
        path = work.folder.parent / chunk.shard
        with no_collection():
            about, refused = build_shard(work, chunk, path, documents)
        with path.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
        about |= {"split": chunk.split, "file": path.name, "sha256": digest, "refused": self.reader.refused + refused}
        write_json(work.account("build", rank), about)
        return ()


def build_shard(work: Work, chunk: Chunk, path: Path, documents: list[Document]) -> tuple[dict, list[Refused]]:
    config = work.config
    learned = (work.folder / "learned.json").stat().st_mtime_ns
    annotator, words = tools(work.build, config.model_dump_json(), learned)
    settings = config.settings(readings(work.folder).relations)
    pool, store, refused = make_pool(documents, annotator, settings, config.min_tokens, config.seed)
    tokens = len(store.ids)  # those that tasks add repeat the text
    if chunk.kind == DOCUMENTS:
        made = {task: list(TASKS[task].build(pool)) if pool.documents else [] for task in work.mined()}
    else:
        kind = LABELLED[chunk.kind]
        made = {kind.task: list(kind.label(kind.items(read_rows(work.folder / chunk.path)), pool))}
    store, instances = settle(made, store, pool, annotator)
    about = {
        "documents": len(pool.documents),
        "tokens": tokens if chunk.kind == DOCUMENTS else len(store.ids),
        "bytes": chunk.bytes,
        "tasks": {task: describe(TASKS[task], instances[task], store, pool, words) for task in instances},
    }
    write_shard(path, store, instances, about)
    return about, refused


@lru_cache(maxsize=1)
def tools(build: str, settings: str, learned: int) -> tuple[Annotator, Vocabulary]:
    """Made once in a process, from the folder of the build and the configuration as JSON; `learned` tells when."""
    corpus, config = Path(build).parent, CorpusConfig.model_validate_json(settings)
    phrases = (corpus / "phrases.txt").read_text("utf-8").splitlines()
    knowledge = make_knowledge(config.language, config.knowledge, config.lexicons, config.tagger, phrases)
    path = corpus / "tokenizer.json"
    annotator = Annotator(path.read_text("utf-8"), config.language, config.segmenter, knowledge)
    return annotator, vocabulary(load_tokenizer(f"{path}"))


def describe(spec: TaskSpec, instances: list[Instance], store: Tokens, pool: Pool, vocabulary: Vocabulary) -> dict:
    """Instances, their tokens, and how often each class occurs in one draw."""
    settings = pool.settings
    runs = runs_of(instances)
    sizes = np.array([len(instance.segments) for instance in instances], np.int64)
    lengths = np.bincount(np.repeat(np.arange(len(sizes)), sizes), np.diff(runs)[:, 0], len(sizes)).astype(np.int64)
    specials = 1 + np.minimum(sizes, settings.max_segments)  # reordering joins sentences when it draws
    assert np.all(lengths + specials <= settings.max_length), f"{spec.name} made too long an instance"
    about: dict = {"instances": len(instances), "tokens": int(lengths.sum()), "label_counts": None}
    if spec.labels is None:
        return about
    generator = np.random.default_rng(pool.rng(spec.name, "label counts").getrandbits(64))
    if spec.target is not None:
        labels = spec.target(take(store, runs), generator, vocabulary, settings).labels.tolist()
    elif spec.draw is not None:
        segments = [Tokens(store.ids[a:b], store.annotations[a:b]) for a, b in runs.tolist()]
        ends = np.cumsum(sizes).tolist()
        labels = [
            spec.draw(segments[end - size : end], instance.label, generator, settings)[1]
            for end, size, instance in zip(ends, sizes.tolist(), instances, strict=True)
        ]
    else:
        labels = [instance.label for instance in instances]
    counts = Counter(labels)
    return about | {"label_counts": [counts[label] for label in range(len(spec.labels(settings)))]}


def split_of(item: Item, validation_share: float) -> str:
    return "validation" if held_out(item.id, validation_share) else "train"


def size_of(item: Item) -> int:
    if isinstance(item, Document):
        return sum(len(text.encode()) for section in item.sections for text in section.paragraphs)
    return item.size


def pools(items: Iterable[Item], config: CorpusConfig) -> Iterator[tuple[str, int, list[Item]]]:
    """(split, number, items) of every shard. A full pool waits for the next: a small last one joins it."""
    full = config.shard_mb * 1e6
    waiting: dict[str, list[Item]] = {split: [] for split in SPLITS}
    filling: dict[str, list[Item]] = {split: [] for split in SPLITS}
    size = dict.fromkeys(SPLITS, 0)
    number = dict.fromkeys(SPLITS, 0)
    for item in items:
        split = split_of(item, config.validation_share)
        filling[split].append(item)
        size[split] += size_of(item)
        if size[split] >= full:
            if waiting[split]:
                yield split, number[split], waiting[split]
                number[split] += 1
            waiting[split], filling[split], size[split] = filling[split], [], 0
    for split in SPLITS:
        if size[split] < LEAST_POOL * full:
            last = [waiting[split] + filling[split]]
        else:
            last = [waiting[split], filling[split]]
        for left in filter(None, last):
            yield split, number[split], left
            number[split] += 1


def chunk_of(split: str, kind: str, path: str, items: Sequence[Item]) -> Chunk:
    sizes = [size_of(item) for item in items]
    return Chunk(split, kind, path, len(items), sum(sizes), items[sizes.index(max(sizes))].id, "")


def write_json(path: Path, thing: Any) -> None:
    with aside(path) as part:
        part.write_text(json.dumps(thing, ensure_ascii=False), "utf-8")


def plan_of(build: Path) -> list[list[Slice]]:
    """What each task of reading reads."""
    tasks = json.loads((build / "plan.json").read_text("utf-8"))
    return [[Slice(source, name, Share(*share), *rest) for source, name, share, *rest in task] for task in tasks]


class Readings(NamedTuple):
    """What reading found."""

    found: int
    """Documents."""
    labelled: dict[str, dict]
    """What every labelled source counts."""
    relations: list[str]
    """The classes of marked pairs."""
    chunks: list[Chunk]
    """Their ranks are their places."""


def readings(build: Path) -> Readings:
    path = build / "readings.json"
    return parse_readings(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def parse_readings(path: Path, written: int) -> Readings:
    found, labelled, relations, chunks = json.loads(path.read_text("utf-8"))
    return Readings(found, labelled, relations, [Chunk(*fields) for fields in chunks])


def write_array(path: Path, array: np.ndarray) -> None:
    """Packed: what is mostly zeros takes little room."""
    with aside(path) as part, zstandard.open(part, "wb", zstandard.ZstdCompressor(level=1)) as file:
        np.save(file, array)


def read_array(path: Path) -> np.ndarray:
    return np.load(BytesIO(zstandard.decompress(path.read_bytes(), 1 << 30)))


def write_words(path: Path, found: mining.Numbered | mining.Runs) -> None:
    arrays = found._asdict() | {"words": np.frombuffer("\n".join(found.words).encode(), np.uint8)}
    with aside(path) as part, part.open("wb") as file:
        np.savez(file, **arrays)


def read_words(path: Path, kind: type[Found]) -> Found:
    with np.load(path) as file:
        arrays = dict(file)
    return kind(arrays.pop("words").tobytes().decode().split("\n"), **arrays)


def sample_of(build: Path) -> list[Chunk]:
    """The chunks that tokenizer and phrases are learnt from, from all over the train documents."""
    chunks = [chunk for chunk in readings(build).chunks if chunk.kind == DOCUMENTS and chunk.split == "train"]
    every = -(-sum(chunk.bytes for chunk in chunks) // SAMPLE_BYTES)
    return chunks[:: max(1, every)]


def paragraphs(build: Path, part: int, parts: int) -> Iterator[str]:
    """The text of every `parts`-th chunk of the sample."""
    for chunk in sample_of(build)[part::parts]:
        for document in read_documents(build / chunk.path):
            yield from (text for section in document.sections for text in section.paragraphs)


def ids_of(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".jsonl.zst") + ".ids.npy")


def repeated_in(build: Path, rank: int) -> set[int]:
    """The places, in a chunk, of documents whose id stood in the corpus before."""
    path = build / "repeated" / f"{rank:06}.json"
    return set(json.loads(path.read_text("utf-8"))) if path.exists() else set()
