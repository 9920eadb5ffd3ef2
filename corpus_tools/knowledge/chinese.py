"""Chinese words: what the surface says of them."""

import re

import numpy as np
import rjieba

from corpus_tools.atoms import Atoms
from corpus_tools.knowledge.spans import Spans
from pretrain.tasks.spec import BASIC, ENTITY, LEVEL, PHRASE

_NAME = 1


def kind(surface: str, key: str) -> int:
    """All that is to be known of a surface, whose key is empty where it is no word: its level, and if it is a name."""
    if not key:
        return 0
    if len(surface) == 1 or not _HANZI.search(surface):
        return BASIC
    return PHRASE | _NAME * is_name(surface)


def names(atoms: Atoms, free: np.ndarray) -> Spans:
    """Words of two characters or more that jieba classes as names."""
    opens = np.flatnonzero(np.diff(atoms.word, prepend=-1))
    named = (atoms.kind & _NAME) > 0
    first, stop = opens[named], np.append(opens, len(atoms.word))[1:][named]
    return Spans(first, stop, np.full(len(first), ENTITY, np.uint8))


def words(atoms: Atoms, levels: np.ndarray, continues: np.ndarray) -> None:
    """Fill in what is left: a word, or what other units leave of it, is a phrase if it has two atoms, else basic."""
    free = levels == 0
    word = atoms.kind[atoms.word] & LEVEL
    inner = (np.diff(atoms.word, prepend=-1) == 0) & (word > 0)
    inner[1:] &= free[1:] & free[:-1]
    several = inner | np.append(inner, False)[1:]
    levels[free] = np.where(several, word, np.minimum(word, BASIC))[free]
    continues |= inner


_HANZI = re.compile("[\u3007\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_NAMES = ("nr", "ns", "nt", "nz")
"""How jieba's classes of persons, places, bodies and other names begin."""


def is_name(word: str) -> bool:
    """What jieba says of the word by itself; of words that its dictionary lacks it guesses the class."""
    tagged = rjieba.tag(word)
    return len(tagged) == 1 and tagged[0][1].startswith(_NAMES)
