"""What is in a corpus, and what each task will see of it: from the manifest, and from the annotations of its shards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from corpus_tools.build import account, account_rows
from corpus_tools.labels import LABELLED, predicts
from corpus_tools.shards import SPLITS, map_tensors, read_manifest
from pretrain.tasks import TASKS, discourse_relation
from pretrain.tasks.spec import (
    BASIC,
    CAPITALISED,
    CASED,
    ENTITY,
    LEVEL,
    PHRASE,
    RECURRENCE_KNOWN,
    RECURS,
    UNIT_START,
    WORD_START,
)

SHOWN_LABELS = 5
BAR = 30
"""Columns of a bar that stands for all."""
EIGHTHS = ("", *"▏▎▍▌▋▊▉")
NOTE = """tokens, their mean number in an instance, and classes are those of train;
majority: validation accuracy of guessing the most frequent class of train"""
BYTES = np.arange(256)
"""Every annotation that a token may have."""
LEVELS = {"basic": BASIC, "phrase": PHRASE, "entity": ENTITY}


def collect(corpus: Path) -> dict[str, Any]:
    """All statistics as plain values, for JSON: what `stats` prints and the page shows. Shares are of 1.

    Raises ValueError where the corpus is not built. The annotations of all documents are read once, 1 byte a token.
    """
    manifest = read_manifest(corpus)
    files = [corpus / split / shard["file"] for split in SPLITS for shard in manifest["shards"][split]]
    flags, tokens = counted(corpus, manifest)
    counts = {name: manifest[name] for name in ("documents", *LABELLED) if name in manifest}
    return {
        "corpus": manifest["config"]["name"],
        "language": manifest["config"]["language"],
        **counts,
        "refused_share": {
            name: {reason: ratio(refused, rows["in"]) for reason, refused in rows["refused"].items()}
            for name, rows in counts.items()
        },
        "tokens": manifest["tokens"],
        "bytes": {"text": manifest["bytes"], "shards": sum(file.stat().st_size for file in files)},
        "shards": len(files),
        "tokenizer": manifest["tokenizer"],
        "text": text_statistics(flags["train"]),
        "discourse": markers(manifest),
        "tasks": {task: task_statistics(task, manifest, tokens) for task in manifest["tasks"]},
    }


def counted(corpus: Path, manifest: dict) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """How often every annotation, (256,), and every maskable token, (vocabulary,), stands in the documents' text."""
    size = manifest["tokenizer"]["vocab_size"]
    flags = {split: np.zeros(256, np.int64) for split in SPLITS}
    tokens = {split: np.zeros(size, np.int64) for split in SPLITS}
    for split in SPLITS:
        for shard in manifest["shards"][split]:
            if shard["documents"]:  # else it holds labelled rows
                tensors = map_tensors((corpus / split / shard["file"]).absolute(), shard["sha256"])
                text = slice(shard["tokens"])  # behind it stands what tasks repeat
                ids, annotations = tensors["ids"][text], tensors["annotations"][text]
                flags[split] += np.bincount(annotations, minlength=256)
                tokens[split] += np.bincount(ids[(annotations & LEVEL) > 0], minlength=size)
    return flags, tokens


def text_statistics(flags: np.ndarray) -> dict[str, Any]:
    """Case, recurrence and units of the train text."""

    def words(*having: int) -> int:
        """Those that have all of these flags."""
        return int(flags[np.logical_and.reduce([BYTES & flag for flag in (WORD_START, *having)])].sum())

    levels = {}
    for name, level in LEVELS.items():
        here = level == (BYTES & LEVEL)
        units = flags[here & ((BYTES & UNIT_START) > 0)].sum()
        levels[name] = {
            "share_of_tokens": ratio(flags[here].sum(), flags.sum()),
            "units": int(units),
            "mean_tokens": ratio(flags[here].sum(), units),
        }
    return {
        "words": words(),
        "words_with_case": words(CASED),
        "capitalised": ratio(words(CASED, CAPITALISED), words(CASED)),
        "recurring": ratio(words(RECURRENCE_KNOWN, RECURS), words(RECURRENCE_KNOWN)),
        "units": levels,
        "never_masked": ratio(flags[(BYTES & LEVEL) == 0].sum(), flags.sum()),
    }


def markers(manifest: dict) -> dict[str, Any] | None:
    """The share of pairs without a marker, and the markers of the others, most frequent first."""
    row = manifest["tasks"].get(discourse_relation.NAME)
    if row is None or row["labels_from"] != "markers":
        return None
    counts = row["label_counts"]["train"]
    found = {row["labels"][label]: counts[label] for label in ranked(counts) if counts[label]}
    without = found.pop(row["labels"][discourse_relation.NO_MARKER], 0)
    return {"without": ratio(without, sum(counts)), "markers": found}


def task_statistics(task: str, manifest: dict, tokens: dict[str, np.ndarray]) -> dict[str, Any]:
    """A row of the manifest, and what follows from it."""
    row, spec = manifest["tasks"][task], TASKS[task]
    counts = {split: np.asarray(row["label_counts"][split]) for split in SPLITS} if row["label_counts"] else tokens
    majority = int(counts["train"].argmax())
    return {
        "family": spec.family.value,
        "head": spec.head.value,
        "predicts": predicts(spec, manifest),
        "labels_from": row.get("labels_from"),
        "labels": row["labels"],
        "instances": {split: row[split] for split in SPLITS},
        "tokens": row["tokens"],
        "mean_length": ratio(row["tokens"]["train"], row["train"]),
        "label_counts": row["label_counts"],
        "majority": {
            "label": row["labels"][majority] if row["labels"] else None,
            "accuracy": {split: ratio(counts[split][majority], counts[split].sum()) for split in SPLITS},
        },
    }


