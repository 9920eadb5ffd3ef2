from math import inf, log

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from corpus_tools.neighbours import neighbours

TEXTS = ["red cat", "green dog dog", "red fox", "blue cat cat", "red red red", "grey owl", "white hen"]


def split(texts: list[str]) -> list[np.ndarray]:
    """Words as numbers."""
    return [np.array([int(word, 36) % 65_521 for word in text.split()], np.int64) for text in texts]


def test_the_best_match_comes_first_and_a_document_is_no_neighbour_of_itself():
    titles = split(["cat", "dog", "unheard", "", "red fox", "owl hen", "red"])
    found = neighbours(titles, split(TEXTS))
    assert found[0] == (3,)
    assert found[1] == found[2] == found[3] == ()
    assert found[4][0] == 2
    assert set(found[5]) == {6}
    assert set(found[6]) == {0, 2, 4} and found[6][0] == 4


def test_equal_scores_go_to_the_earlier_document():
    found = neighbours(split(["a"] * 9), split(["a b"] * 9))
    assert found[0] == (1, 2, 3) and found[1] == (0, 2, 3) and found[8] == (0, 1, 2)


def test_documents_that_do_not_match_are_left():
    assert neighbours(split(["a"] * 4), split(["a"] * 4)) == [(1,), (0,), (0,), (0,)]
    assert neighbours(split(["a"] * 2), split(["a"] * 2)) == [(), ()]
    assert neighbours([], []) == []
    assert neighbours(split(["", ""]), split(["", ""])) == [(), ()]
    assert neighbours(split(["", "", "a"]), split(["", "", ""])) == [(), (), ()]


WORDS = st.lists(st.integers(0, 9), max_size=8)


@given(st.lists(st.tuples(WORDS, WORDS), max_size=9))
def test_no_other_document_matches_better(pairs):
    titles, texts = [title for title, _ in pairs], [text for _, text in pairs]
    found = neighbours(*([np.array(words, np.int32) for words in lists] for lists in (titles, texts)))
    for own, (title, near) in enumerate(zip(titles, found, strict=True)):
        scores = [bm25(set(title), text, texts) if other != own else 0 for other, text in enumerate(texts)]
        assert len(near) == min(3, (len(texts) - 1) // 2, sum(score > 0 for score in scores))
        worst = inf
        for other in near:
            assert 0 < scores[other] <= worst + 1e-5
            worst = scores[other]
        assert all(scores[other] <= worst + 1e-5 for other in range(len(texts)) if other not in near)


def bm25(query, text, texts):
    mean = sum(map(len, texts)) / len(texts)
    score = 0.0
    for word in query:
        spread = sum(word in other for other in texts)
        times = text.count(word)
        if times:
            rarity = log(1 + (len(texts) - spread + 0.5) / (spread + 0.5))
            score += rarity * times / (times + 1.5 * (0.25 + 0.75 * len(text) / mean))
    return score
