"""From documents to a corpus: `corpora/<name>/` with tokenizer.json, the shards of both splits, and manifest.json last.

Documents are read in order and split into train and validation by a hash of their id. The documents of a split are cut
into pools of about `shard_mb` of text, and a worker process turns one pool into one shard. What a shard holds depends
on the configuration and on its documents, never on workers or time. Its header keeps a digest of both: a build that was
killed goes on where it stopped, and nothing stale is taken for finished.

The queries of a click log are split and pooled as documents are. Their shards hold IR relevance alone, all of it.
"""

import json
import os
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from hashlib import blake2b, file_digest, sha256
from itertools import chain, islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from corpus_tools import clicks
from corpus_tools.annotate import Annotator
from corpus_tools.config import CorpusConfig, refuse_unread
from corpus_tools.document import Document, Refused, hashed, reasons
from corpus_tools.knowledge import mine_collocations
from corpus_tools.meter import meter
from corpus_tools.pool import NO_TOKENS, join, make_pool, settle
from corpus_tools.readers import read
from corpus_tools.shards import FORMAT, SPLITS, aside, read_header, read_manifest, runs_of, write_manifest, write_shard
from corpus_tools.tokenizer import fingerprint, is_uncased, load_tokenizer, train_tokenizer, vocabulary
from pretrain.tasks import TASKS, ir_relevance
from pretrain.tasks.spec import Instance, Pool, Settings, TaskSpec, Tokens, Vocabulary

Notify = Callable[[str], None]
Item = TypeVar("Item", Document, clicks.Query)

SAMPLE_BYTES = 200_000_000
"""Train text, from the beginning, that the tokenizer and the collocations are learnt from."""
LEAST_DOCUMENTS = 2
"""In each split: negatives come from another document."""
LEAST_POOL = 0.25
"""A last pool smaller than this share of a shard joins the one before: negatives need other documents."""


class Job(NamedTuple):
    """One shard to build; what a worker process receives."""

    path: Path
    documents: list[Document]
    queries: list[clicks.Query]
    """Of a click log: a shard is made of documents or of these."""
    config: CorpusConfig
    tasks: tuple[str, ...]
    seed: int
    key: str
    """Digest of everything beside these that decides what is in a shard."""

    @property
    def corpus(self) -> Path:
        return self.path.parent.parent

    @property
    def split(self) -> str:
        return self.path.parent.name

    def digest(self) -> str:
        digest = blake2b(json.dumps([self.key, self.tasks]).encode(), digest_size=16)
        for document in self.documents:
            digest.update(json.dumps([document.id, document.title, document.sections]).encode())
        for query in self.queries:
            digest.update(json.dumps(query).encode())
        return digest.hexdigest()


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def ensure_corpus(
    config: CorpusConfig, tasks: Sequence[str], seed: int, workers: int | None = None, notify: Notify = say
) -> Path:
    """The corpus's folder, built where it is missing. A finished corpus of another configuration is refused."""
    corpus = config.folder()
    if not (corpus / "manifest.json").exists():
        build_corpus(config, tasks, seed, workers, notify)
        return corpus
    manifest = read_manifest(corpus)
    fix = f"Choose another corpus.name, or delete {corpus} to build it anew."
    before = CorpusConfig(**manifest["config"])  # a setting that it does not name had its default
    built, asked = (
        {f"corpus.{key}": value for key, value in settings.model_dump(mode="json").items()} | {"seed": number}
        for settings, number in ((before, manifest["seed"]), (config, seed))
    )
    for key, value in asked.items():
        if built[key] != value:
            raise ValueError(f"{corpus} was built with {key}={built[key]!r}, now it is {value!r}. {fix}")
    if missing := [task for task in tasks if task not in manifest["tasks"]]:
        raise ValueError(f"{corpus} was built without {', '.join(missing)}. {fix}")
    return corpus


