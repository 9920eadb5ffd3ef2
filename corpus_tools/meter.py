"""What a stage of a build has done so far: a live line in a terminal, else a plain line now and then."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

EVERY = 10.0
"""Seconds between plain lines."""


@contextmanager
def meter(stage: str, total: int, notify: Callable[[str], None]) -> Iterator[Callable[[int, int], None]]:
    """Yields advance(documents, bytes of text). `total`: all the bytes; documents may be unknown, 0."""
    console = Console(stderr=True)
    begin = told = monotonic()
    documents = size = 0
    columns = [TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as live:
        row = live.add_task(stage, total=total or None)

        def advance(more_documents: int, more_bytes: int) -> None:
            nonlocal documents, size, told
            documents += more_documents
            size += more_bytes
            spent = monotonic() - begin
            counted = f"{documents:,} documents  " if documents else ""
            line = f"{stage}  {counted}{size / 1e6:.1f} MB  {size / 1e6 / spent:.2f} MB/s"
            live.update(row, completed=size, description=line)
            if not console.is_terminal and monotonic() - told >= EVERY:
                told = monotonic()
                left = f"  left {clock(spent / size * (total - size))}" if total and size else ""
                notify(line + left)

        yield advance


def clock(seconds: float) -> str:
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes:02}:{seconds:02}"