def ratio(part: float, whole: float) -> float | None:
    """None where there is nothing."""
    return round(float(part) / float(whole), 6) if whole else None


def ranked(counts: Sequence[int]) -> list[int]:
    """The classes, the most frequent first."""
    return sorted(range(len(counts)), key=lambda label: -counts[label])


def stats(corpus: Path) -> RenderableType:
    found = collect(corpus)
    tokens, size, tokenizer = found["tokens"], found["bytes"], found["tokenizer"]
    lines = [
        f"{corpus}: {tokens['train']:,} train and {tokens['validation']:,} validation tokens",
        f"{decimal(size['text'])} of text in {found['shards']} shards of {decimal(size['shards'])}: "
        f"{size['shards'] / max(1, sum(tokens.values())):.2f} bytes a token",
        f"tokenizer: {tokenizer['vocab_size']:,} pieces, {'uncased' if tokenizer['uncased'] else 'cased'}",
        account(found["documents"]),
        *(account_rows(name, found[name]) for name in LABELLED if name in found),
    ]
    parts: list[RenderableType] = ["\n".join(lines)]
    for name, reasons in found["refused_share"].items():
        if reasons:
            parts += ["", refused_table(name, found[name]["refused"], reasons)]
    parts += ["", text_table(found), "", task_table(found["tasks"]), Text(NOTE, "dim")]
    for task, row in found["tasks"].items():
        parts += ["", Text(f"{task}: ", "bold").append(row["predicts"], "not bold"), label_table(row)]
    return Group(*parts)


def refused_table(name: str, counts: dict[str, int], shares: dict[str, float]) -> Table:
    table = Table("refused for", box=None, pad_edge=False)
    for head in (name if name == "documents" else f"rows of {name}", "share"):
        table.add_column(head, justify="right")
    for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        table.add_row(reason, f"{count:,}", percent(shares[reason]))
    return table


def text_table(found: dict) -> Table:
    """One line for every kind of label that lies in the text."""
    text, discourse = found["text"], found["discourse"]
    table = Table(box=None, pad_edge=False)
    table.add_column("train text", no_wrap=True)
    table.add_column(overflow="fold")
    if text["capitalised"] is not None:
        cased = f"{text['words_with_case']:,} words that have case"
        table.add_row("case", f"{percent(text['capitalised'])} of the {cased} are capitalised")
    if text["recurring"] is not None:
        table.add_row("recurrence", f"{percent(text['recurring'])} of the words recur in another segment")
    units = [
        f"{name} {percent(unit['share_of_tokens'])} (of {unit['mean_tokens']:.2f} tokens)"
        for name, unit in text["units"].items()
        if unit["units"]
    ]
    table.add_row("units", f"{', '.join(units)}, never masked {percent(text['never_masked'])}")
    if discourse:
        common = ", ".join(f"{marker} {count:,}" for marker, count in list(discourse["markers"].items())[:SHOWN_LABELS])
        table.add_row("discourse", f"{percent(discourse['without'])} of the pairs kept have no marker; {common}")
    return table


def task_table(tasks: dict[str, dict]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("task", "train", "validation", "tokens", "length", "classes", "majority"):
        table.add_column(name, justify="left" if name == "task" else "right", no_wrap=True)
    for task, row in tasks.items():
        classes = f"{np.count_nonzero(row['label_counts']['train']):,}" if row["labels"] else "–"
        table.add_row(
            task,
            *(f"{row['instances'][split]:,}" for split in SPLITS),
            compact(row["tokens"]["train"]),
            f"{row['mean_length']:.0f}",
            classes,
            percent(row["majority"]["accuracy"]["validation"]),
        )
    return table


def label_table(row: dict) -> RenderableType:
    """The shares of the most frequent classes, in train with bars and in validation."""
    if row["labels"] is None:
        return Text("  classes: the vocabulary", "dim")
    counts = row["label_counts"]
    found = [label for label in ranked(counts["train"]) if counts["train"][label]]
    shown = found if len(found) <= SHOWN_LABELS + 1 else found[:SHOWN_LABELS]
    groups = [(row["labels"][label], [label]) for label in shown]
    if rest := found[len(shown) :]:
        groups.append((f"and {len(rest)} more", rest))
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("  class", min_width=21, max_width=26, overflow="fold")
    table.add_column(width=BAR, no_wrap=True)
    for split in SPLITS:
        table.add_column(split, justify="right", no_wrap=True)
    for name, labels in groups:
        train, validation = (ratio(sum(counts[s][label] for label in labels), sum(counts[s])) for s in SPLITS)
        table.add_row(f"  {name}", bar(train or 0), percent(train), percent(validation))
    return table


def bar(share: float) -> Text:
    whole, part = divmod(round(share * BAR * 8), 8)
    return Text(f"{'█' * whole}{EIGHTHS[part]}", "cyan")


def percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def compact(number: int) -> str:
    """528 k, 2.5 M."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if (value := number / size) >= 0.9995:
            return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"
    return f"{number}"