def build_corpus(
    config: CorpusConfig, tasks: Sequence[str], seed: int, workers: int | None = None, notify: Notify = say
) -> dict:
    """Build the corpus and return its manifest. What an interrupted build of the same configuration finished is kept.

    `workers`: processes, by default one per core; 1 builds in this process.
    """
    specs = [TASKS[task] for task in tasks]
    for spec in specs:
        if config.language not in spec.languages:
            raise ValueError(f"task {spec.name} does not exist in language {config.language!r}. Drop it from `tasks`.")
    refuse_unread(config, tasks)
    corpus = config.folder()
    (corpus / "manifest.json").unlink(missing_ok=True)
    log = clicks.ClickLog(config.clicks, round(config.max_document_mb * 1e6))
    total = learn(specs, config, corpus, notify)
    tokenizer = load_tokenizer(f"{corpus / 'tokenizer.json'}")
    key = digest_of(config, tasks, seed, fingerprint(tokenizer), (corpus / "collocations.txt").read_text("utf-8"))

    intake = Intake()
    clicked = tuple(task for task in tasks if config.clicks and task == ir_relevance.NAME)
    others = tuple(task for task in tasks if task not in clicked)
    jobs = chain(
        (
            Job(corpus / split / f"{number:05}.safetensors", documents, [], config, others, seed, key)
            for split, number, documents in pools(intake.documents(config), config)
        ),
        (
            Job(corpus / split / f"clicks{number:05}.safetensors", [], queries, config, clicked, seed, key)
            for split, number, queries in pools(log.queries(), config)
        ),
    )
    shards: dict[str, list[dict]] = {split: [] for split in SPLITS}
    with meter(total and total + log.size(), notify) as advance:
        for shard in build_shards(jobs, workers or os.cpu_count() or 1):
            shards[shard["split"]].append(shard)
            advance(shard["documents"] + len(shard["refused"]), shard["bytes"])
    intake.refused += [Refused(*refusal) for split in SPLITS for shard in shards[split] for refusal in shard["refused"]]
    with aside(corpus / "refused.jsonl") as part, part.open("w", encoding="utf-8") as file:
        for refusal in intake.refused + log.refused:
            file.write(json.dumps(refusal._asdict(), ensure_ascii=False) + "\n")

    used = {split: sum(shard["documents"] for shard in shards[split]) for split in SPLITS}
    documents = {"in": intake.found, "used": sum(used.values()), "refused": reasons(intake.refused), **used}
    assert documents["in"] == documents["used"] + len(intake.refused)
    notify(account(documents))
    if config.clicks:
        notify(account_clicks(log.counts()))
    if intake.refused or log.refused:
        notify(f"which were refused, and why: {corpus / 'refused.jsonl'}")
    refuse_few(documents, config)
    table = {spec.name: tally(spec, config.settings(), shards) for spec in specs}
    if ir_relevance.NAME in table:
        table[ir_relevance.NAME]["labels_from"] = "clicks" if config.clicks else "pseudo"
    refuse_unfed(specs, table)
    manifest = {
        "config": config.model_dump(mode="json"),
        "seed": seed,
        "tokenizer": {
            "fingerprint": fingerprint(tokenizer),
            "vocab_size": tokenizer.get_vocab_size(),
            "uncased": is_uncased(tokenizer),
        },
        "documents": documents,
        **({"clicks": log.counts()} if config.clicks else {}),
        "tokens": {split: sum(shard["tokens"] for shard in shards[split]) for split in SPLITS},
        "bytes": sum(shard["bytes"] for split in SPLITS for shard in shards[split]),
        "tasks": table,
        "shards": {
            split: [{key: shard[key] for key in ("file", "documents", "tokens", "sha256")} for shard in shards[split]]
            for split in SPLITS
        },
    }
    manifest["fingerprint"] = sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    write_manifest(corpus, manifest)
    (corpus / "building.json").unlink()
    for split in SPLITS:
        for surplus in set((corpus / split).iterdir()) - {corpus / split / shard["file"] for shard in shards[split]}:
            surplus.unlink()
    return manifest


def digest_of(config: CorpusConfig, tasks: Sequence[str], seed: int, tokenizer: str, collocations: str) -> str:
    """Of everything beside documents, queries and its own tasks that decides what is in a shard."""
    elsewhere = {
        "name", "sources", "keys", "clicks", "validation_share", "shard_mb", "tokenizer", "vocab_size", "lowercase",
    }  # fmt: skip
    content = config.model_dump(mode="json", exclude=elsewhere)
    return sha256(json.dumps([FORMAT, content, list(tasks), seed, tokenizer, collocations]).encode()).hexdigest()


class Intake:
    """Counts what the readers find, and keeps what they and the check for duplicates refuse."""

    def __init__(self) -> None:
        self.found = 0
        self.refused: list[Refused] = []

    def documents(self, config: CorpusConfig) -> Iterator[Document]:
        seen: set[int] = set()
        for document in read(config.sources, dict(config.keys.items()), round(config.max_document_mb * 1e6)):
            self.found += 1
            if isinstance(document, Refused):
                self.refused.append(document)
            elif (number := hashed(document.id)) in seen:
                self.refused.append(Refused(document.id, "duplicate id"))
            else:
                seen.add(number)
                yield document


def split_of(item: Document | clicks.Query, validation_share: float) -> str:
    return "validation" if hashed(item.id) < validation_share * 2**64 else "train"


