import math
import random
import tracemalloc
from collections import Counter
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus_tools.knowledge import mining
from corpus_tools.knowledge.mining import JOINT, add, choose, count, sketch, survivors

RNG = random.Random(0)
FILLER = ["river", "engine", "garden", "market", "planet", "castle", "violin", "bridge", "forest", "harbour"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(mining, "BUCKETS", 1 << 16)


def mined(parts: list[list[str]], language: str = "en") -> tuple[str, ...]:
    """What tasks that share the texts find together."""
    surviving = survivors(reduce(add, (sketch(texts, language) for texts in parts)))
    return choose(sum((count(texts, surviving, language) for texts in parts), Counter()), language)


def some(words: list[str], number: int) -> list[str]:
    return RNG.choices(words, k=number)


def english(number: int) -> list[str]:
    def text() -> str:
        phrases = ["new york city", "machine learning", "machine shop"]
        words = [word for phrase in phrases for word in [*some(FILLER, 4), phrase, *some(FILLER, 3)]]
        return f"{' '.join(words)}. The {' of the '.join(some(FILLER, 3))}, learning {' '.join(some(FILLER, 5))}"

    return [text() for _ in range(number)]


def test_words_that_belong_together_are_phrases():
    assert mined([english(200)]) == ("machine learning", "machine shop", "new york city")


def test_chinese_words_are_joined():
    fillers = ["老人", "学生", "将军", "农民", "商人", "孩子"]
    texts = ["".join([*some(fillers, 5), "，机器学习", *some(fillers, 5)]) for _ in range(300)]
    assert mined([texts], "zh") == ("机器学习",)


def test_how_texts_are_shared_out_changes_nothing():
    texts = english(120)
    whole = mined([texts])
    assert mined([texts[::3], texts[1::3], texts[2::3]]) == mined([texts[:7], texts[7:], []]) == whole != ()


def test_nothing_crosses_punctuation_or_a_text_or_ends_in_a_function_word():
    texts = ["good morning, vietnam", "of course the"] * 50 + ["hello"] * 50
    assert mined([texts]) == ("good morning",)
    assert mined([["hello", "world"] * 100]) == ()


WORDS = st.lists(st.sampled_from(["aa", "bb", "cc", "dd", ",", "the"]), max_size=30).map(" ".join)


@settings(max_examples=30, deadline=None)
@given(st.lists(WORDS, max_size=20), st.integers(1, 50))
def test_runs_are_counted_exactly(texts, batch):
    expected: Counter[str] = Counter()
    for text in texts:
        for piece in text.split(","):
            words = piece.split()
            expected[""] += len(words)
            for n in range(1, mining.LONGEST + 1):
                expected.update(JOINT.join(words[at : at + n]) for at in range(len(words) - n + 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mining, "BATCH", batch)
        found = count(texts, np.ones((mining.LONGEST, mining.BUCKETS), bool), "en")
        counts = sketch(texts, "en")
    assert +found == +expected
    for run, times in expected.items():
        if run:
            assert counts[run.count(JOINT)].max() >= min(times, 255)


def test_what_the_sketch_says_is_never_too_low_and_adds_up_to_255():
    texts = ["aa bb"] * 200
    one, two = sketch(texts, "en"), sketch(texts, "en")
    assert one[1].max() == 200 and add(one, two)[1].max() == 255
    assert survivors(one, most=3).sum() == 3 and survivors(one, most=2).sum() == 0
    assert survivors(sketch(["aa bb"] * 9, "en")).sum() == 0


def test_worth_is_one_where_words_occur_only_together():
    assert mining.worth_of(["a", "b"], 50, {"a": 50, "b": 50}, 10**6) == pytest.approx(1)
    assert mining.worth_of(["a", "b"], 1, {"a": 1000, "b": 1000}, 10**6) == pytest.approx(0)
    counts = {"a": 80, "b": 70, "c": 60, f"a{JOINT}b": 55, f"b{JOINT}c": 58}
    least = math.log(50 * 10**6 / (80 * 58)) / math.log(10**6 / 50)
    assert mining.worth_of(["a", "b", "c"], 50, counts, 10**6) == pytest.approx(least)


def test_memory_does_not_grow_with_the_texts(monkeypatch):
    monkeypatch.setattr(mining, "BATCH", 1 << 12)
    texts = english(300)
    peaks = []
    for times in (1, 12):
        tracemalloc.start()
        surviving = survivors(sketch(texts * times, "en"))
        count(texts * times, surviving, "en")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]
