"""For every title of a pool, the other documents whose text matches it best (BM25): weak matches of ir_relevance."""

from collections.abc import Hashable, Sequence

import bm25s
import numpy as np


def neighbours(
    titles: Sequence[Sequence[Hashable]], texts: Sequence[Sequence[Hashable]], count: int = 3
) -> list[tuple[int, ...]]:
    """Per title (empty where there is none) up to `count` documents that share a word with it, best first.

    Equal scores go to the earlier document. At most half of the others are neighbours: the rest is needed as no match.
    """
    count = min(count, (len(texts) - 1) // 2)
    known: dict[Hashable, int] = {}
    ids = [[known.setdefault(word, len(known)) for word in text] for text in texts]
    if not known or count == 0:
        return [() for _ in titles]
    index = bm25s.BM25()
    index.index((ids, {str(number): number for number in known.values()}), show_progress=False)
    found: list[tuple[int, ...]] = []
    for own, title in enumerate(titles):
        query = [known[word] for word in dict.fromkeys(title) if word in known]
        if not query:
            found.append(())
            continue
        scores = index.get_scores(query)
        scores[own] = 0
        enough = np.partition(scores, -count)[-count]
        best = np.flatnonzero((scores >= enough) & (scores > 0))
        best = best[np.argsort(-scores[best], kind="stable")][:count]
        found.append(tuple(best.tolist()))
    return found
