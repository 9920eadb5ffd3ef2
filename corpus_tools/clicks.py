"""Click logs: what was clicked after a query says how well a title answers it (ERNIE 2.0 §4.2.3, IR relevance).

A log is TSV or CSV. Its header names the columns `query`, `title`, `shown` and `clicked`, in any order and beside any
others; the last two hold counts. A line is a row: no field holds a line break. In TSV quotes are part of the text.

    0 strong    a title clicked after the query at least once
    1 weak      a title shown for the query and never clicked
    2 random    a title of another query, never shown for this one

0 is the best. The same query and title may stand in many rows, clicked in one and skipped in the next: rows are summed
up before anything is labelled, whatever the case in which they are written. A click without `shown` is a click. That a
title was skipped may only mean that nobody scrolled to it: such noise is not removed.

The sum of a log is kept in memory while the corpus is built: every different text and every different pair, however
many rows they come from. That is some 200 bytes a pair where few titles repeat: 10 million pairs take 2 GB.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import NamedTuple

from corpus_tools.document import Refused, hashed, reasons
from corpus_tools.readers import CODECS, Refusal, decode, lines_of, reading, tidy
from pretrain.tasks.ir_relevance import NAME, RANDOM, STRONG, WEAK
from pretrain.tasks.spec import Instance, Pool, TaskSpec

COLUMNS = ("query", "title", "shown", "clicked")
DELIMITERS = {".tsv": "\t", ".csv": ","}
COUNT = re.compile(r"\s*[0-9]{1,18}\s*")
MOST = 8
"""Instances of each class for one query: a few frequent ones must not fill the corpus."""
SUMMARY = "whether a title was clicked after a query, shown but not clicked, or never shown (labels from a click log)"
NEEDS = "a click log in which queries have both clicked and skipped titles, held-out queries included"


class Query(NamedTuple):
    text: str
    clicked: tuple[str, ...]
    """The titles that were clicked at least once, sorted."""
    skipped: tuple[str, ...]
    """The titles that were shown and never clicked, sorted."""

    @property
    def id(self) -> str:
        """Decides, as the id of a document does, whether it is held out."""
        return self.text


class ClickLog:
    """Every row is added to the titles of its query, or refused and counted."""

    def __init__(self, patterns: Sequence[str], max_bytes: int):
        """Raises ValueError where a file cannot be read or its header lacks a column."""
        self.found = 0
        self.refused: list[Refused] = []
        self.clicked: dict[str, dict[str, bool]] = {}
        """Of every query, the titles that were shown: was it ever clicked?"""
        self.spellings: dict[str, str] = {}
        """Every query and title as it was first written."""
        for path in (path for pattern in patterns for path in files_of(pattern)):
            self.read(path, max_bytes)

    def read(self, path: Path, max_bytes: int) -> None:
        before = self.found
        with reading(path, lambda: f"{self.found - before} rows"):
            lines = lines_of(path, max_bytes)
            header = header_of(path, next(lines, (1, b""))[1], max_bytes)
            for number, line in lines:
                if line.strip():
                    self.found += 1
                    try:
                        self.add(fields(decode(line, max_bytes), delimiter_of(path)), header)
                    except Refusal as refusal:
                        self.refused.append(Refused(f"{path}:{number}", str(refusal)))

    def add(self, row: Sequence[str], header: Sequence[str]) -> None:
        if len(row) != len(header):
            raise Refusal("more or fewer fields than the header")
        query, title, shown, clicked = (row[header.index(column)] for column in COLUMNS)
        texts = {"query": tidy(query), "title": tidy(title)}
        for column, text in texts.items():
            if not any(map(str.isalnum, text)):  # it might have no token
                raise Refusal(f"no word in {column}")
        for column, count in {"shown": shown, "clicked": clicked}.items():
            if not COUNT.fullmatch(count):
                raise Refusal(f"{column} is not a count")
        if int(shown) == int(clicked) == 0:
            raise Refusal("neither shown nor clicked")
        query, title = (self.spellings.setdefault(text.casefold(), text) for text in texts.values())
        titles = self.clicked.setdefault(query, {})
        titles[title] = titles.get(title, False) or int(clicked) > 0

    def queries(self) -> Iterator[Query]:
        """In an order that does not follow the log, and puts unlike queries together."""
        for text in sorted(self.clicked, key=hashed):
            titles = self.clicked[text]
            clicked, skipped = (sorted(title for title in titles if titles[title] is kind) for kind in (True, False))
            yield Query(text, tuple(clicked), tuple(skipped))

    def size(self) -> int:
        """Bytes of text in all queries."""
        return sum(len(text.encode()) for query, titles in self.clicked.items() for text in (query, *titles))

    def counts(self) -> dict:
        """As the manifest tells them: rows, and what they add up to."""
        pairs = [clicked for titles in self.clicked.values() for clicked in titles.values()]
        return {
            "in": self.found,
            "used": self.found - len(self.refused),
            "refused": reasons(self.refused),
            "queries": len(self.clicked),
            "clicked": sum(pairs),
            "skipped": len(pairs) - sum(pairs),
        }


def files_of(pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    files = [path] if path.exists() else sorted(map(Path, glob(str(path), recursive=True)))
    if not files:
        raise ValueError(f"corpus.clicks: {pattern} does not exist, and as a glob it matches nothing")
    for file in files:
        if not file.is_file() or plain_suffix(file) not in DELIMITERS:
            raise ValueError(f"corpus.clicks: {file} is no click log. Name files or globs of .tsv or .csv (.gz, .zst).")
    return files


def plain_suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in CODECS else suffix


def delimiter_of(path: Path) -> str:
    return DELIMITERS[plain_suffix(path)]


def header_of(path: Path, line: bytes, max_bytes: int) -> list[str]:
    try:
        header = [name.strip() for name in fields(decode(line, max_bytes), delimiter_of(path))]
    except Refusal as refusal:
        raise ValueError(f"{path}:1: the header cannot be read: {refusal}") from None
    for column in COLUMNS:
        number = header.count(column)
        if number != 1:
            raise ValueError(
                f"{path}:1 has {f'{number} columns' if number else 'no column'} {column!r}. "
                f"A click log begins with a header that names {', '.join(COLUMNS)}; this one has: {', '.join(header)}."
            )
    return header


def fields(line: str, delimiter: str) -> list[str]:
    if delimiter == "\t":
        return line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True))
    except csv.Error:
        raise Refusal("not CSV") from None


def label(queries: Sequence[Query], pool: Pool) -> Iterator[Instance]:
    """(query, title) and its class: for every query as many clicked as skipped titles, and as many random ones.

    So neither the query alone nor, because random titles are those of the other classes, the title alone tells the
    class. A query whose titles were all clicked, or all skipped, has no instance.
    """
    chosen = []
    for query in queries:
        number = min(len(query.clicked), len(query.skipped), MOST)
        rng = pool.rng(NAME, "click log", query.text)
        chosen.append((query, rng, rng.sample(query.clicked, number), rng.sample(query.skipped, number)))
    titles = [title for _, _, clicked, skipped in chosen for title in (*clicked, *skipped)]
    for query, rng, clicked, skipped in chosen:
        shown = {*query.clicked, *query.skipped}
        if shown.issuperset(titles):
            continue
        for strong, weak in zip(clicked, skipped, strict=True):
            stranger = rng.choice(titles)
            while stranger in shown:
                stranger = rng.choice(titles)
            labels = {strong: STRONG, weak: WEAK, stranger: RANDOM}
            for title in rng.sample(list(labels), 3):
                yield Instance((query.text, title), labels[title])


def predicts(spec: TaskSpec, manifest: dict) -> str:
    """What a task predicts in this corpus: the labels of IR relevance are of a click log, or pseudo-labels."""
    return SUMMARY if manifest["tasks"][spec.name].get("labels_from") == "clicks" else spec.summary
