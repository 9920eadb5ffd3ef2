"""From files and data sets to documents. Every document found is yielded, or refused with the reason; none is dropped.

Plain text: a blank line ends a document, each line is a paragraph, there is no title. JSONL, Parquet and data sets: a
record is a document, its `text` holds paragraphs separated by newlines. Headings inside a text are not looked for.

What stops the reading, as a ValueError of one line, is what the user has to mend: a source that is not there, an
archive cut short, a key that no record has. A document that cannot be used is refused, and the reading goes on.
"""

import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import glob
from gzip import BadGzipFile, GzipFile
from io import BufferedIOBase
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

import pyarrow.parquet as pq
import zstandard
from pyarrow import ArrowException, RecordBatch

from corpus_tools.document import Document, Refused, Section
from corpus_tools.packages import demo_documents

CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufeff]")
"""What no text is made of: control characters that are not white space, and the byte order mark."""
BOM = b"\xef\xbb\xbf"
BLOCK = 4_000_000
"""Bytes of text that stay together where a file is shared out."""


class Refusal(Exception):
    """Why a document cannot be used."""


Record = Mapping[str, Any] | Refusal
"""What one line or row holds, or why it holds nothing."""


class Share(NamedTuple):
    """One of several equal parts of a large file: of its text, blocks of BLOCK bytes are dealt out in turn."""

    part: int = 0
    parts: int = 1

    def has(self, offset: int) -> bool:
        """Is what begins at this byte of the text (Parquet: at this row group × BLOCK) in the part?"""
        return offset // BLOCK % self.parts == self.part


WHOLE = Share()


def read(
    source: str, name: str, keys: Mapping[str, str], max_bytes: int, share: Share = WHOLE
) -> Iterator[Document | Refused]:
    """The documents of a file, a data set or a demo corpus. Raises ValueError where it cannot be read.

    `name` is what default ids begin with; `keys` renames the fields `id`, `title` and `text` of records.
    """
    scheme, _, rest = source.partition(":")
    if not is_scheme(source):
        yield from read_file(Path(source), name, keys, max_bytes, share)
    elif scheme == "datasets":
        yield from read_dataset(rest, keys, max_bytes)
    else:
        yield from demo_documents(rest)


def is_scheme(source: str) -> bool:
    return source.startswith(("demo:", "datasets:"))


def paths_of(source: str) -> list[Path]:
    """The files that a path, folder or glob stands for, sorted; hidden ones are left out."""
    path = Path(source).expanduser()
    if path.is_file():
        if reader_of(path) is None:
            raise ValueError(f"corpus.sources: {source} has an unsupported extension. Supported: {SUPPORTED}.")
        return [path]
    matches = [path] if path.exists() else sorted(map(Path, glob(str(path), recursive=True)))
    if not matches:
        raise ValueError(f"corpus.sources: {source} does not exist, and as a glob it matches nothing")
    files = dict.fromkeys(file for match in matches for file in visible_files(match))
    if not any(map(reader_of, files)):
        raise ValueError(f"corpus.sources: {source} holds no readable file. Supported: {SUPPORTED}.")
    return list(files)


def visible_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    # a link to nothing is no file, but reading it says so, while leaving it out would lose documents in silence
    below = [file for file in sorted(path.rglob("*")) if file.is_file() or (file.is_symlink() and not file.exists())]
    return [file for file in below if not any(part.startswith(".") for part in file.relative_to(path).parts)]


def reader_of(path: Path) -> "Reader | None":
    suffix = path.suffix.lower()
    if suffix in CODECS:
        suffix = Path(path.stem).suffix.lower()
        return READERS.get(suffix) if suffix != ".parquet" else None
    return READERS.get(suffix)


def read_file(
    path: Path, name: str, keys: Mapping[str, str], max_bytes: int, share: Share
) -> Iterator[Document | Refused]:
    reader = reader_of(path)
    if reader is None:
        yield Refused(str(path), "unsupported extension")
        return
    count = 0
    with reading(path, lambda: f"{count} documents"):
        if path.stat().st_size:
            for document in reader(path, name, keys, max_bytes, share):
                count += 1
                yield document
    if count == 0 and share.parts == 1:
        yield Refused(str(path), "empty file")


@contextmanager
def reading(path: Path, progress: Callable[[], str]) -> Iterator[None]:
    """What is wrong with a file, as a ValueError of one line that says how far the reading came."""
    try:
        yield
    except EOFError:
        raise ValueError(f"{path} is truncated after {progress()}. Fetch it again.") from None
    except (BadGzipFile, zlib.error, zstandard.ZstdError, ArrowException) as error:
        raise ValueError(f"{path} is damaged after {progress()}: {one_line(error)}. Fetch it again.") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {one_line(error)}") from None


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


