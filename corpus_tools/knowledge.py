"""Units: what knowledge masking masks at once (ERNIE 1.0, section 3.2: basic units, phrases, entities).

The paper's chunker and entity tagger were never named; here units come from what every machine has.
English: an entity is a run of capitalised words, or one that does not begin its sentence; a phrase is a chain of
collocations mined from the corpus; every other word is basic. Chinese: a word of two characters or more is an entity
where jieba's dictionary classes it as a name, else a phrase; single characters, numbers and latin words are basic.
Each word is in one unit: entity before phrase before basic.

Punctuation is in no unit (level 0, never masked), except inside an entity: `J. R. R. Tolkien`, `Jean-Luc Picard`.
Function words are never names: `The Hague` is the entity `Hague`, and a sentence's first word misleads less.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable
from functools import cache
from importlib.resources import files
from itertools import pairwise
from unicodedata import normalize

import numpy as np

from corpus_tools.atoms import Atoms
from pretrain.tasks.spec import BASIC, ENTITY, PHRASE

_FUNCTION = """
a about above across after afterwards again against all almost along already also although always am among an and
another any anyone are around as at away back be became because become been before behind being below beneath beside
besides between beyond both but by can cannot could did do does doing done down due during each either else even ever
every everyone everything except few finally first following for from further furthermore had has have having he hence
her here hers herself him himself his how however i if in indeed instead into is it its itself just last later least
less like ll many may me meanwhile might mine more moreover most much must my myself near neither never nevertheless
next no nobody none nor not nothing now of off often on once one only onto or other others otherwise our ours out over
own per perhaps quite rather re s same second several shall she should since so some someone something sometimes soon
still such t than that the their theirs them then there therefore these they third this those though three through
throughout thus till to together too toward towards two under unless until unlike up upon us ve very via was we well
were what whatever when where whereas whether which while who whom whose why will with within without would yes yet
you your yours yourself
"""
_CONNECTING = "of de del della di da do dos du van von der den la le al bin ibn zu"
FUNCTION_WORDS = frozenset(_FUNCTION.split())
CONNECTORS = frozenset(_CONNECTING.split())
"""Lower-case words inside a name."""

# What a surface says of itself, as bits; the number of a collocation's word stands above them.
_WORD, _NAME, _CONNECTOR, _THE, _INITIAL, _STOP, _JOINER = (1 << bit for bit in range(7))
_PART = 8
_MOST_CONNECTORS = 2


class English:
    def __init__(self, collocations: Collection[str] = ()):
        pairs = [collocation.split(" ") for collocation in collocations]
        self.parts = {word: number for number, word in enumerate(sorted({w for pair in pairs for w in pair}), 1)}
        self.pairs = np.array([self._pair(self.parts[a], self.parts[b]) for a, b in pairs], np.int64)

    def _pair(self, first, second):
        return first * (len(self.parts) + 1) + second

    def kind(self, surface: str, key: str) -> int:
        """All that `units` needs to know of a surface, whose key is empty where it is no word."""
        if not key:
            return _STOP * (surface == ".") | _JOINER * (surface in ("-", "'", "’", "&"))
        acronym = len(surface) > 1 and surface.isupper()
        name = surface[0].isupper() and (acronym or key not in FUNCTION_WORDS)
        return (
            _WORD
            | _NAME * name
            | _CONNECTOR * (surface in CONNECTORS)
            | _THE * (surface == "the")
            | _INITIAL * (len(surface) == 1 and surface.isupper())
            | self.parts.get(key, 0) << _PART
        )

    def units(self, atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
        """Level of every atom, and whether it continues the unit of the atom before it."""
        sentence, kinds = atoms.sentence, atoms.kind
        spaced = atoms.start > np.append(-1, atoms.stop)[:-1]

        def has(bit: int) -> np.ndarray:
            return (kinds & bit) > 0

        word, name, connector = has(_WORD), has(_NAME), has(_CONNECTOR)
        levels = np.where(word, BASIC, 0).astype(np.uint8)
        before = np.arange(len(kinds)) - 1
        inner = connector | (has(_THE) & connector[before]) | (has(_STOP) & has(_INITIAL)[before])
        inner |= has(_JOINER) & ~spaced & ~np.append(spaced, True)[1:]

        names = np.flatnonzero(name)
        blocks = np.cumsum(~(name | inner))
        linked = (
            (np.diff(sentence[names]) == 0) & (np.diff(blocks[names]) == 0) & (np.diff(names) <= _MOST_CONNECTORS + 1)
        )
        edges = np.concatenate([[True], ~linked, [True]])
        first, last = names[edges[: len(names)]], names[edges[1:][: len(names)]]
        words = np.flatnonzero(word)
        opening = np.zeros(len(kinds), bool)
        opening[words[np.diff(sentence[words], prepend=-1) > 0]] = True
        kept = (last > first) | ~opening[first]
        inside = np.zeros(len(kinds) + 1, np.int64)
        inside[first[kept]] += 1
        inside[last[kept] + 1] -= 1
        entity = np.cumsum(inside[:-1]) > 0
        levels[entity] = ENTITY
        continues = entity.copy()
        continues[first[kept]] = False

        part = np.where(entity, 0, kinds >> _PART)
        second = np.flatnonzero((part[:-1] > 0) & (part[1:] > 0) & (np.diff(sentence) == 0)) + 1
        second = second[np.isin(self._pair(part[second - 1], part[second]), self.pairs)]
        levels[second] = levels[second - 1] = PHRASE
        continues[second] = True
        return levels, continues


class Chinese:
    """The unit is the word, so the surface alone decides."""

    def __init__(self):
        self.names = chinese_names()

    def kind(self, surface: str, key: str) -> int:
        if not key:
            return 0
        if len(surface) == 1 or not _HANZI.search(surface):
            return BASIC
        return ENTITY if surface in self.names else PHRASE

    def units(self, atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
        return atoms.kind.astype(np.uint8)[atoms.word], np.diff(atoms.word, prepend=-1) == 0


_HANZI = re.compile("[\u3007\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


@cache
def chinese_names() -> frozenset[str]:
    """Words of two characters or more that jieba's dictionary classes as names: people, places, bodies, others."""
    with files("jieba").joinpath("dict.txt").open(encoding="utf-8") as lines:
        entries = (line.split() for line in lines)
        return frozenset(word for word, _, kind in entries if kind[:2] in ("nr", "ns", "nt", "nz") and len(word) > 1)


def mine_collocations(
    texts: Iterable[str], max_words: int = 3_000_000, min_count: int = 10, min_npmi: float = 0.4
) -> tuple[str, ...]:
    """Pairs of neighbouring English content words that occur together far more often than apart, as `"a b"`, sorted.

    Reads texts until `max_words` words are seen, which bounds time and memory. Normalised pointwise mutual information
    is 0 for words that are independent and 1 for words that only occur together.
    """
    singles: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    seen = 0
    for text in texts:
        words = [
            word if word.isalpha() and len(word) > 1 and word not in FUNCTION_WORDS else ""
            for word in _WORDS.findall(normalize("NFC", text).lower())
        ]
        singles.update(words)
        pairs.update(pair for pair in pairwise(words) if pair[0] and pair[1])
        seen += len(words)
        if seen >= max_words:
            break
    found = []
    for (first, second), count in pairs.items():
        if count >= min_count:
            mutual = math.log(count * seen / (singles[first] * singles[second]))
            if mutual >= min_npmi * math.log(seen / count):
                found.append(f"{first} {second}")
    return tuple(sorted(found))


_WORDS = re.compile(r"[^\W_]+|\S")
