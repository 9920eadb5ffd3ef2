"""From documents to a corpus: `corpora/<name>/` with tokenizer.json, the shards of both splits, and manifest.json last.

    read        slices of the sources           to chunks of documents, split into train and validation by their ids
    learn       a sample of the train chunks    to a tokenizer and phrases
    compare     ids, and texts where asked      to the documents that are there twice
    build       a chunk                         to a shard

Each stage is a datatrove pipeline of many tasks. What a task does depends on the configuration and the sources, never
on workers or time, and a finished task leaves a marker: a build that was killed goes on where it stopped, and ends with
the bytes of one that was not. What has not become part of the corpus lies in `building/`, which goes at the end.
"""

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from glob import glob
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.pipeline.base import PipelineStep
from tokenizers import Tokenizer

from corpus_tools.chunks import DOCUMENTS, Chunk, write_chunk
from corpus_tools.config import CorpusConfig, refuse_unread
from corpus_tools.document import Refused, reasons
from corpus_tools.duplicates import comparing, dropping
from corpus_tools.executors import Processes, run
from corpus_tools.knowledge import make_knowledge, mining, read_lexicons, sources_of
from corpus_tools.labels import LABELLED, Given, labels_from
from corpus_tools.meter import meter
from corpus_tools.readers import visible_files
from corpus_tools.relations import Relations
from corpus_tools.shards import FORMAT, SPLITS, aside, read_manifest, write_manifest
from corpus_tools.slices import plan, share_out
from corpus_tools.steps import (
    BuildShard,
    Count,
    ReadChunk,
    Readings,
    ReadSources,
    Sketch,
    Work,
    chunk_of,
    ids_of,
    paragraphs,
    plan_of,
    pools,
    read_array,
    read_words,
    readings,
    sample_of,
    write_array,
    write_json,
)
from corpus_tools.tokenizer import fingerprint, is_uncased, load_tokenizer, train_tokenizer
from pretrain.tasks import TASKS
from pretrain.tasks.spec import Settings, TaskSpec

Notify = Callable[[str], None]

BUILDING = "building"
LEAST_DOCUMENTS = 2
"""In each split: negatives come from another document."""
MOST_MINED, LEAST_MINED = 16_000_000, 10_000_000
"""Text that one task mines for phrases, see `share_out`: it is in memory, and a sketch is as large of little text."""
COMPARED_AT_ONCE = 1 << 24
"""Ids that are compared in memory: 128 MB."""


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def ensure_corpus(config: CorpusConfig, tasks: Sequence[str], workers: int | None = None, notify: Notify = say) -> Path:
    """The corpus's folder, built where it is missing. A finished corpus of another configuration is refused."""
    corpus = config.folder()
    if not (corpus / "manifest.json").exists():
        build_corpus(config, tasks, workers, notify)
        return corpus
    shutil.rmtree(corpus / BUILDING, ignore_errors=True)  # of a build that was killed when all was done
    manifest = read_manifest(corpus)
    fix = f"Choose another corpus.name, or delete {corpus} to build it anew."
    before = CorpusConfig(**manifest["config"])  # a setting that it does not name had its default
    built = content(before)
    for key, value in content(config).items():
        if built[key] != value:
            raise ValueError(f"{corpus} was built with corpus.{key}={built[key]!r}, now it is {value!r}. {fix}")
    if missing := [task for task in tasks if task not in manifest["tasks"]]:
        raise ValueError(f"{corpus} was built without {', '.join(missing)}. {fix}")
    return corpus


WHERE = {"executor", "slurm"}
"""Settings that tell where a corpus is built; no manifest holds them."""
DRAWN = {"mask_share", "mask_levels"}
"""Settings that decide how training draws from a corpus, not what is in it."""


def content(config: CorpusConfig) -> dict[str, Any]:
    """The settings that decide what is in a corpus."""
    return config.model_dump(mode="json", exclude=WHERE | DRAWN)


