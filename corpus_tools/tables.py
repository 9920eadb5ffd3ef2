"""Rows of the files in which a user brings labels: TSV and CSV with a header, JSONL, any of them also .gz or .zst.

A line is a row: no field holds a line break. In TSV quotes are part of the text. The keys of a JSONL file are those of
its first record. Columns stand in any order and beside any others.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import NamedTuple

from corpus_tools.readers import CODECS, Refusal, decode, lines_of, parse, reading, tidy

DELIMITERS = {".tsv": "\t", ".rels": "\t", ".csv": ","}


class Form(NamedTuple):
    """What the files of a setting look like."""

    setting: str
    """`corpus.clicks`."""
    what: str
    """What one of the files is: `a click log`."""
    suffixes: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...]]
    """Every column, and the names that it may have."""
    optional: frozenset[str] = frozenset()

    def named(self, names: Sequence[str]) -> list[str]:
        """Which of a column's names the header may hold, as a message says it."""
        return [" or ".join(self.columns[column]) for column in names]


Row = Mapping[str, str]
"""Text by column; an optional column that is not there is empty."""


def read_rows(patterns: Sequence[str], form: Form, max_bytes: int) -> Iterator[tuple[str, Row | Refusal]]:
    """`file:line` and what stands there, or why it cannot be used. Blank lines are no rows.

    Raises ValueError where a file cannot be read or lacks a column.
    """
    for path in (path for pattern in patterns for path in files_of(pattern, form)):
        count = 0
        with reading(path, lambda: f"{count} rows"):  # noqa: B023, called inside the loop
            lines = lines_of(path, max_bytes)
            read = records if plain_suffix(path) == ".jsonl" else fields_by_column
            for number, row in read(path, lines, form, max_bytes):
                count += 1
                yield f"{path}:{number}", row


def files_of(pattern: str, form: Form) -> list[Path]:
    path = Path(pattern).expanduser()
    files = [path] if path.exists() else sorted(map(Path, glob(str(path), recursive=True)))
    if not files:
        raise ValueError(f"{form.setting}: {pattern} does not exist, and as a glob it matches nothing")
    for file in files:
        if not file.is_file() or plain_suffix(file) not in form.suffixes:
            *others, last = form.suffixes
            suffixes = f"{', '.join(others)} or {last}"
            raise ValueError(
                f"{form.setting}: {file} is not {form.what}. Name files or globs of {suffixes} (.gz, .zst)."
            )
    return files


def plain_suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in CODECS else suffix


def fields_by_column(
    path: Path, lines: Iterator[tuple[int, bytes]], form: Form, max_bytes: int
) -> Iterator[tuple[int, Row | Refusal]]:
    delimiter = DELIMITERS[plain_suffix(path)]
    try:
        header = [name.strip() for name in fields(decode(next(lines, (1, b""))[1], max_bytes), delimiter)]
    except Refusal as refusal:
        raise ValueError(f"{path}:1: the header cannot be read: {refusal}") from None
    places = {column: header.index(name) for column, name in places_of(f"{path}:1", header, form).items()}
    for number, line in lines:
        if line.strip():
            try:
                row = fields(decode(line, max_bytes), delimiter)
                if len(row) != len(header):
                    raise Refusal("more or fewer fields than the header")
                yield number, {column: row[places[column]] if column in places else "" for column in form.columns}
            except Refusal as refusal:
                yield number, refusal


def fields(line: str, delimiter: str) -> list[str]:
    if delimiter == "\t":
        return line.rstrip("\r").split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error:
        raise Refusal("not CSV") from None


def records(
    path: Path, lines: Iterator[tuple[int, bytes]], form: Form, max_bytes: int
) -> Iterator[tuple[int, Row | Refusal]]:
    keys: dict[str, str] | None = None
    for number, line in lines:
        if not line.strip():
            continue
        record = parse(line, max_bytes)
        if isinstance(record, Refusal):
            yield number, record
            continue
        keys = keys or places_of(f"{path}:{number}", list(record), form)
        try:
            yield (
                number,
                {
                    column: plain(column, record.get(keys[column]), column in form.optional, max_bytes)
                    if column in keys
                    else ""
                    for column in form.columns
                },
            )
        except Refusal as refusal:
            yield number, refusal


def plain(column: str, value: object, optional: bool, max_bytes: int) -> str:
    """A value as the text that a table would hold."""
    if value is None and optional:
        return ""
    if value is None:
        raise Refusal(f"no {column}")
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise Refusal(f"{column} is neither text nor a whole number")
    return decode(str(value).encode("utf-8", "surrogatepass"), max_bytes)


def places_of(where: str, header: Sequence[str], form: Form) -> dict[str, str]:
    """Every column and its name here. Raises ValueError where one is missing, or is there twice."""
    places = {}
    for column, names in form.columns.items():
        found = [name for name in header if name in names]
        if len(found) == 1:
            places[column] = found[0]
        elif found or column not in form.optional:
            required = [name for name in form.columns if name not in form.optional]
            number = f"{len(found)} columns" if found else "no column"
            raise ValueError(
                f"{where} has {number} {column!r}. {form.what.capitalize()} names {', '.join(form.named(required))}; "
                f"this one has: {', '.join(header)}."
            )
    return places


class Spellings(dict[str, str]):
    """Texts as they were first written, whatever the case in which they come again."""

    def first(self, text: str) -> str:
        folded = text.casefold()
        return self.setdefault(text if folded == text else folded, text)


def worded(row: Row, column: str) -> str:
    """The tidied text of a column, which has a letter or a digit: without one it might have no token."""
    text = tidy(row[column])
    if not any(map(str.isalnum, text)):
        raise Refusal(f"no word in {column}")
    return text