def size_of(item: Document | clicks.Query) -> int:
    if isinstance(item, clicks.Query):
        texts: Iterable[str] = (item.text, *item.clicked, *item.skipped)
    else:
        texts = (paragraph for section in item.sections for paragraph in section.paragraphs)
    return sum(len(text.encode()) for text in texts)


def learn(specs: Sequence[TaskSpec], config: CorpusConfig, corpus: Path, notify: Notify) -> int | None:
    """Write tokenizer.json and collocations.txt, or keep an interrupted build's; the bytes of all text, if known."""
    marker = corpus / "building.json"
    settings = config.model_dump(mode="json")
    if marker.exists() and (kept := json.loads(marker.read_text("utf-8")))["config"] == settings:
        return kept["bytes"]
    marker.unlink(missing_ok=True)
    tokenizer = None if config.tokenizer == "train" else load_tokenizer(config.tokenizer)
    texts = Sample(config)
    if tokenizer is None:
        tokenizer = train_tokenizer(texts, config.vocab_size, config.lowercase)
        notify(f"tokenizer: {tokenizer.get_vocab_size():,} pieces, trained on the corpus")
    for spec in specs:
        if spec.needs_uncased and not is_uncased(tokenizer):
            raise ValueError(
                f"task {spec.name} needs an uncased tokenizer, else the input shows the label; corpus.tokenizer="
                f"{config.tokenizer!r} is cased. Choose another, or drop the task from `tasks`."
            )
    collocations = mine_collocations(texts) if config.language == "en" else ()
    for name, text in (
        ("tokenizer.json", tokenizer.to_str()),
        ("collocations.txt", "\n".join(collocations)),
        ("building.json", json.dumps({"config": settings, "bytes": texts.total})),
    ):
        with aside(corpus / name) as part:
            part.write_text(text, "utf-8")
    return texts.total


class Sample(Iterable[str]):
    """The paragraphs of the first SAMPLE_BYTES of train text, as often as they are asked for."""

    def __init__(self, config: CorpusConfig):
        self.config = config
        self.total: int | None = None
        """Bytes of all documents, known once they were read to the end."""

    def __iter__(self) -> Iterator[str]:
        taken = total = 0
        intake = Intake()
        for document in intake.documents(self.config):
            total += size_of(document)
            if split_of(document, self.config.validation_share) == "train":
                yield from (paragraph for section in document.sections for paragraph in section.paragraphs)
                taken += size_of(document)
                if taken >= SAMPLE_BYTES:
                    return
        self.total = total
        if not taken:
            counts = listed(reasons(intake.refused))
            refused = f" ({counts}; the first: {intake.refused[0].where})" if counts else ""
            raise ValueError(
                f"corpus.sources {self.config.sources} hold no document to train on: {intake.found:,} found, "
                f"{len(intake.refused):,} refused{refused}. Mend them, or add documents."
            )


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


def build_shards(jobs: Iterator[Job], workers: int) -> Iterator[dict]:
    """What is to be known of every shard, in the order of the jobs. Two jobs are not worth starting processes for."""
    head = list(islice(jobs, 3))
    jobs = chain(head, jobs)
    if workers == 1 or len(head) < 3:
        yield from map(build_shard, jobs)
        return
    # spawn: a fork of a process whose tokenizer has started threads may hang
    executor = ProcessPoolExecutor(workers, get_context("spawn"), start_worker)
    try:
        running: deque[Future[dict]] = deque()
        for job in jobs:
            running.append(executor.submit(build_shard, job))
            if len(running) > workers:
                yield running.popleft().result()
        for shard in running:
            yield shard.result()
    except BrokenProcessPool:
        raise OSError(
            "a worker process was killed, often for want of memory. Run again with fewer workers: finished shards stay."
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)


