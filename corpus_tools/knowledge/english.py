"""English words: what the surface says of them, and the names that capitals show."""

import numpy as np

from corpus_tools.atoms import Atoms
from corpus_tools.knowledge.spans import Spans
from pretrain.tasks.spec import BASIC, ENTITY

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

# What a surface says of itself, as bits.
_WORD, _NAME, _CONNECTOR, _THE, _INITIAL, _STOP, _JOINER = (1 << bit for bit in range(7))
_MOST_CONNECTORS = 2


def kind(surface: str, key: str) -> int:
    """All that is to be known of a surface, whose key is empty where it is no word."""
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
    )


def names(atoms: Atoms, free: np.ndarray) -> Spans:
    """Runs of capitalised words, as far as they are free; one that begins its sentence has two words or more."""
    sentence, kinds = atoms.sentence, atoms.kind
    spaced = atoms.start > np.append(-1, atoms.stop)[:-1]

    def has(bit: int) -> np.ndarray:
        return (kinds & bit) > 0

    word, name, connector = has(_WORD), has(_NAME), has(_CONNECTOR)
    before = np.arange(len(kinds)) - 1
    inner = connector | (has(_THE) & connector[before]) | (has(_STOP) & has(_INITIAL)[before])
    inner |= has(_JOINER) & ~spaced & ~np.append(spaced, True)[1:]

    name &= free
    inner &= free
    places = np.flatnonzero(name)
    blocks = np.cumsum(~(name | inner))
    linked = np.diff(places) <= _MOST_CONNECTORS + 1
    linked &= (np.diff(sentence[places]) == 0) & (np.diff(blocks[places]) == 0)
    edges = np.concatenate([[True], ~linked, [True]])
    first, last = places[edges[: len(places)]], places[edges[1:][: len(places)]]
    words = np.flatnonzero(word)
    opening = np.zeros(len(kinds), bool)
    opening[words[np.diff(sentence[words], prepend=-1) > 0]] = True
    kept = (last > first) | ~opening[first]
    return Spans(first[kept], last[kept] + 1, np.full(np.count_nonzero(kept), ENTITY, np.uint8))


def words(atoms: Atoms, levels: np.ndarray, continues: np.ndarray) -> None:
    """Fill in what is left: every word is basic."""
    levels[(levels == 0) & ((atoms.kind & _WORD) > 0)] = BASIC
