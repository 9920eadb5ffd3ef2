"""Instances and their labels in words, in the terminal: what a task really asks.

Readable without colours too: a ‹phrase›, an «entity»; [masked], [masked→shown] where knowledge masking shows a random
token, [masked=] where it shows the token itself; word+ where a token-level task has its second class. Capitals are
those of the original. Words that recur in another segment of their document are underlined.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text
from tokenizers import Tokenizer

from corpus_tools.config import CorpusConfig
from corpus_tools.shards import Instances, read_manifest
from corpus_tools.tokenizer import load_tokenizer, vocabulary
from pretrain.tasks import TASKS
from pretrain.tasks.spec import (
    CAPITALISED,
    ENTITY,
    LEVEL,
    PHRASE,
    RECURS,
    UNIT_START,
    WORD_START,
    Head,
    Settings,
    TaskSpec,
    Tokens,
    assemble,
)

BRACKETS = {PHRASE: ("‹", "›"), ENTITY: ("«", "»")}
NO_SPACE_BEFORE = set(".,;:!?)]}%'’”")
NO_SPACE_AFTER = set("([{'’“")


class Mark(NamedTuple):
    """What a token-level task predicts at a token."""

    label: int
    shown: int
    """The id that the encoder is shown."""


def show(corpus: Path, task: str, count: int = 3, seed: int = 0) -> RenderableType:
    """`count` train instances of a task as training meets them, chosen and drawn with `seed`."""
    manifest = read_manifest(corpus)
    if task not in manifest["tasks"]:
        raise ValueError(f"{corpus} has no task {task!r}. It has: {', '.join(manifest['tasks'])}.")
    spec, settings = TASKS[task], CorpusConfig(**manifest["config"]).settings()
    tokenizer = load_tokenizer(f"{corpus / 'tokenizer.json'}")
    instances = Instances(corpus, "train", task)
    chosen = np.random.default_rng(seed).choice(len(instances), min(count, len(instances)), replace=False)
    lines = [Text(f"{task}: {spec.summary}", "bold")]
    labels = spec.labels(settings) if spec.labels else ()
    if spec.head == Head.TOKEN:
        first, second = labels
        lines.append(Text(f"word+ {second}, word {first}, the rest has no label", "dim"))
    for index in sorted(chosen.tolist()):
        segments, label = instances[index]
        rng = np.random.default_rng([seed, index])
        if spec.draw is not None:
            segments, label = spec.draw(segments, label, rng, settings)
        lines += picture(spec, segments, labels[label] if labels else "", rng, settings, tokenizer)
    return Group(*lines, "")


def picture(
    spec: TaskSpec,
    segments: list[Tokens],
    label: str,
    rng: np.random.Generator,
    settings: Settings,
    tokenizer: Tokenizer,
) -> Iterator[Text]:
    """The label, then a line for every segment."""
    words = vocabulary(tokenizer)
    marks: dict[int, Mark] = {}
    if spec.target is not None:
        targets = spec.target(assemble(segments, words)[0], rng, words, settings)
        shown = targets.ids[targets.positions]
        marks = {
            place: Mark(*mark) for place, *mark in np.stack([targets.positions, targets.labels, shown], 1).tolist()
        }
    title = f"{len(marks)} labelled tokens" if spec.target else f"label: {label}"
    yield Text(f"\n{title}", "green")
    start = 1  # after [CLS]
    for letter, segment in zip("ABCDEF", segments, strict=False):
        line = Text(f"{letter}│", "dim")
        line.append_text(written(segment, {place - start: mark for place, mark in marks.items()}, spec, tokenizer))
        yield line
        start += len(segment.ids) + 1


def written(tokens: Tokens, marks: Mapping[int, Mark], spec: TaskSpec, tokenizer: Tokenizer) -> Text:
    """A segment with its annotations and the marks at its tokens."""
    text = Text(style="default not dim")
    prefix = tokenizer.model.continuing_subword_prefix
    pieces = [tokenizer.id_to_token(number) or "" for number in tokens.ids.tolist()]
    flags = tokens.annotations.tolist()
    unit = 0
    for place, (piece, flag) in enumerate(zip(pieces, flags, strict=True)):
        bare = piece.removeprefix(prefix) if len(piece) > len(prefix) else piece
        starts = flag & WORD_START or bare == piece
        starts_unit = flag & UNIT_START or flag & LEVEL != unit
        if unit in BRACKETS and starts_unit:
            text.append(BRACKETS[unit][1])
        if place and starts and spaced(pieces[place - 1], piece):
            text.append(" ")
        if starts_unit:
            unit = flag & LEVEL
            text.append(BRACKETS[unit][0] if unit in BRACKETS else "")
        if flag & CAPITALISED and flag & WORD_START:
            bare = bare[:1].upper() + bare[1:]
        mark = marks.get(place)
        style = "underline" if flag & RECURS else ""
        if mark is None:
            text.append(bare, f"{style} dim" if spec.head == Head.TOKEN else style)
        elif spec.head == Head.TOKEN:
            text.append(bare, style).append("+" if mark.label else "", "yellow")
        else:
            text.append(f"[{bare}{fate(mark, tokenizer)}]", "yellow")
    if unit in BRACKETS:
        text.append(BRACKETS[unit][1])
    return text


def fate(mark: Mark, tokenizer: Tokenizer) -> str:
    shown = tokenizer.id_to_token(mark.shown)
    return {mark.label: "=", tokenizer.token_to_id("[MASK]"): ""}.get(mark.shown, f"→{shown}")


def spaced(before: str, piece: str) -> bool:
    """Latin words are spaced, Chinese characters are not."""
    return before.isascii() and piece.isascii() and piece[0] not in NO_SPACE_BEFORE and before[-1] not in NO_SPACE_AFTER
