import numpy as np

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
