"""Instances and their labels in words: what a task really asks.

`Pictures` turns an instance into a `Picture`, spans of text with classes and notes. Two renderers read it: `show` here,
for the terminal, and `corpus_tools.page`. The terminal needs no colours: a phrase is ‹so›, an entity «so», a basic unit
{so} where no spaces tell; [so] is masked, [so→that] shown as a random token, [so=] shown as it is; word+ has the second
class of a token-level task, 词- the first, where no space ends it, and {however} is a marker that was removed.

A corpus keeps tokens, not text, so a little is guessed: spaces, and that a capital is the first letter alone.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.box import MINIMAL
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from corpus_tools.config import settings_of
from corpus_tools.labels import predicts
from corpus_tools.shards import Instances, read_manifest
from corpus_tools.tokenizer import load_tokenizer, vocabulary
from pretrain.tasks import TASKS, discourse_relation, ir_relevance, sentence_distance, sentence_reordering
from pretrain.tasks.spec import (
    BASIC,
    CAPITALISED,
    ENTITY,
    LEVEL,
    PHRASE,
    UNIT_START,
    WORD_START,
    Head,
    Tokens,
    assemble,
)

LEVELS = {BASIC: "basic", PHRASE: "phrase", ENTITY: "entity"}
BRACKETS = {"phrase": ("‹", "›"), "entity": ("«", "»"), "removed": ("{", "}"), "relation": ("── ", " ──")}
FATES = {"masked": "", "replaced": "→", "kept": "="}
STYLES = {
    "phrase": "cyan",
    "entity": "magenta",
    "masked": "bold yellow",
    "replaced": "bold red",
    "kept": "bold green",
    "class1": "bold yellow",
    "unlabelled": "dim",
    "removed": "bold yellow",
    "relation": "bold yellow",
}
"""What stands later wins."""
NARROW = 80
"""Columns that the legend may take."""
GAP = 3
SEGMENT_STYLES = ("cyan", "magenta", "green", "yellow", "blue", "red")
PARTS = {
    sentence_distance.NAME: ("first", "second"),
    discourse_relation.NAME: ("before", "after"),
    ir_relevance.NAME: ("query", "passage"),
}
"""What the segments of a task are; else they have letters."""
MEANINGS = {
    (sentence_distance.NAME, ""): (
        "the second span follows the first at once",
        "the second span stands later in the same document",
        "the second span is of another document",
    ),
    (ir_relevance.NAME, "pseudo"): (
        "the passage is of the section that the title names",
        "the passage is of another document that matches the title",
        "the passage is of a document that does not match the title",
    ),
    (ir_relevance.NAME, "clicks"): (
        "the title was clicked after this query",
        "the title was shown for this query and never clicked",
        "the title was never shown for this query",
    ),
    (ir_relevance.NAME, "grades"): ("grade 2, very relevant", "grade 1, somewhat relevant", "grade 0, not relevant"),
}
"""Per task, and where its labels come from: the classes in more words."""
NO_SPACE_BEFORE = set(".,;:!?)]}%'’”-–—/")
NO_SPACE_AFTER = set("([{‘“$£-–—/")
GLUED = re.compile(r"\d+ \. \d+|\d{1,3} , \d{3}|[^\W\d] \. [^\W\d]|.* ['’] (?:s|t|re|ve|ll|d|m)")
"""Three of them without a space: 3.5, 1,000, U.S., Anna's."""
FIRST_HANZI = "\u2e80"
"""From here on, characters stand without spaces."""


class Span(NamedTuple):
    text: str
    kinds: tuple[str, ...] = ()
    """A level (basic, phrase, entity); what is shown of a masked unit (masked, replaced, kept); class0, class1 … or
    unlabelled; removed, a marker; relation, what joins two texts."""
    note: str = ""
    """What the encoder is shown, where that is something else."""


class Line(NamedTuple):
    name: str
    spans: tuple[Span, ...]
    note: str = ""


class Picture(NamedTuple):
    """An instance as a person reads it."""

    number: int
    """Its place among the train instances."""
    label: str
    meaning: str
    """The label in more words."""
    lines: tuple[Line, ...]
    ordered: tuple[Line, ...]
    """The segments in the right order, where they are shuffled."""
    shown: str
    """The tokens that the encoder is shown, with [CLS] and [SEP]."""


class Mark(NamedTuple):
    """What a token-level task predicts at a token."""

    label: int
    shown: int
    """The id that the encoder is shown."""


