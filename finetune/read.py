"""The rows of a task: TSV or CSV with a header, JSONL (any of them also .gz, .zst), or a data set of the hub.

A row that cannot be used is refused, with its place and the reason; rows = used + refused + left out by `limit`. What
the user has to mend raises a ValueError of one line: a missing file, column or class.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from corpus_tools.readers import CODECS, Refusal, decode, lines_of, one_line, parse, reading
from corpus_tools.tables import DELIMITERS, fields, plain_suffix
from finetune.declare import Hub, Split, Task
from pretrain.data.feed import spread

MAX_BYTES = 10_000_000
"""A longer line is refused."""
Record = Mapping[str, Any]


class Example(NamedTuple):
    """texts and label: single (text,), class; pair and similarity (a, b), class or score; tokens (token, …), tags;
    ranking (query, text, …), grades; minimal_pairs (good, bad), group."""

    texts: tuple[str, ...]
    label: Any


class Rows(NamedTuple):
    examples: list[Example]
    rows: int
    used: int
    refused: list[str]
    """`file:line: reason`, one a row."""

    def counts(self) -> dict[str, int]:
        left_out = self.rows - self.used - len(self.refused)
        return {"rows": self.rows, "used": self.used, "refused": len(self.refused), "left_out": left_out}


def read_split(name: str, task: Task, split: Split, data: Path | None, classes: Sequence[str] | None = None) -> Rows:
    """One split. Raises ValueError where it cannot be had, has another class, or no row that can be used."""
    columns = columns_of(task, data)
    total, refused, used = 0, list[str](), list[tuple[str, Example]]()
    where = ""
    for where, record in records(name, task, split, data):
        total += 1
        try:
            if isinstance(record, Refusal):
                raise record
            absent = [column for column in columns if column not in record]
            if absent and not used:
                raise ValueError(
                    f"{where} has no column {absent[0]!r}. It has: {', '.join(record)}. "
                    f"Mend the columns that {name} names."
                )
            if absent:
                raise Refusal(f"no {absent[0]}")
            item = example(task, record, columns)
            if classes and item.label not in classes:
                raise ValueError(
                    f"{where} has the class {item.label!r}. Known: {', '.join(classes)}. Mend it, or {name}.classes."
                )
            used.append((where, item))
        except Refusal as refusal:
            refused.append(f"{where}: {refusal}")
    if task.kind == "ranking":
        groups, undecided = by_query(used)
        refused += undecided
    else:
        groups = [(item, 1) for _, item in used]
    if not groups:
        reason = f" The first: {refused[0]}" if refused else " It is empty."
        raise ValueError(f"{name}: no row of {split} can be used.{reason}")
    limit: int | None = getattr(task.limit, split)
    kept = groups if limit is None else [groups[index] for index in spread(len(groups), limit)]
    return Rows([item for item, _ in kept], total, sum(size for _, size in kept), refused)


def columns_of(task: Task, data: Path | None) -> list[str]:
    """Names of the text columns, then of the label, or the group."""
    hub = task.hub if data is None else None
    text = (hub and hub.text) or task.text
    if task.kind == "minimal_pairs":
        group = (hub and hub.group) or task.group
        return [*text, *([group] if group else [])]
    return [*text, (hub and hub.label) or task.label]


def records(name: str, task: Task, split: Split, data: Path | None) -> Iterator[tuple[str, Record | Refusal]]:
    if data is not None:
        if task.files is None:
            raise ValueError(f"{name} declares no files. Add {name}.files, or leave out --data.")
        return from_file(data / getattr(task.files, split))
    if task.hub is None:
        raise ValueError(f"{name} declares files, below a folder that --data names. Give --data ROOT.")
    return from_hub(task.hub, getattr(task.hub, split), task)


def from_file(path: Path) -> Iterator[tuple[str, Record | Refusal]]:
    """`file:line` and what stands there; blank lines are no rows."""
    suffix = plain_suffix(path)
    if suffix != ".jsonl" and suffix not in DELIMITERS:
        raise ValueError(f"{path} is none of .tsv, .csv, .jsonl (also {', '.join(CODECS)})")
    if not path.is_file():
        raise ValueError(f"{path} does not exist. Mend `files`, or --data.")
    count, header = 0, list[str]()
    with reading(path, lambda: f"{count} rows"):
        for number, line in lines_of(path, MAX_BYTES):
            if not line.strip():
                continue
            row: Record | Refusal
            if suffix == ".jsonl":
                row = parse(line, MAX_BYTES)
            else:
                try:
                    cells = fields(decode(line, MAX_BYTES), DELIMITERS[suffix])
                    if not header:
                        header = [cell.strip() for cell in cells]
                        continue
                    if len(cells) != len(header):
                        raise Refusal("more or fewer fields than the header")
                    row = dict(zip(header, cells, strict=True))
                except Refusal as refusal:
                    row = refusal
            count += 1
            yield f"{path}:{number}", row


def from_hub(hub: Hub, split: str, task: Task) -> Iterator[tuple[str, Record]]:
    """Classes that the data set knows by number are numbers here, unless `classes` lists its names for them."""
    import datasets  # takes seconds, and only this source needs it

    place = ":".join(filter(None, (hub.dataset, hub.config, split)))
    try:
        found = datasets.load_dataset(hub.dataset, hub.config, split=split)
    except (OSError, ValueError) as error:
        raise ValueError(f"data set {place} cannot be had: {one_line(error)}. Or name files, and --data.") from None
    label = hub.label or task.label
    feature = found.features.get(label)
    named = isinstance(feature, datasets.ClassLabel) and set(feature.names) == set(task.classes or ())
    for number, row in enumerate(found, 1):
        if named and row[label] is not None and row[label] >= 0:
            row = row | {label: feature.int2str(row[label])}
        yield f"{place}:{number}", row


def example(task: Task, record: Record, columns: list[str]) -> Example:
    """Raises Refusal where a value cannot be used."""
    values = [record[column] for column in columns]
    if task.kind == "tokens":
        tokens = several(values[0], columns[0], characters=True)
        tags = several(values[1], columns[1], characters=False)
        if len(tokens) != len(tags):
            raise Refusal(f"{len(tokens)} tokens, {len(tags)} tags")
        bad = [tag for tag in tags if tag != "O" and tag[:2] not in ("B-", "I-")]
        if bad:
            raise Refusal(f"tag {bad[0]!r} is not O, B-… or I-…")
        return Example(tokens, tags)
    texts = tuple(text_of(value, column) for value, column in zip(values[: len(task.text)], columns, strict=False))
    if task.kind == "minimal_pairs":
        return Example(texts, str(values[2]) if len(values) > 2 else "")
    value = values[-1]
    if value is None or (isinstance(value, str) and not value.strip()):
        raise Refusal(f"no {columns[-1]}")
    if task.kind in ("single", "pair"):
        return Example(texts, str(value).strip())
    try:
        score = float(value)
    except (TypeError, ValueError):
        raise Refusal(f"{columns[-1]} {value!r} is no number") from None
    low, high = task.range or (0, math.inf)
    if not (low <= score <= high and math.isfinite(score)):
        raise Refusal(f"{columns[-1]} {score:g} is not from {low:g} to {high:g}")
    return Example(texts, score)


def text_of(value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise Refusal(f"{column} is not text")
    if not value.strip():
        raise Refusal(f"{column} is empty")
    return value.strip()


def several(value: Any, column: str, characters: bool) -> tuple[str, ...]:
    """A list, or a string: its characters, or its parts between white space."""
    if isinstance(value, str):
        value = list(value) if characters else value.split()
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise Refusal(f"{column} is neither text nor a list of texts, or empty")
    return tuple(value)


def by_query(used: list[tuple[str, Example]]) -> tuple[list[tuple[Example, int]], list[str]]:
    """Rows of one query as one example, with its number of rows, and the places of queries that rank nothing."""
    queries: dict[str, list[tuple[str, Example]]] = {}
    for item in used:
        queries.setdefault(item[1].texts[0], []).append(item)
    kept, refused = [], []
    for query, items in queries.items():
        grades = tuple(row.label for _, row in items)
        if min(grades) == max(grades):
            refused += [f"{where}: all texts of the query have one grade" for where, _ in items]
        else:
            kept.append((Example((query, *(row.texts[1] for _, row in items)), grades), len(items)))
    return kept, refused


def classes_of(name: str, task: Task, train: Rows) -> list[str]:
    """Of single and pair tasks as declared or found in train; of tokens the tags; of others none."""
    if task.kind in ("single", "pair"):
        classes = task.classes or sorted({item.label for item in train.examples})
        if len(classes) < 2:
            raise ValueError(f"{name}: train has the one class {classes[0]!r}. Mend {name}.label.")
        if task.metric == "f1" and len(classes) != 2:
            raise ValueError(f"{name}: f1 is for two classes, here are {len(classes)}. Set {name}.metric=macro_f1.")
        return classes
    if task.kind == "tokens":
        return ["O", *sorted({tag for item in train.examples for tag in item.label} - {"O"})]
    return []