# One function a format: path, name for ids, keys, max_bytes, the share to read.


def read_text(
    path: Path, name: str, keys: Mapping[str, str], max_bytes: int, share: Share
) -> Iterator[Document | Refused]:
    number, first, begin, size, block = 0, 0, 0, 0, list[bytes]()
    for at, offset, line in chain(placed_lines(path, max_bytes), [(0, 0, b"")]):
        if line.strip():
            if not first:
                first, begin = at, offset
            size += len(line)
            if size <= max_bytes:
                block.append(line)
        elif first:
            number += 1
            try:
                if share.has(begin):
                    if size > max_bytes:
                        raise Refusal("too large")
                    yield document(f"{name}#{number}", None, decode(b"\n".join(block), max_bytes))
            except Refusal as refusal:
                yield Refused(f"{path}:{first}", str(refusal))
            first, size, block = 0, 0, []


def read_jsonl(
    path: Path, name: str, keys: Mapping[str, str], max_bytes: int, share: Share
) -> Iterator[Document | Refused]:
    lines = placed_lines(path, max_bytes)
    records = ((number, parse(line, max_bytes)) for number, at, line in lines if share.has(at) and line.strip())
    return from_records(records, str(path), name, keys, max_bytes)


def read_parquet(
    path: Path, name: str, keys: Mapping[str, str], max_bytes: int, share: Share
) -> Iterator[Document | Refused]:
    with pq.ParquetFile(path) as table:
        columns = columns_of(table.schema_arrow.names, str(path), keys)
        records = parquet_records(table, columns, share)
        yield from from_records(records, str(path), name, keys, max_bytes)


def parquet_records(table: pq.ParquetFile, columns: list[str], share: Share) -> Iterator[tuple[int, Record]]:
    number = 0
    for group in range(table.num_row_groups):
        if share.has(group * BLOCK):
            batches = table.iter_batches(batch_size=32, row_groups=[group], columns=columns)
            rows = (row(batch, index) for batch in batches for index in range(len(batch)))
            yield from enumerate(rows, number + 1)
        number += table.metadata.row_group(group).num_rows


def read_dataset(name: str, keys: Mapping[str, str], max_bytes: int) -> Iterator[Document | Refused]:
    """`NAME_OR_PATH`, `…:SPLIT` or `…:CONFIG:SPLIT`: a name of the hub, a folder, or what `save_to_disk` saved."""
    place, label = f"datasets:{name}", Path(name).name
    count = 0
    for item in from_records(enumerate(rows(name, keys), 1), place, label, keys, max_bytes):
        count += 1
        yield item
    if count == 0:
        yield Refused(place, "empty data set")


Reader = Callable[[Path, str, Mapping[str, str], int, Share], Iterator[Document | Refused]]
READERS: dict[str, Reader] = {".txt": read_text, ".jsonl": read_jsonl, ".parquet": read_parquet}


# Records


def from_records(
    records: Iterable[tuple[int, Record]], place: str, name: str, keys: Mapping[str, str], max_bytes: int
) -> Iterator[Document | Refused]:
    """Numbered records to documents. Raises ValueError at the end if none had `text`, or a field named in `keys`."""
    missing = required(keys)
    first, present = 0, list[str]()
    for number, record in records:
        if not isinstance(record, Refusal):
            if not first:
                first, present = number, list(record)
            missing -= record.keys()
        try:
            yield from_record(record, f"{name}#{number}", keys, max_bytes)
        except Refusal as refusal:
            yield Refused(f"{place}:{number}", str(refusal))
    if first and missing:
        raise no_key(f"{place}:{first}", min(missing), present)


def from_record(record: Record, default_id: str, keys: Mapping[str, str], max_bytes: int) -> Document:
    if isinstance(record, Refusal):
        raise record
    identity, title, text = (record.get(keys.get(field, field)) for field in FIELDS)
    if keys.get("text", "text") not in record:
        raise Refusal("no text key")
    if not isinstance(text, str):
        raise Refusal("text is not a string")
    if not isinstance(title, str | None):
        raise Refusal("title is not a string")
    if not isinstance(identity, str | int | None):
        raise Refusal("id is not a string or a number")
    text, title, identity = (
        decode(value.encode("utf-8", "surrogatepass"), max_bytes)
        for value in (text, title or "", "" if identity is None else str(identity))
    )
    return document(tidy(identity) or default_id, tidy(title) or None, text)


FIELDS = ("id", "title", "text")


def required(keys: Mapping[str, str]) -> set[str]:
    return {keys.get("text", "text"), *keys.values()}


def no_key(where: str, key: str, present: Iterable[str]) -> ValueError:
    return ValueError(
        f"{where} has no key {key!r}, nor has any other record. It has: {', '.join(present) or 'none'}. "
        "Name the keys in corpus.keys, as in corpus.keys.text=body."
    )


