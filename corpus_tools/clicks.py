"""Click logs: what was clicked after a query says how well a title answers it (ERNIE 2.0 §4.2.3, IR relevance).

A log is TSV or CSV. Its header names the columns `query`, `title`, `shown` and `clicked`; the last two hold counts.

    0 strong    a title clicked after the query at least once
    1 weak      a title shown for the query and never clicked
    2 random    a title of another query, never shown for this one

0 is the best. The same query and title may stand in many rows, clicked in one and skipped in the next: rows are summed
up before anything is labelled, whatever the case in which they are written. A click without `shown` is a click.

That a title was skipped may only mean that nobody scrolled to it. Where only examined titles count (`examined_only`),
the log has a column `position` (1 is the top) as well. A result page is what one query showed in one `session`, a
column that may be there; without it, all rows of a query are one page. A skipped title was examined if on some page it
stood above a title that was clicked there. The other skipped ones are of no class: not weak, and, as they were shown,
never random.

The sum of a log is kept in memory while the corpus is built: every different text and every different pair, however
many rows they come from. That is some 200 bytes a pair where few titles repeat: 10 million pairs take 2 GB. Examined
titles take 80 bytes more for every page with a click, and the log is read twice.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from corpus_tools.document import Refused, hashed, reasons
from corpus_tools.readers import Refusal
from corpus_tools.tables import Form, Row, Spellings, read_rows, worded
from pretrain.tasks.ir_relevance import NAME, RANDOM, STRONG, WEAK
from pretrain.tasks.spec import Instance, Pool

COLUMNS = ("query", "title", "shown", "clicked")
FORM = Form("corpus.clicks", "a click log", (".tsv", ".csv"), {column: (column,) for column in COLUMNS})
PLACED = FORM._replace(
    what="a click log of examined titles (corpus.examined_only)",
    columns={**FORM.columns, "position": ("position",), "session": ("session",)},
    optional=frozenset({"session"}),
)
COUNT = re.compile(r"\s*[0-9]{1,18}\s*")
UNSEEN, SKIPPED, CLICKED = range(3)
MOST = 8
"""Instances of each class for one query: a few frequent ones must not fill the corpus."""
SUMMARY = "whether a title was clicked after a query, shown but not clicked, or never shown (labels from a click log)"
NEEDS = "a click log in which queries have both clicked and skipped titles, held-out queries included"


class Query(NamedTuple):
    text: str
    clicked: tuple[str, ...]
    """The titles that were clicked at least once, sorted."""
    skipped: tuple[str, ...]
    """The titles that were shown and never clicked, sorted."""
    unseen: tuple[str, ...] = ()
    """The titles that were shown, but perhaps never examined, sorted."""

    @property
    def id(self) -> str:
        """Decides, as the id of a document does, whether it is held out."""
        return self.text

    @property
    def size(self) -> int:
        """Bytes of text."""
        return sum(len(text.encode()) for text in (self.text, *self.clicked, *self.skipped, *self.unseen))


class ClickLog:
    """Every row is added to the titles of its query, or refused and counted."""

    def __init__(self, patterns: Sequence[str], max_bytes: int, examined_only: bool = False):
        """Raises ValueError where a file cannot be read or its header lacks a column."""
        self.found = 0
        self.refused: list[Refused] = []
        self.titles: dict[str, dict[str, int]] = {}
        """Of every query, the titles that were shown: UNSEEN, SKIPPED or CLICKED."""
        self.spellings = Spellings()
        self.examined_only = examined_only
        self.last: dict[int, int] = {}
        """Of every page, by its hash, the position of the last click."""
        form = PLACED if examined_only else FORM
        if examined_only:
            for _, row in read_rows(patterns, form, max_bytes):
                self.note_click(row)
        for where, row in read_rows(patterns, form, max_bytes):
            self.found += 1
            try:
                self.add(row)
            except Refusal as refusal:
                self.refused.append(Refused(where, str(refusal)))
        self.last.clear()

    def note_click(self, row: Row | Refusal) -> None:
        try:
            shown = checked(row)
            position = place(shown)
        except Refusal:
            return  # the second reading tells
        if int(shown["clicked"]):
            page = page_of(shown)
            self.last[page] = max(position, self.last.get(page, 0))

    def add(self, row: Row | Refusal) -> None:
        shown = checked(row)
        below = self.examined_only and place(shown) >= self.last.get(page_of(shown), 0)
        state = CLICKED if int(shown["clicked"]) else UNSEEN if below else SKIPPED
        query, title = (self.spellings.first(shown[name]) for name in ("query", "title"))
        titles = self.titles.setdefault(query, {})
        titles[title] = max(state, titles.get(title, UNSEEN))

    def items(self) -> Iterator[Query]:
        """In an order that does not follow the log, and puts unlike queries together."""
        for text in sorted(self.titles, key=hashed):
            titles = self.titles[text]
            of = [tuple(sorted(title for title in titles if titles[title] == state)) for state in range(3)]
            yield Query(text, of[CLICKED], of[SKIPPED], of[UNSEEN])

    def size(self) -> int:
        """Bytes of text in all queries."""
        return sum(len(text.encode()) for query, titles in self.titles.items() for text in (query, *titles))

    def counts(self) -> dict:
        """As the manifest tells them: rows, and what they add up to."""
        pairs = [state for titles in self.titles.values() for state in titles.values()]
        return {
            "in": self.found,
            "used": self.found - len(self.refused),
            "refused": reasons(self.refused),
            "queries": len(self.titles),
            "clicked": pairs.count(CLICKED),
            "skipped": pairs.count(SKIPPED),
            "unseen": pairs.count(UNSEEN),
        }


def checked(row: Row | Refusal) -> Row:
    """The row with its texts tidied. Raises Refusal where it cannot be used."""
    if isinstance(row, Refusal):
        raise row
    texts = {column: worded(row, column) for column in ("query", "title")}
    for column in ("shown", "clicked"):
        if not COUNT.fullmatch(row[column]):
            raise Refusal(f"{column} is not a count")
    if int(row["shown"]) == int(row["clicked"]) == 0:
        raise Refusal("neither shown nor clicked")
    return {**row, **texts}


def place(row: Row) -> int:
    if not COUNT.fullmatch(row["position"]) or int(row["position"]) == 0:
        raise Refusal("position is not 1 or more")
    return int(row["position"])


def page_of(row: Row) -> int:
    return hashed(f"{row['session'].strip()}\n{row['query'].casefold()}")


def label(queries: Sequence[Query], pool: Pool) -> Iterator[Instance]:
    """(query, title) and its class: for every query as many clicked as skipped titles, and as many random ones.

    So neither the query alone nor, because random titles are those of the other classes, the title alone tells the
    class. A query whose titles were all clicked, or all skipped, has no instance.
    """
    chosen = []
    for query in queries:
        number = min(len(query.clicked), len(query.skipped), MOST)
        rng = pool.rng(NAME, "click log", query.text)
        chosen.append((query, rng, rng.sample(query.clicked, number), rng.sample(query.skipped, number)))
    titles = [title for _, _, clicked, skipped in chosen for title in (*clicked, *skipped)]
    for query, rng, clicked, skipped in chosen:
        shown = {*query.clicked, *query.skipped, *query.unseen}
        if shown.issuperset(titles):
            continue
        for strong, weak in zip(clicked, skipped, strict=True):
            stranger = rng.choice(titles)
            while stranger in shown:
                stranger = rng.choice(titles)
            labels = {strong: STRONG, weak: WEAK, stranger: RANDOM}
            for title in rng.sample(list(labels), 3):
                yield Instance((query.text, title), labels[title])
