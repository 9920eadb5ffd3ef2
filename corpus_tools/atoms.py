"""What the annotator hands to the sources of knowledge: the pieces of a batch of texts that units are made of."""

from typing import NamedTuple

import numpy as np


class Atoms(NamedTuple):
    """The finest pieces, which the tokenizer's own splitting makes: an English word, a hanzi, a punctuation mark."""

    text: str
    """The texts, in NFC, joined by `\\n`."""
    start: np.ndarray
    """(atoms,) the code point of `text` where the atom begins."""
    stop: np.ndarray
    """(atoms,) the code point behind it. Accents that the tokenizer strips may lie between two atoms."""
    sentence: np.ndarray
    """(atoms,) the number of its text."""
    word: np.ndarray
    """(atoms,) the number of its word, ascending: in English every atom is a word, in Chinese the segmenter's."""
    kind: np.ndarray
    """(words,) what `knowledge.kind(surface, key)` says of the word."""
