"""A corpus as one HTML page: statistics, and a sample of the instances of every task, to be read offline.

The page is `page.html` with the data put in as JSON. It asks for nothing outside itself, and its
Content-Security-Policy forbids it to; whatever a document holds is text, never markup or script.
"""

import json
import re
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from corpus_tools.shards import read_manifest
from corpus_tools.show import Line, Picture, Pictures, Span
from corpus_tools.stats import collect

SAMPLE = 200
"""Instances of each task."""


def page(corpus: Path, tasks: Sequence[str] = (), count: int = SAMPLE, seed: int = 0) -> str:
    """The page of these tasks, by default of all; the same seed gives the same text.

    Raises ValueError where the corpus is not built or lacks a task.
    """
    found = collect(corpus)
    chosen = {task: Pictures(corpus, task) for task in tasks or read_manifest(corpus)["tasks"]}
    data = {
        **found,
        "seed": seed,
        "tasks": {
            task: {
                **found["tasks"][task],
                "guesses": pictures.guesses(),
                "legend": [[packed_span(span), meaning] for span, meaning in pictures.legend()],
                "sample": [packed(picture) for picture in pictures.sample(count, seed)],
            }
            for task, pictures in chosen.items()
        },
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")  # ends no script
    template = files("corpus_tools").joinpath("page.html").read_text("utf-8")
    for element in ("style", "script"):
        template = template.replace(f"@{element.upper()}-HASH@", digest(template, element))
    return template.replace("@DATA@", text)


def digest(template: str, element: str) -> str:
    """What a Content-Security-Policy allows one inline element by."""
    (content,) = re.findall(rf"<{element}>(.*?)</{element}>", template, re.DOTALL)
    return f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'"


def packed(picture: Picture) -> list[Any]:
    lines, ordered = ([packed_line(line) for line in lines] for lines in (picture.lines, picture.ordered))
    return [picture.number, picture.label, picture.meaning, lines, ordered, picture.shown]


def packed_line(line: Line) -> list[Any]:
    return [line.name, [packed_span(span) for span in line.spans], line.note]


def packed_span(span: Span) -> str | list[str]:
    return [span.text, " ".join(span.kinds), span.note] if span.kinds else span.text