def start_worker() -> None:
    """Ctrl-C is for the parent to handle, one process is one core, and a worker ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def build_shard(job: Job) -> dict:
    """Write the shard, or keep the one that an interrupted build has finished; what the manifest says of it."""
    digest = job.digest()
    if not (job.path.exists() and read_header(job.path)[1]["digest"] == digest):
        write_job(job, digest)
    with job.path.open("rb") as file:
        hexdigest = file_digest(file, "sha256").hexdigest()
    return {"split": job.path.parent.name, "file": job.path.name, "sha256": hexdigest, **read_header(job.path)[1]}


def write_job(job: Job, digest: str) -> None:
    settings = job.config.settings()
    annotator, words = tools(job.path.absolute().parents[1], job.config.language, job.config.segmenter, job.key)
    pool, store, refused = make_pool(job.documents, annotator, settings, job.config.min_tokens, job.seed)
    tokens = len(store.ids)  # those that tasks add repeat the text
    if job.queries:
        made = {task: list(clicks.label(job.queries, pool)) for task in job.tasks}
    else:
        made = {task: list(TASKS[task].build(pool)) if pool.documents else [] for task in job.tasks}
    store, instances = settle(made, store, pool, annotator)
    about = {
        "digest": digest,
        "documents": len(pool.documents),
        "tokens": len(store.ids) if job.queries else tokens,
        "bytes": sum(map(size_of, job.documents)) + sum(map(size_of, job.queries)),
        "refused": refused,
        "tasks": {task: describe(TASKS[task], instances[task], store, pool, words) for task in job.tasks},
    }
    write_shard(job.path, store, instances, about)


@lru_cache(maxsize=1)
def tools(corpus: Path, language: str, segmenter: str, key: str) -> tuple[Annotator, Vocabulary]:
    """Made once in a process. `key` tells apart the corpora that are built in one folder."""
    collocations = (corpus / "collocations.txt").read_text("utf-8").splitlines()
    path = corpus / "tokenizer.json"
    annotator = Annotator(path.read_text("utf-8"), language, segmenter, collocations)
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
        tokens = join([NO_TOKENS, *(Tokens(store.ids[a:b], store.annotations[a:b]) for a, b in runs.tolist())])
        labels = spec.target(tokens, generator, vocabulary, settings).labels.tolist()
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


def tally(spec: TaskSpec, settings: Settings, shards: dict[str, list[dict]]) -> dict:
    """A task over all shards, as the manifest tells it."""
    made = {
        split: [shard["tasks"][spec.name] for shard in shards[split] if spec.name in shard["tasks"]] for split in SPLITS
    }
    row: dict = {"labels": None if spec.labels is None else list(spec.labels(settings))}
    for split in SPLITS:
        row[split] = sum(about["instances"] for about in made[split])
    row["tokens"] = {split: sum(about["tokens"] for about in made[split]) for split in SPLITS}
    row["label_counts"] = None
    if spec.labels is not None:
        none = [0] * len(row["labels"])
        row["label_counts"] = {
            split: np.sum([none, *(about["label_counts"] for about in made[split])], 0).tolist() for split in SPLITS
        }
    return row


def account(documents: dict) -> str:
    return f"{sums('documents', documents)}; {documents['train']:,} train, {documents['validation']:,} validation"


def account_clicks(counts: dict) -> str:
    return (
        f"{sums('rows of clicks', counts)}; {counts['queries']:,} queries, {counts['clicked']:,} titles clicked, "
        f"{counts['skipped']:,} shown and not clicked"
    )


def sums(what: str, counts: dict) -> str:
    refused = listed(counts["refused"])
    total = sum(counts["refused"].values())
    return f"{what}: {counts['in']:,} in = {counts['used']:,} used + {total:,} refused" + (
        f" ({refused})" if refused else ""
    )


def listed(reasons: dict[str, int]) -> str:
    return ", ".join(f"{reason}: {count:,}" for reason, count in reasons.items())


def refuse_few(documents: dict, config: CorpusConfig) -> None:
    for split, fix in (("train", "lower"), ("validation", "raise")):
        if documents[split] < LEAST_DOCUMENTS:
            share = f", or {fix} corpus.validation_share (now {config.validation_share})"
            enough = documents["used"] >= 2 * LEAST_DOCUMENTS
            raise ValueError(
                f"{account(documents)}. Each needs {LEAST_DOCUMENTS}: add documents{share if enough else ''}."
            )


def refuse_unfed(specs: Sequence[TaskSpec], table: dict[str, dict]) -> None:
    """A task without instances, or with one class only, cannot be trained or measured."""
    unfed = {}
    for spec in specs:
        row = table[spec.name]
        empty = [split for split in SPLITS if row[split] == 0]
        if empty:
            unfed[spec.name] = f"{spec.name} has no {' and no '.join(empty)} instance"
        elif row["labels"] and np.count_nonzero(row["label_counts"]["train"]) < 2:
            unfed[spec.name] = f"{spec.name} has a single class"
        needs = clicks.NEEDS if row.get("labels_from") == "clicks" else spec.needs
        if spec.name in unfed and needs:
            unfed[spec.name] += f" (it needs {needs})"
    if unfed:
        rest = [spec.name for spec in specs if spec.name not in unfed]
        raise ValueError(
            f"the corpus cannot feed every task: {'; '.join(unfed.values())}. Drop them: tasks=[{', '.join(rest)}], "
            "or add documents, or raise corpus.validation_share where only validation instances are missing."
        )
