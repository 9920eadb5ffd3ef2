"""For every title of a pool, the other documents whose text matches it best (BM25): weak matches of ir_relevance.

Lucene's BM25: a word of which a text has f gives it ln(1 + (N - n + 0.5) / (n + 0.5)) f / (f + k (1 - b + b l / L)), n
of N texts having the word; l is the length of the text, L the mean one.
"""

from collections.abc import Sequence

import numpy as np

SATURATION, LENGTH = 1.5, 0.75
"""k and b."""


def neighbours(titles: Sequence[np.ndarray], texts: Sequence[np.ndarray], count: int = 3) -> list[tuple[int, ...]]:
    """Per title (empty where there is none) up to `count` documents that share a word with it, best first.

    Titles and texts are the numbers of their words. Equal scores go to the earlier document. At most half of the others
    are neighbours: the rest is needed as no match.
    """
    count = min(count, (len(texts) - 1) // 2)
    lengths = np.array([len(text) for text in texts], np.int64)
    if count < 1 or not lengths.any():
        return [() for _ in titles]
    asked = [list(dict.fromkeys(title.tolist())) for title in titles]
    words = np.concatenate(texts).astype(np.int64)
    wanted = np.zeros(max(int(words.max(initial=0)), *(max(title, default=0) for title in asked)) + 1, bool)
    for title in asked:
        wanted[title] = True
    kept = wanted[words]
    pairs = words[kept] * len(texts) + np.repeat(np.arange(len(texts)), lengths)[kept]
    pairs, frequency = np.unique(pairs, return_counts=True)
    word, owner = np.divmod(pairs, len(texts))
    edges = np.searchsorted(word, np.arange(len(wanted) + 1))
    spread = np.diff(edges)
    rarity = np.log(1 + (len(texts) - spread + 0.5) / (spread + 0.5)).astype(np.float32)
    damping = SATURATION * (1 - LENGTH + LENGTH * lengths / lengths.mean())
    weights = (rarity[word] * (frequency / (frequency + damping[owner]))).astype(np.float32)

    found: list[tuple[int, ...]] = []
    for own, title in enumerate(asked):
        scores = np.zeros(len(texts), np.float32)
        for a, b in zip(edges[title].tolist(), edges[[number + 1 for number in title]].tolist(), strict=True):
            scores[owner[a:b]] += weights[a:b]
        scores[own] = 0
        best = np.flatnonzero(scores)
        if len(best) > count:
            best = best[scores[best] >= np.partition(scores[best], -count)[-count]]
        best = best[np.argsort(-scores[best], kind="stable")][:count]
        found.append(tuple(best.tolist()))
    return found