def build_corpus(config: CorpusConfig, tasks: Sequence[str], workers: int | None = None, notify: Notify = say) -> dict:
    """Build the corpus and return its manifest. What an interrupted build of the same configuration finished is kept.

    `workers`: processes, by default one per core; 1 builds in this process.
    """
    specs = [TASKS[task] for task in tasks]
    for spec in specs:
        if config.language not in spec.languages:
            raise ValueError(f"task {spec.name} does not exist in language {config.language!r}. Drop it from `tasks`.")
    refuse_unread(config, tasks)
    # what a task would find out later is found out before anything is read
    make_knowledge(*knowledge_of(config))
    if config.tokenizer != "train":
        refuse_cased(specs, load_tokenizer(config.tokenizer), config)
    corpus = config.folder()
    work = Work(os.getcwd(), f"{corpus / BUILDING}", config, tuple(tasks))
    (corpus / "manifest.json").unlink(missing_ok=True)
    begin(work)
    with Processes(workers or os.cpu_count() or 1) as processes:
        build = Build(work, processes, notify)
        build.read()
        build.learn(specs)
        build.compare()
        build.build()
    return build.finish(specs)


def begin(work: Work) -> None:
    """Keep what an interrupted build has done if it was of this configuration and these files, else start anew."""
    slices = plan(work.config.sources)
    patterns = chain(*(getattr(work.config, name) for name in LABELLED), work.config.lexicons)
    others = [stamp(file) for pattern in patterns for path in found(pattern) for file in visible_files(path)]
    identity = json.loads(json.dumps([FORMAT, content(work.config), work.tasks, slices, others]))
    marker = work.folder / "build.json"
    if marker.exists() and json.loads(marker.read_text("utf-8")) == identity:
        return
    shutil.rmtree(work.folder, ignore_errors=True)
    write_json(work.folder / "plan.json", slices)
    write_json(marker, identity)


def knowledge_of(config: CorpusConfig) -> tuple[str, list[str] | None, list[str], str | None]:
    return config.language, config.knowledge, config.lexicons, config.tagger


