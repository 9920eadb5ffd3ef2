"""Instances and their labels in words, in the terminal: what a task really asks.

Readable without colours too: [masked], [masked→shown] where knowledge masking shows a random token, [masked=] where it
shows the token itself, and the units that it masks whole, a ‹phrase› and an «entity»; word+ where a token-level task
has its second class. A word that began with a capital has one; spaces are guessed.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text
from tokenizers import Tokenizer

from corpus_tools.config import settings_of
from corpus_tools.labels import predicts
from corpus_tools.shards import Instances, read_manifest
from corpus_tools.tokenizer import load_tokenizer, vocabulary
from pretrain.tasks import TASKS
from pretrain.tasks.spec import (
    CAPITALISED,
    ENTITY,
    LEVEL,
    PHRASE,
    UNIT_START,
    WORD_START,
    Head,
    Settings,
    TaskSpec,
    Tokens,
    assemble,
)

BRACKETS = {PHRASE: ("‹", "›"), ENTITY: ("«", "»")}
NO_SPACE_BEFORE = set(".,;:!?)]}%'’”-–—/")
NO_SPACE_AFTER = set("([{‘“$£-–—/")
GLUED = re.compile(r"\d+ \. \d+|\d{1,3} , \d{3}|[^\W\d] \. [^\W\d]|.* ['’] (?:s|t|re|ve|ll|d|m)")
"""Three pieces without a space: 3.5, 1,000, U.S., Anna's."""
FIRST_HANZI = "\u2e80"
"""From here on, characters stand without spaces."""


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
    spec, settings = TASKS[task], settings_of(manifest)
    tokenizer = load_tokenizer(f"{corpus / 'tokenizer.json'}")
    instances = Instances(corpus, "train", task)
    chosen = np.random.default_rng(seed).choice(len(instances), min(count, len(instances)), replace=False)
    lines = [Text(f"{task}: {predicts(spec, manifest)}", "bold")]
    labels: list[str] = manifest["tasks"][task]["labels"] or []
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
    """A segment with its capitals and the marks at its tokens; with its units where these are what is masked."""
    text = Text(style="default not dim")
    prefix = tokenizer.model.continuing_subword_prefix
    pieces = [tokenizer.id_to_token(number) or "" for number in tokens.ids.tolist()]
    flags = tokens.annotations.tolist()
    unit, word_mark, quoted = 0, "", False
    for place, (piece, flag) in enumerate(zip(pieces, flags, strict=True)):
        bare = piece.removeprefix(prefix) if len(piece) > len(prefix) else piece
        if flag & WORD_START or not flag & LEVEL:
            text.append(word_mark, "yellow")
            word_mark = ""
        starts_unit = spec.head == Head.MASKED_LM and (flag & UNIT_START or flag & LEVEL != unit)
        if unit in BRACKETS and starts_unit:
            text.append(BRACKETS[unit][1])
        if place and bare == piece and spaced(pieces[max(0, place - 2) : place + 1], quoted):
            text.append(" ")
        quoted ^= piece == '"'
        if starts_unit:
            unit = flag & LEVEL
            text.append(BRACKETS[unit][0] if unit in BRACKETS else "")
        if flag & CAPITALISED and flag & WORD_START:
            bare = bare[:1].upper() + bare[1:]
        mark = marks.get(place)
        if spec.head == Head.TOKEN:
            text.append(bare, "" if mark or word_mark else "dim")
            word_mark = "+" if mark and mark.label else word_mark
        elif mark:
            text.append(f"[{bare}{fate(mark, tokenizer)}]", "yellow")
        else:
            text.append(bare)
    if unit in BRACKETS:
        text.append(BRACKETS[unit][1])
    return text.append(word_mark, "yellow")


def fate(mark: Mark, tokenizer: Tokenizer) -> str:
    shown = tokenizer.id_to_token(mark.shown)
    return {mark.label: "=", tokenizer.token_to_id("[MASK]"): ""}.get(mark.shown, f"→{shown}")


def spaced(pieces: Sequence[str], quoted: bool) -> bool:
    """Is there a space before the last of these pieces? The corpus does not know; this is how one mostly writes.

    `quoted`: a straight quotation mark is open.
    """
    *_, before, piece = pieces
    if max(before[-1], piece[0]) >= FIRST_HANZI or GLUED.fullmatch(" ".join(pieces)):
        return False
    if piece == '"':
        return not quoted and before[-1] not in NO_SPACE_AFTER
    if before == '"' and quoted:
        return False
    return piece[0] not in NO_SPACE_BEFORE and before[-1] not in NO_SPACE_AFTER
