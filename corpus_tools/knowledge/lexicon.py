"""Lexicons: files of entries, one a line, of which the longest that stands in a text is a unit.

What follows a tab on a line is not read (a count, as in THUOCL, or a class). An entry is an entity, unless its file's
name begins with `phrases`. An entry in lower case is found in any case, one with a capital only as it is written.

An entry begins and ends with a word of the text, in Chinese too: 大学 does not stand in 北京大学. On gold entities that
is better than letting entries cut words of the segmenter, from any length on.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from glob import glob
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import ahocorasick
import numpy as np

from corpus_tools.atoms import Atoms
from corpus_tools.fragments import bounds_of
from corpus_tools.knowledge.english import FUNCTION_WORDS
from corpus_tools.knowledge.spans import Spans
from corpus_tools.readers import CODECS, Refusal, decode, lines_of, reading, tidy, visible_files
from pretrain.tasks.spec import ENTITY, PHRASE

LONGEST = 100
"""Characters of an entry."""
MOST_BYTES = 10_000
"""Of a line."""
SUFFIXES = (".txt", ".tsv")


class Lexicon(NamedTuple):
    entries: dict[str, int]
    """Every entry and its level."""
    refused: dict[str, int]
    """Reason and number of lines: lines that are not blank = entries + refused."""


def read_lexicons(sources: Sequence[str]) -> Lexicon:
    """The entries of files, folders and globs (.txt .tsv, .gz .zst). Of equal entries the first counts.

    Raises ValueError where a source does not exist, holds no such file or cannot be read, or there is no entry.
    """
    entries: dict[str, int] = {}
    refused: Counter[str] = Counter()
    for path in (path for source in sources for path in files_of(source)):
        level = PHRASE if path.name.startswith("phrases") else ENTITY
        with reading(path, lambda: f"{len(entries)} entries"):
            for _, line in lines_of(path, MOST_BYTES):
                try:
                    entry = entry_of(line)
                except Refusal as refusal:
                    refused[str(refusal)] += 1
                    continue
                if entry in entries:
                    refused["repeated"] += 1
                elif entry:
                    entries[entry] = level
    if not entries:
        raise ValueError(f"corpus.lexicons: there is no entry in {', '.join(sources)}; lines refused: {dict(refused)}")
    return Lexicon(entries, dict(sorted(refused.items())))


def entry_of(line: bytes) -> str:
    """Empty where the line is blank."""
    entry = tidy(decode(line, MOST_BYTES).partition("\t")[0])
    if not line.strip():
        return ""
    if not any(map(str.isalnum, entry)):
        raise Refusal("no word")
    if len(entry) == 1:
        raise Refusal("one character")
    if len(entry) > LONGEST:
        raise Refusal(f"more than {LONGEST} characters")
    if entry.lower() in FUNCTION_WORDS and not entry.isupper():
        raise Refusal("function word")
    return entry


def files_of(source: str) -> list[Path]:
    path = Path(source).expanduser()
    matches = [path] if path.exists() else sorted(map(Path, glob(str(path), recursive=True)))
    files = list(dict.fromkeys(file for match in matches for file in visible_files(match) if is_lexicon(file)))
    if not files:
        what = f"{source} holds no lexicon" if matches else f"{source} does not exist, and as a glob it matches nothing"
        raise ValueError(f"corpus.lexicons: {what}. Name files, folders or globs of .txt or .tsv (.gz, .zst).")
    return files


def is_lexicon(path: Path) -> bool:
    suffix = path.suffix.lower()
    return (Path(path.stem).suffix.lower() if suffix in CODECS else suffix) in SUFFIXES


def lowered(text: str) -> str:
    """In lower case, every character in its place: `İ` is the only one that would become two."""
    return text.replace("İ", "I").lower()


class Lexicons:
    """Entries in an Aho-Corasick automaton: one pass over a text, however many entries there are.

    It runs over bytes, because a node looks through its children one by one, and of hanzi it would have thousands.
    """

    def __init__(self, entries: Mapping[str, int]):
        levels: dict[str, int] = {}
        for entry, level in entries.items():
            levels.setdefault(lowered(entry), level)
        levels = dict(sorted(levels.items()))  # neighbours in the automaton lie side by side in memory
        keys = list(map(bytes_of, levels))
        self.automaton = ahocorasick.Automaton(ahocorasick.STORE_INTS)
        for number, key in enumerate(keys):
            self.automaton.add_word(key, number)
        self.automaton.make_automaton()
        self.lengths = np.array(list(map(len, keys)), np.int64)
        self.levels = np.array(list(levels.values()), np.uint8)
        self.any_case = np.array([key in entries for key in levels], bool)
        self.written = frozenset(entry for entry in entries if entry not in levels)

    def __call__(self, atoms: Atoms, free: np.ndarray) -> Spans:
        """Every entry that stands in the text."""
        text = lowered(atoms.text)
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        byte = bounds_of(1 + (codes > 0x7F) + (codes > 0x7FF) + (codes > 0xFFFF))  # where each character begins
        opens = np.flatnonzero(np.diff(atoms.word, prepend=-1))
        behind = np.append(opens, len(atoms.word))[1:]
        word_from, word_to = np.full((2, byte[-1] + 1), -1)  # by byte: the atom that opens a word, the one behind it
        word_from[byte[atoms.start[opens]]] = opens
        word_to[byte[atoms.stop[behind - 1]]] = behind

        hits = chain.from_iterable(self.automaton.iter(bytes_of(text)))
        last, number = np.fromiter(hits, np.int64).reshape(-1, 2).T
        first, stop = word_from[last + 1 - self.lengths[number]], word_to[last + 1]
        whole = (first >= 0) & (stop >= 0)
        first, stop, number = first[whole], stop[whole], number[whole]

        good = self.any_case[number]
        asked = np.flatnonzero(~good)
        places = zip(atoms.start[first[asked]].tolist(), atoms.stop[stop[asked] - 1].tolist(), strict=True)
        good[asked] = [atoms.text[a:b] in self.written for a, b in places]
        return Spans(first[good], stop[good], self.levels[number[good]])


def bytes_of(text: str) -> str:
    """A character for every byte of its UTF-8."""
    return text.encode().decode("latin-1")