class Pictures:
    """The train instances of one task, as training meets them."""

    def __init__(self, corpus: Path, task: str):
        """Raises ValueError where the corpus is not built or lacks the task."""
        self.manifest = manifest = read_manifest(corpus)
        if task not in manifest["tasks"]:
            raise ValueError(f"{corpus} has no task {task!r}. It has: {', '.join(manifest['tasks'])}.")
        row = manifest["tasks"][task]
        self.spec, self.settings = TASKS[task], settings_of(manifest)
        self.labels: list[str] = row["labels"] or []
        self.origin: str = row.get("labels_from", "")
        self.summary = predicts(self.spec, manifest)
        self.tokenizer = load_tokenizer(f"{corpus / 'tokenizer.json'}")
        self.words = vocabulary(self.tokenizer)
        self.instances = Instances(corpus, "train", task)

    def sample(self, count: int, seed: int) -> list[Picture]:
        """`count` instances, or all where they are fewer, chosen and drawn with `seed`, in random order."""
        number = len(self.instances)
        chosen = np.random.default_rng(seed).choice(number, min(count, number), replace=False)
        return [self.picture(index, seed) for index in chosen.tolist()]

    def picture(self, index: int, seed: int) -> Picture:
        segments, label = self.instances[index]
        rng = np.random.default_rng([seed, index])
        if self.spec.draw is not None:
            segments, label = self.spec.draw(segments, label, rng, self.settings)
        ids = assemble(segments, self.words)[0].ids
        marks: dict[int, Mark] = {}
        if self.spec.target is not None:
            targets = self.spec.target(assemble(segments, self.words)[0], rng, self.words, self.settings)
            ids = targets.ids
            found = zip(
                targets.positions.tolist(), targets.labels.tolist(), ids[targets.positions].tolist(), strict=True
            )
            marks = {place: Mark(label, shown) for place, label, shown in found}
        written = []
        start = 1  # after [CLS]
        for segment in segments:
            stop = start + len(segment.ids)
            here = {place - start: mark for place, mark in marks.items() if start <= place < stop}
            written.append(tuple(self.spans(segment, here)))
            start = stop + 1
        shown = self.sequence(ids)
        if self.spec.target is not None:
            return Picture(index, self.counted(marks, segments), "", tuple(self.lines(written)), (), shown)
        lines, name = tuple(self.lines(written, label)), self.labels[label]
        if self.spec.name == sentence_reordering.SPEC.name:
            lines, ordered = reordered(lines, sentence_reordering.ORDERS[label])
            meaning = f"right order: {' '.join(line.note for line in ordered)}"
            return Picture(index, name, meaning, lines, ordered, shown)
        meanings = MEANINGS.get((self.spec.name, self.origin))
        return Picture(index, name, meanings[label] if meanings else "", lines, (), shown)

    def counted(self, marks: Mapping[int, Mark], segments: Sequence[Tokens]) -> str:
        """How much a token-level task predicts."""
        if self.spec.head == Head.MASKED_LM:
            return f"{len(marks)} of {sum(len(segment.ids) for segment in segments)} tokens"
        counts = Counter(mark.label for mark in marks.values())
        return ", ".join(f"{counts[label]} × {name}" for label, name in enumerate(self.labels))

    def lines(self, written: Sequence[tuple[Span, ...]], label: int = 0) -> Iterator[Line]:
        """The segments with their names, and what joined them where that is the label."""
        names: Sequence[str] = PARTS.get(self.spec.name, "ABCDEF")
        if self.spec.name == ir_relevance.NAME and self.origin != "pseudo":
            names = ("query", "title")
        if self.spec.target is not None and len(written) == 1:
            names = ("text",)
        for number, (name, spans) in enumerate(zip(names, written, strict=False)):
            if number == 1 and self.spec.name == discourse_relation.NAME:
                if self.origin == "relations":
                    yield Line("", (Span(self.labels[label], ("relation",)),))
                elif label != discourse_relation.NO_MARKER:
                    spans = (Span(self.labels[label], ("removed",)), Span(" "), *spans)
            if number == 1 and self.spec.name == sentence_distance.NAME:
                yield Line("", (Span(self.labels[label], ("relation",)),))
            yield Line(name, spans)

    def spans(self, tokens: Tokens, marks: Mapping[int, Mark]) -> Iterator[Span]:
        """A segment with its capitals and the marks at its tokens: by units, or by words, where these are predicted."""
        texts = self.texts(tokens)
        begins = np.flatnonzero(self.begins(tokens.annotations, marks)).tolist()
        plain = ""
        for first, stop in pairwise([*begins, len(texts)]):
            space, text = texts[first]
            text += "".join(gap + piece for gap, piece in texts[first + 1 : stop])
            here = [marks[place] for place in range(first, stop) if place in marks]
            kinds, note = self.kinds(tokens, first, stop, here)
            plain += space
            if kinds:
                if plain:
                    yield Span(plain)
                yield Span(text, kinds, note)
                plain = ""
            else:
                plain += text
        if plain:
            yield Span(plain)

    def begins(self, flags: np.ndarray, marks: Mapping[int, Mark]) -> np.ndarray:
        """Where a span begins."""
        begins = np.zeros(len(flags), bool)
        begins[:1] = True
        level = flags & LEVEL
        if self.spec.head == Head.MASKED_LM:
            marked = np.isin(np.arange(len(flags)), list(marks))
            begins[1:] |= (level[1:] != level[:-1]) | (marked[1:] != marked[:-1])
            begins |= (flags & UNIT_START) > 0
        elif self.spec.head == Head.TOKEN:
            begins |= ((flags & WORD_START) > 0) | (level == 0)
        return begins

    def kinds(self, tokens: Tokens, first: int, stop: int, marks: Sequence[Mark]) -> tuple[tuple[str, ...], str]:
        """What a span is, and what the encoder is shown for it."""
        if self.spec.head == Head.TOKEN:
            return (f"class{marks[0].label}" if marks else "unlabelled",), ""
        if self.spec.head != Head.MASKED_LM:
            return (), ""
        level = int(tokens.annotations[first]) & LEVEL
        kinds = (LEVELS[level],) if level else ()
        if not marks:
            return kinds, ""
        shown = [mark.shown for mark in marks]
        if shown == [mark.label for mark in marks]:
            return (*kinds, "kept"), ""
        fate = "masked" if set(shown) == {self.words.mask} else "replaced"
        return (*kinds, fate), self.sequence(shown)

    def texts(self, tokens: Tokens) -> list[tuple[str, str]]:
        """Every token as it is read, and the space before it."""
        prefix = self.tokenizer.model.continuing_subword_prefix
        pieces = [self.tokenizer.id_to_token(number) or "" for number in tokens.ids.tolist()]
        bare = [piece.removeprefix(prefix) if len(piece) > len(prefix) else piece for piece in pieces]
        heads = [place for place, piece in enumerate(pieces) if place == 0 or bare[place] == piece]
        words = ["".join(bare[a:b]) for a, b in pairwise([*heads, len(pieces)])]
        spaces = [""] * len(pieces)
        quoted = False
        for number, (place, word) in enumerate(zip(heads, words, strict=True)):
            if number and spaced(words[max(0, number - 2) : number + 1], quoted):
                spaces[place] = " "
            quoted ^= word == '"'
        capital = tokens.annotations & (CAPITALISED | WORD_START) == CAPITALISED | WORD_START
        for place in np.flatnonzero(capital).tolist():
            bare[place] = bare[place][:1].upper() + bare[place][1:]
        return list(zip(spaces, bare, strict=True))

    def sequence(self, ids: np.ndarray | Sequence[int]) -> str:
        """Tokens as the vocabulary spells them, apart but for hanzi."""
        pieces = [self.tokenizer.id_to_token(int(number)) or "" for number in ids]
        text = "".join(pieces[:1])
        for before, piece in pairwise(pieces):
            text += piece if min(before[-1:], piece[:1]) >= FIRST_HANZI else f" {piece}"
        return text

    def legend(self) -> Iterator[tuple[Span, str]]:
        """An example of every kind of span that the task has, and what it means."""
        chinese = self.settings.language == "zh"
        word = "词" if chinese else "word"
        if self.spec.head == Head.MASKED_LM:
            for level in LEVELS.values():
                yield Span("单元" if chinese else "unit", (level,)), level
            yield Span(word, ("masked",), "[MASK]"), "predicted; every token shown as [MASK]"
            yield Span(word, ("replaced",), "乙" if chinese else "other"), "predicted; shown as a random token"
            yield Span(word, ("kept",)), "predicted; shown as it is"
        elif self.spec.head == Head.TOKEN:
            for label, name in enumerate(self.labels):
                yield Span(word, (f"class{label}",)), name
            yield Span(word, ("unlabelled",)), "no label"
        elif self.origin == "markers":
            chosen = "但是" if chinese else "however"
            yield Span(chosen, ("removed",)), "the label: a marker that stood here, and is not shown to the encoder"
        elif self.spec.name == discourse_relation.NAME:
            yield Span("relation", ("relation",)), "the label: how the two texts are joined"

    def guesses(self) -> str:
        """What the corpus does not know."""
        if self.settings.language == "zh":
            return "Guessed: spaces between Latin words."
        if self.manifest["tokenizer"]["uncased"]:
            return "Guessed: spaces, and that a capital is the first letter alone (NASA is shown as Nasa)."
        return "Guessed: spaces."


