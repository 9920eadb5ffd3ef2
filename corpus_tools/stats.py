"""What is in a corpus, from its manifest: instances, tokens and labels of every task, and what was refused."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.table import Table

from corpus_tools.build import account, account_rows
from corpus_tools.labels import LABELLED, predicts
from corpus_tools.shards import SPLITS, read_manifest
from pretrain.tasks import TASKS, ir_relevance

SHOWN_LABELS = 3


def stats(corpus: Path) -> RenderableType:
    manifest = read_manifest(corpus)
    documents, tokens = manifest["documents"], manifest["tokens"]
    files = [corpus / split / shard["file"] for split in SPLITS for shard in manifest["shards"][split]]
    disk = sum(file.stat().st_size for file in files)
    tokenizer = manifest["tokenizer"]
    lines = [
        f"{corpus}: {tokens['train']:,} train and {tokens['validation']:,} validation tokens",
        f"{decimal(manifest['bytes'])} of text in {len(files)} shards of "
        f"{decimal(disk)}: {disk / sum(tokens.values()):.2f} bytes a token",
        f"tokenizer: {tokenizer['vocab_size']:,} pieces, {'uncased' if tokenizer['uncased'] else 'cased'}",
        account(documents),
    ]
    lines += [account_rows(name, manifest[name]) for name in LABELLED if name in manifest]
    parts: list[RenderableType] = ["\n".join(lines)]
    if documents["refused"]:
        table = Table("refused for", "documents", box=None, pad_edge=False)
        table.columns[1].justify = "right"
        for reason, count in sorted(documents["refused"].items(), key=lambda item: (-item[1], item[0])):
            table.add_row(reason, f"{count:,}")
        parts.append(table)
    parts += ["", task_table(manifest), "", label_table(manifest)]
    if ir_relevance.NAME in manifest["tasks"]:
        parts.append(f"\n{ir_relevance.NAME}: {predicts(TASKS[ir_relevance.NAME], manifest)}")
    return Group(*parts)


def task_table(manifest: dict) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("task", no_wrap=True)
    for name in ("train", "validation", "train tokens", "mean length"):
        table.add_column(name, justify="right", no_wrap=True)
    for task, row in manifest["tasks"].items():
        tokens = row["tokens"]["train"]
        table.add_row(task, *(f"{row[split]:,}" for split in SPLITS), f"{tokens:,}", f"{tokens / row['train']:.0f}")
    return table


def label_table(manifest: dict) -> Table:
    table = Table("task", "most frequent labels in train", box=None, pad_edge=False)
    for task, row in manifest["tasks"].items():
        counts = row["label_counts"]
        table.add_row(task, ", ".join(frequent(row["labels"], counts["train"])) if counts else "the vocabulary")
    return table


def frequent(labels: Sequence[str], counts: Sequence[int]) -> Iterator[str]:
    ranked = sorted(range(len(counts)), key=lambda label: -counts[label])
    for label in ranked[:SHOWN_LABELS]:
        yield f"{labels[label]} ({counts[label] / sum(counts):.0%})"
    if rest := sum(counts[label] > 0 for label in ranked[SHOWN_LABELS:]):
        yield f"and {rest} more"
