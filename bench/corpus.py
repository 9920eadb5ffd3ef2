"""How fast documents become shards, beside what the tokenizer alone takes for the same text in the same run.

    python bench/corpus.py [--english FILES] [--chinese FILES] [--mb 80] [--rounds 3]

Without files it takes the demo corpora, repeated under other ids. Build: all tasks of the language, one process on one
core, from files on disk to the manifest, with a tokenizer that is given. Peer: `tokenizers` alone on the same
paragraphs, one thread; for Chinese with the word segmentation of rjieba, which any masking of words needs. Peer
and build take turns; ratios are medians of those of the rounds, times are medians. The last line is one JSON object.
"""

import argparse
import json
import operator
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import rjieba
from tokenizers import Tokenizer

from corpus_tools.build import build_corpus
from corpus_tools.config import CorpusConfig
from corpus_tools.document import Document
from corpus_tools.readers import read
from corpus_tools.slices import find_slices
from corpus_tools.tokenizer import train_tokenizer
from pretrain.tasks import TASKS

BATCH = 1000
"""Paragraphs that the peer encodes at once."""
Result = TypeVar("Result")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--english", default="demo:en", help="documents: a file, folder or glob")
    parser.add_argument("--chinese", default="demo:zh", help="documents: a file, folder or glob")
    parser.add_argument("--mb", type=float, default=80, help="text of each language")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    result: dict[str, float] = {}
    peak = 0.0
    texts = {"en": list(documents_of(arguments.english)), "zh": list(documents_of(arguments.chinese))}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for language, documents in texts.items():
            name = {"en": "english", "zh": "chinese"}[language]
            size = write(documents, language, arguments.mb, 16_000)
            times: dict[str, list[float]] = {"peer": [], "one": [], "two": []}
            for turn in range(arguments.rounds):
                times["peer"].append(alone(timed, peer, language)[0])
                seconds, memory = alone(timed, build, language, 1, turn)
                times["one"].append(seconds)
                peak = max(peak, memory)
                if language == "en":
                    times["two"].append(alone(timed, build, language, 2, turn)[0])
            middle = {key: statistics.median(values) for key, values in times.items() if values}
            result[f"{name}_vs_tokenizer"] = ratio(times["one"], times["peer"])
            result[f"{name}_mb_s"] = size / middle["one"]
            if language == "en":
                result["two_core_speedup"] = ratio(times["one"], times["two"])
            print(f"{name}: {size:.1f} MB of text, {', '.join(tasks_of(language))}")
            for key, what in {"peer": "tokenizer alone", "one": "build, 1 core", "two": "build, 2 cores"}.items():
                if key in middle:
                    spread = " ".join(f"{value:.1f}" for value in times[key])
                    print(f"  {what:16} {middle[key]:6.1f} s  {size / middle[key]:5.2f} MB/s  (rounds: {spread})")
    result["peak_rss_mb"] = peak
    print(json.dumps({key: round(value, 3) for key, value in result.items()}))


def ratio(ours: list[float], theirs: list[float]) -> float:
    """Of what ran one after the other, because a machine's speed changes with its other guests."""
    return statistics.median(map(operator.truediv, ours, theirs))


def tasks_of(language: str) -> list[str]:
    return [name for name, spec in TASKS.items() if language in spec.languages]


def write(documents: Sequence[Document], language: str, mb: float, vocabulary: int) -> float:
    """Write `mb` of text, the documents repeated under other ids, and a tokenizer trained on it; MB written."""
    size = 0
    with Path(f"{language}.jsonl").open("w", encoding="utf-8") as file:
        for number in count():
            document = documents[number % len(documents)]
            text = "\n".join(text for section in document.sections for text in section.paragraphs)
            record = {"id": f"{document.id}/{number // len(documents)}", "title": document.title, "text": text}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            size += len(text.encode())
            if size >= mb * 1e6:
                break
    Path(f"{language}.json").write_text(train_tokenizer(paragraphs(language), vocabulary, True).to_str(), "utf-8")
    return size / 1e6


def documents_of(source: str) -> Iterator[Document]:
    for slice in find_slices([source]):
        for document in read(slice.source, slice.name, {}, 10_000_000):
            if isinstance(document, Document):
                yield document


def paragraphs(language: str) -> Iterator[str]:
    with Path(f"{language}.jsonl").open(encoding="utf-8") as file:
        for line in file:
            yield from json.loads(line)["text"].split("\n")


def alone(function: Callable[..., Result], *arguments: object) -> Result:
    """What the function returns in a new process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        return executor.submit(function, *arguments).result()


def timed(function: Callable[..., float], *arguments: object) -> tuple[float, float]:
    """Seconds, and the peak memory in MB of the process that took them and of those below it."""
    seconds = function(*arguments)
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return seconds, max(peaks) / 1024


def peer(language: str) -> float:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    tokenizer = Tokenizer.from_file(f"{language}.json")
    texts = list(paragraphs(language))
    begun = time.perf_counter()
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        if language == "zh":
            for text in batch:
                rjieba.cut(text)
        for encoding in tokenizer.encode_batch(batch, add_special_tokens=False):
            _ = encoding.ids
    return time.perf_counter() - begun


def build(language: str, workers: int, turn: int) -> float:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:workers])
    name = f"{language}-{workers}-{turn}"
    config = CorpusConfig(name=name, language=language, sources=[f"{language}.jsonl"], tokenizer=f"{language}.json")
    begun = time.perf_counter()
    build_corpus(config, tasks_of(language), workers, notify=lambda line: None)
    return time.perf_counter() - begun


if __name__ == "__main__":
    if not hasattr(os, "sched_setaffinity"):
        sys.exit("bench/corpus.py pins its processes to cores, which this system cannot do.")
    main()
