"""Collocations: pairs of English words that seek each other."""

import math
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from unicodedata import normalize

from corpus_tools.knowledge.english import FUNCTION_WORDS


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