def columns_of(names: Sequence[str], place: str, keys: Mapping[str, str]) -> list[str]:
    """The columns to read. Raises ValueError where one is missing, before anything is read."""
    if missing := required(keys) - set(names):
        raise no_key(place, min(missing), names)
    return [name for name in (keys.get(field, field) for field in FIELDS) if name in names]


def parse(line: bytes, max_bytes: int) -> Record:
    try:
        record = json.loads(decode(line, max_bytes))
    except Refusal as refusal:
        return refusal
    except (ValueError, RecursionError):
        return Refusal("not JSON")
    return record if isinstance(record, dict) else Refusal("not a JSON object")


def row(batch: RecordBatch, index: int) -> Record:
    try:
        return {name: column[index].as_py() for name, column in zip(batch.schema.names, batch.columns, strict=True)}
    except UnicodeDecodeError:
        return Refusal("invalid UTF-8")


def rows(name: str, keys: Mapping[str, str]) -> Iterator[Record]:
    """The rows of a data set, streamed. Raises ValueError where it cannot be had."""
    import datasets  # takes seconds, and only this source needs it

    path, *config, split = name.split(":") if ":" in name else (name, "")
    saved = Path(path).expanduser()
    try:
        if (saved / "dataset_dict.json").is_file():
            data = datasets.load_from_disk(saved / (split or "train"))
        elif (saved / "state.json").is_file():
            data = datasets.load_from_disk(saved)
            if split not in ("", str(data.split)):
                raise ValueError(f"it was saved as a single split, {data.split}")
        else:
            folder = str(saved) if saved.is_dir() else path
            data = datasets.load_dataset(folder, *config, split=split or "train", streaming=True)
        if data.column_names:
            data = data.select_columns(columns_of(data.column_names, f"datasets:{name}", keys))
        yield from data
    except (OSError, ValueError, ArrowException) as error:
        raise ValueError(f"corpus.sources: datasets:{name} cannot be read: {one_line(error)}") from None


# Text


def document(identity: str, title: str | None, text: str) -> Document:
    paragraphs = tuple(filter(None, map(tidy, text.splitlines())))
    if not paragraphs:
        raise Refusal("empty")
    return Document(identity, title, (Section(None, paragraphs),))


def tidy(line: str) -> str:
    """As written, but NFC, with single spaces and without control characters."""
    return " ".join(CONTROL.sub("", normalize("NFC", line)).split())


def decode(raw: bytes, max_bytes: int) -> str:
    if len(raw) > max_bytes:
        raise Refusal("too large")
    if b"\0" in raw:
        raise Refusal("NUL byte")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Refusal("invalid UTF-8") from None


# Bytes


def lines_of(path: Path, max_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Numbered lines without their ends; of one longer than max_bytes only enough bytes to tell that it is."""
    return ((number, line) for number, _, line in placed_lines(path, max_bytes))


def placed_lines(path: Path, max_bytes: int) -> Iterator[tuple[int, int, bytes]]:
    """As `lines_of`, each with the byte of the text at which it begins."""
    number, limit, pending, start, length = 0, max_bytes + len(BOM) + 1, b"", 0, 0
    with path.open("rb") as file:
        for chunk in CODECS.get(path.suffix.lower(), plain)(file):
            head, *rest = chunk.split(b"\n")
            pending += head[: limit - len(pending)]
            length += len(head)
            for part in rest:
                number += 1
                yield number, start, pending.removeprefix(BOM) if number == 1 else pending
                start += length + 1
                pending, length = part[:limit], len(part)
    if pending:
        yield number + 1, start, pending.removeprefix(BOM) if number == 0 else pending


def plain(file: BufferedIOBase) -> Iterator[bytes]:
    while chunk := file.read(1 << 16):
        yield chunk


def gunzip(file: BufferedIOBase) -> Iterator[bytes]:
    """Raises EOFError where the file is cut short."""
    yield from plain(GzipFile(fileobj=file))


def unzstd(file: BufferedIOBase) -> Iterator[bytes]:
    """All frames. zstandard's own reader takes a frame that is cut short for a whole one; here it is an EOFError."""
    frame = None
    while chunk := file.read(256):  # little, because zstd can expand it thirty thousand times
        while chunk:
            if frame is None or frame.eof:
                frame = zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(chunk)
            chunk = frame.unused_data
    if frame is None or not frame.eof:
        raise EOFError


CODECS: dict[str, Callable[[BufferedIOBase], Iterator[bytes]]] = {".gz": gunzip, ".zst": unzstd}
SUPPORTED = "folders and globs of .txt, .jsonl (both also .gz, .zst) and .parquet"