def reordered(lines: Sequence[Line], order: Sequence[int]) -> tuple[tuple[Line, ...], tuple[Line, ...]]:
    """Shuffled segments with their places in the text, and the segments as they stand in it."""
    placed = [line._replace(note=f"{place + 1}") for line, place in zip(lines, order, strict=True)]
    by_place = sorted(placed, key=lambda line: int(line.note))
    return tuple(placed), tuple(Line(line.note, line.spans, line.name) for line in by_place)


def spaced(pieces: Sequence[str], quoted: bool) -> bool:
    """Is there a space before the last of these words? The corpus does not know; this is how one mostly writes.

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


def show(corpus: Path, task: str, count: int = 3, seed: int = 0) -> RenderableType:
    """`count` train instances of a task, for the terminal."""
    pictures = Pictures(corpus, task)
    head = Text(f"{task}: ", "bold").append(pictures.summary)
    parts: list[RenderableType] = [head, *legend(pictures), ""]
    for picture in pictures.sample(count, seed):
        masked = pictures.spec.head == Head.MASKED_LM
        parts += [title(picture, pictures.spec.target is not None), *tables(picture, masked), ""]
    return Group(*parts)


def legend(pictures: Pictures) -> Iterator[Text]:
    """As many entries in a line as fit."""
    line = Text(style="dim")
    for span, meaning in pictures.legend():
        entry = bracketed(span).append(f" {meaning}", "default")
        if line and line.cell_len + GAP + entry.cell_len > NARROW:
            yield line
            line = Text(style="dim")
        line.append(" " * GAP if line else "").append_text(entry)
    if line:
        yield line
    yield Text(pictures.guesses(), "dim")


def title(picture: Picture, tokens: bool) -> Text:
    text = Text(f"#{picture.number}  ", "dim")
    text.append(f"{'predicted' if tokens else 'label'}: {picture.label}", "bold green not dim")
    return text.append(f" – {picture.meaning}", "not dim") if picture.meaning else text


def tables(picture: Picture, masked: bool) -> Iterator[RenderableType]:
    """The segments under each other; shuffled ones beside the right order."""
    table = Table(box=MINIMAL, show_header=False, show_edge=False, pad_edge=False)
    if len(picture.ordered) > 1:
        table = Table(box=MINIMAL, show_edge=False, pad_edge=False)
        for name in ("", "shown", "", "in the text"):
            table.add_column(name, ratio=1 if name else None, overflow="fold", header_style="dim")
        styles = dict(zip((line.name for line in picture.lines), SEGMENT_STYLES, strict=False))
        for line, right in zip(picture.lines, picture.ordered, strict=True):
            table.add_row(
                Text(f"{line.name} ({line.note})", styles[line.name]),
                written(line),
                Text(f"{right.name} ({right.note})", styles[right.note]),
                written(right),
            )
    else:
        table.add_column(justify="right", style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for line in picture.lines:
            table.add_row(line.name, written(line))
        if masked:
            table.add_row("shown", Text(picture.shown, "dim"))
    yield table


def written(line: Line) -> Text:
    return Text("").join(map(bracketed, line.spans))


def bracketed(span: Span) -> Text:
    """A span that can be read without colours."""
    style = " ".join(dict.fromkeys(word for kind in span.kinds for word in STYLES.get(kind, "").split()))
    text = span.text
    for kind in span.kinds:
        if kind in BRACKETS:
            text = text.join(BRACKETS[kind])
        elif kind == "basic" and len(text) > 1 and text[0] >= FIRST_HANZI:
            text = f"{{{text}}}"
        elif kind.startswith("class"):
            alone = "-" if text[0] >= FIRST_HANZI else ""
            text += "+" * int(kind.removeprefix("class")) or alone
        elif kind in FATES:
            text = f"[{text}{FATES[kind]}{span.note if kind == 'replaced' else ''}]"
    return Text(text, style)