def found(pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    return [path] if path.exists() else sorted(map(Path, glob(str(path), recursive=True)))


def stamp(path: Path) -> tuple[str, int, int]:
    return f"{path}", path.stat().st_size, path.stat().st_mtime_ns


class Build:
    """The stages, one after another."""

    def __init__(self, work: Work, processes: Processes, notify: Notify):
        self.work = work
        self.folder = work.folder
        self.corpus = work.config.folder()
        self.processes = processes
        self.notify = notify

    def run(
        self,
        stage: str,
        steps: Sequence[PipelineStep],
        sizes: Sequence[int],
        origin: Callable[[int], str],
        documents: Callable[[int], int] = lambda rank: 0,
    ) -> None:
        """One task for each of `sizes`, the bytes that it reads."""
        with meter(stage, sum(sizes), self.notify) as advance:
            run(
                steps,
                len(sizes),
                self.folder / stage,
                self.work.config,
                self.processes,
                origin,
                lambda rank: advance(documents(rank), sizes[rank]),
            )

    def notes(self, stage: str, number: int) -> Iterator[dict]:
        """What the tasks of a stage noted, in their order."""
        return (json.loads(self.work.account(stage, rank).read_text("utf-8")) for rank in range(number))

    def read(self) -> None:
        """Write the chunks, and readings.json, which lists them, last."""
        config = self.work.config
        if (self.folder / "readings.json").exists():
            return
        labelled = {name: kind.read(config) for name, kind in LABELLED.items() if getattr(config, name)}
        slices = plan_of(self.folder)
        sizes = [round(sum(slice.text_bytes() for slice in task)) for task in slices]
        self.run("read", [ReadSources(self.work)], sizes, lambda rank: slices[rank][0].source)
        chunks, documents = [], 0
        for note in self.notes("read", len(slices)):
            chunks += [Chunk(*fields) for fields in note["chunks"]]
            documents += note["found"]
        for name, rows in labelled.items():
            chunks += self.label(name, rows)
        numbers: Counter[tuple[str, str]] = Counter()
        named = []
        for chunk in sorted(chunks, key=lambda chunk: (chunk.kind != DOCUMENTS, chunk.kind, chunk.split)):
            prefix = "" if chunk.kind == DOCUMENTS else chunk.kind
            number = numbers[chunk.split, chunk.kind]
            named.append(chunk._replace(shard=f"{chunk.split}/{prefix}{number:05}.safetensors"))
            numbers[chunk.split, chunk.kind] += 1
        relations = [label for rows in labelled.values() if isinstance(rows, Relations) for label in rows.labels]
        counts = {name: rows.counts() for name, rows in labelled.items()}
        write_json(self.folder / "readings.json", Readings(documents, counts, relations, named))

    def label(self, name: str, rows: Given) -> Iterator[Chunk]:
        """Write the rows of a labelled source as chunks."""
        found: Iterable[Any] = rows.items()  # of one type, which LABELLED knows
        for split, number, items in pools(found, self.work.config):
            path = f"{name}/{split}/{number:06}.jsonl.zst"
            write_chunk(self.folder / path, items)
            yield chunk_of(split, name, path, items)
        write_json(self.folder / name / "refused.json", rows.refused)

    def learn(self, specs: Sequence[TaskSpec]) -> None:
        """Write tokenizer.json and phrases.txt, and learned.json last."""
        config = self.work.config
        if (self.folder / "learned.json").exists():
            return
        if not sample_of(self.folder):
            refused = [Refused(*refusal) for note in self.read_notes() for refusal in note["refused"]]
            counts = listed(reasons(refused))
            why = f" ({counts}; the first: {refused[0].where})" if counts else ""
            raise ValueError(
                f"corpus.sources {config.sources} hold no document to train on: {readings(self.folder).found:,} found, "
                f"{len(refused):,} refused{why}. Mend them, or add documents."
            )
        if config.tokenizer == "train":
            texts = paragraphs(self.folder, 0, 1)
            tokenizer = train_tokenizer(texts, config.vocab_size, config.lowercase)
            self.notify(f"tokenizer: {tokenizer.get_vocab_size():,} pieces, trained on the corpus")
        else:
            tokenizer = load_tokenizer(config.tokenizer)
        refuse_cased(specs, tokenizer, config)
        phrases = self.mine() if "phrases" in sources_of(*knowledge_of(config)) else []
        for name, text in (("tokenizer.json", tokenizer.to_str()), ("phrases.txt", "\n".join(phrases))):
            with aside(self.corpus / name) as part:
                part.write_text(text, "utf-8")
        write_json(self.folder / "learned.json", {"phrases": len(phrases)})

    def mine(self) -> list[str]:
        """The phrases of the sample, in two passes over it."""
        sample = sample_of(self.folder)
        number = min(len(sample), share_out(sum(chunk.bytes for chunk in sample), MOST_MINED, LEAST_MINED))
        sizes = [sum(chunk.bytes for chunk in sample[rank::number]) for rank in range(number)]

        def origin(rank: int) -> str:
            return f"{sample[rank]}"

        survivors = self.folder / "survivors.npy.zst"
        if not survivors.exists():
            self.run("sketch", [Sketch(self.work)], sizes, origin)
            sketches = sorted((self.folder / "sketch").glob("*.npy.zst"))
            write_array(survivors, mining.survivors(reduce(mining.add, map(read_array, sketches))))
            for path in sketches:
                path.unlink()
        self.run("count", [Count(self.work)], sizes, origin)
        counted = sorted((self.folder / "count").glob("*.npz"))
        return mining.choose(mining.union(read_words(path, mining.Runs) for path in counted), self.work.config.language)

    def compare(self) -> None:
        """Find the documents that are there twice."""
        chunks = [chunk for chunk in readings(self.folder).chunks if chunk.kind == DOCUMENTS]
        if not (self.folder / "compared.json").exists():
            repeated = 0
            for rank, places in repeated_ids([self.folder / chunk.path for chunk in chunks]).items():
                write_json(self.folder / "repeated" / f"{rank:06}.json", places)
                repeated += len(places)
            write_json(self.folder / "compared.json", {"repeated": repeated})
        for stage, steps, tasks in comparing(self.work):
            if tasks is None:
                self.run(stage, steps, [chunk.bytes for chunk in chunks], lambda rank: f"{chunks[rank]}")
            else:
                self.run(stage, steps, [0] * tasks, lambda rank: "the hashes of texts")

    def build(self) -> None:
        chunks = readings(self.folder).chunks
        reader = ReadChunk(self.work)
        steps = [reader, *dropping(self.work, reader), BuildShard(self.work, reader)]
        sizes = [chunk.bytes for chunk in chunks]
        self.run("build", steps, sizes, lambda rank: f"{chunks[rank]}", lambda rank: chunks[rank].items)

    def read_notes(self) -> Iterator[dict]:
        return self.notes("read", len(plan_of(self.folder)))

    def finish(self, specs: Sequence[TaskSpec]) -> dict:
        """Add up what the tasks noted, refuse a corpus that cannot train, and write the manifest."""
        config, about = self.work.config, readings(self.folder)
        shards: dict[str, list[dict]] = {split: [] for split in SPLITS}
        refused: Counter[str] = Counter()
        with aside(self.corpus / "refused.jsonl") as part, part.open("w", encoding="utf-8") as file:

            def note(refusals: Iterable[Sequence[str]]) -> Iterator[str]:
                for where, reason in refusals:
                    file.write(json.dumps({"where": where, "reason": reason}, ensure_ascii=False) + "\n")
                    yield reason

            for read in self.read_notes():
                refused.update(note(read["refused"]))
            for shard in self.notes("build", len(about.chunks)):
                refused.update(note(shard.pop("refused")))
                shards[shard["split"]].append(shard)
            rows = [
                note(json.loads((self.folder / name / "refused.json").read_text("utf-8"))) for name in about.labelled
            ]
            some_refused = sum(refused.values()) + len(list(chain.from_iterable(rows))) > 0
        used = {split: sum(shard["documents"] for shard in shards[split]) for split in SPLITS}
        documents = {"in": about.found, "used": sum(used.values()), "refused": dict(sorted(refused.items())), **used}
        assert documents["in"] == documents["used"] + sum(refused.values())
        self.notify(account(documents))
        for name, counts in about.labelled.items():
            self.notify(account_rows(name, counts))
        lexicons = count_lexicons(config.lexicons)
        if lexicons:
            self.notify(sums("lines of lexicons", lexicons))
        if some_refused:
            self.notify(f"which were refused, and why: {self.corpus / 'refused.jsonl'}")
        refuse_few(documents, config)
        table = {spec.name: tally(spec, config.settings(about.relations), shards) for spec in specs}
        for name, row in table.items():
            if origin := labels_from(name, config):
                row["labels_from"] = origin
        refuse_unfed(specs, table)
        tokenizer = load_tokenizer(f"{self.corpus / 'tokenizer.json'}")
        manifest = {
            "config": config.model_dump(mode="json", exclude=WHERE),
            "tokenizer": {
                "fingerprint": fingerprint(tokenizer),
                "vocab_size": tokenizer.get_vocab_size(),
                "uncased": is_uncased(tokenizer),
            },
            "documents": documents,
            **about.labelled,
            **({"lexicons": lexicons} if lexicons else {}),
            "tokens": {split: sum(shard["tokens"] for shard in shards[split]) for split in SPLITS},
            "bytes": sum(shard["bytes"] for split in SPLITS for shard in shards[split]),
            "tasks": table,
            "shards": {
                split: [
                    {
                        **{key: shard[key] for key in ("file", "documents", "tokens", "sha256")},
                        "instances": {task: about["instances"] for task, about in shard["tasks"].items()},
                    }
                    for shard in shards[split]
                ]
                for split in SPLITS
            },
        }
        manifest["fingerprint"] = sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
        for split in SPLITS:
            for surplus in set((self.corpus / split).iterdir()) - {
                self.corpus / split / shard["file"] for shard in shards[split]
            }:
                surplus.unlink()
        write_manifest(self.corpus, manifest)
        shutil.rmtree(self.folder)
        return manifest


def repeated_ids(paths: Sequence[Path]) -> dict[int, list[int]]:
    """Per chunk, the places of documents whose id stood in the corpus before. At most COMPARED_AT_ONCE ids at once."""
    counts = [int(np.load(ids_of(path), mmap_mode="r").shape[0]) for path in paths]
    bounds = np.cumsum([0, *counts])
    times = -(-int(bounds[-1]) // COMPARED_AT_ONCE)
    later = []
    for turn in range(times):
        ids, places = [], []
        for path, begin in zip(paths, bounds[:-1], strict=True):
            found = np.load(ids_of(path))
            mine = np.flatnonzero(found % times == turn)
            ids.append(found[mine])
            places.append(mine + begin)
        every = np.concatenate(places)
        _, first = np.unique(np.concatenate(ids), return_index=True)
        later.append(np.delete(every, first))
    repeated: dict[int, list[int]] = {}
    for place in np.sort(np.concatenate([np.zeros(0, np.int64), *later])).tolist():
        rank = int(np.searchsorted(bounds, place, side="right")) - 1
        repeated.setdefault(rank, []).append(place - int(bounds[rank]))
    return repeated


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


def count_lexicons(sources: Sequence[str]) -> dict:
    if not sources:
        return {}
    entries, refused = read_lexicons(sources)
    return {"in": len(entries) + sum(refused.values()), "used": len(entries), "refused": refused}


def account(documents: dict) -> str:
    return f"{sums('documents', documents)}; {documents['train']:,} train, {documents['validation']:,} validation"


def account_rows(name: str, counts: dict) -> str:
    """The rows of a labelled source, and what they add up to."""
    line = sums(f"rows of {name}", counts)
    for key, value in counts.items():
        if key not in ("in", "used", "refused") and value:
            line += f"; {key}: {listed(value) if isinstance(value, dict) else f'{value:,}'}"
    return line


def sums(what: str, counts: dict) -> str:
    refused = listed(counts["refused"])
    total = sum(counts["refused"].values())
    return f"{what}: {counts['in']:,} in = {counts['used']:,} used + {total:,} refused" + (
        f" ({refused})" if refused else ""
    )


def listed(reasons: dict[str, int]) -> str:
    return ", ".join(f"{reason}: {count:,}" for reason, count in reasons.items())


def refuse_cased(specs: Sequence[TaskSpec], tokenizer: Tokenizer, config: CorpusConfig) -> None:
    for spec in specs:
        if spec.needs_uncased and not is_uncased(tokenizer):
            raise ValueError(
                f"task {spec.name} needs an uncased tokenizer, else the input shows the label; corpus.tokenizer="
                f"{config.tokenizer!r} is cased. Choose another, or drop the task from `tasks`."
            )


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
        kind = LABELLED.get(row.get("labels_from", ""))
        needs = kind.needs if kind else spec.needs
        if spec.name in unfed and needs:
            unfed[spec.name] += f" (it needs {needs})"
    if unfed:
        rest = [spec.name for spec in specs if spec.name not in unfed]
        raise ValueError(
            f"the corpus cannot feed every task: {'; '.join(unfed.values())}. Drop them: tasks=[{', '.join(rest)}], "
            "or add documents, or raise corpus.validation_share where only validation instances are missing."
        )
