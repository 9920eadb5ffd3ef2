import random
from collections import Counter
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus_tools.knowledge import mining
from corpus_tools.knowledge.mining import add, choose, count, numbered, sketch, survivors, union
from corpus_tools.steps import read_words, write_words

RNG = random.Random(0)
FILLER = ["river", "engine", "garden", "market", "planet", "castle", "violin", "bridge", "forest", "harbour"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(mining, "BUCKETS", 1 << 16)


def mined(parts: list[list[str]], language: str = "en") -> list[str]:
    """What tasks that share the texts find together."""
    texts = [numbered(part, language) for part in parts]
    surviving = survivors(reduce(add, map(sketch, texts)))
    return choose(union(count(text, surviving) for text in texts), language)


def some(words: list[str], number: int) -> list[str]:
    return RNG.choices(words, k=number)


def english(number: int) -> list[str]:
    def text() -> str:
        phrases = ["new york city", "machine learning", "machine shop"]
        words = [word for phrase in phrases for word in [*some(FILLER, 4), phrase, *some(FILLER, 3)]]
        return f"{' '.join(words)}. The {' of the '.join(some(FILLER, 3))}, learning {' '.join(some(FILLER, 5))}"

    return [text() for _ in range(number)]


def test_words_that_belong_together_are_phrases():
    assert mined([english(200)]) == ["machine learning", "machine shop", "new york city"]


def test_chinese_words_are_joined():
    fillers = ["老人", "学生", "将军", "农民", "商人", "孩子"]
    texts = ["".join([*some(fillers, 5), "，机器学习", *some(fillers, 5)]) for _ in range(300)]
    assert mined([texts], "zh") == ["机器学习"]


def test_how_texts_are_shared_out_changes_nothing():
    texts = english(120)
    whole = mined([texts])
    assert mined([texts[::3], texts[1::3], texts[2::3]]) == mined([texts[:7], texts[7:], []]) == whole != []


def test_nothing_crosses_punctuation_or_a_text_or_ends_in_a_function_word():
    texts = ["good morning, vietnam", "of course the"] * 50 + ["hello"] * 50
    assert mined([texts]) == ["good morning"]
    assert mined([["hello", "world"] * 100]) == []


WORDS = st.lists(st.sampled_from(["aa", "bb", "cc", "dd", ",", "the"]), max_size=30).map(" ".join)


@settings(max_examples=30, deadline=None)
@given(st.lists(WORDS, max_size=20), st.integers(1, 50))
def test_runs_are_counted_exactly(texts, at_once):
    expected: Counter[str] = Counter()
    for text in texts:
        for piece in text.split(","):
            words = piece.split()
            for n in range(1, mining.LONGEST + 1):
                expected.update(" ".join(words[at : at + n]) for at in range(len(words) - n + 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mining, "AT_ONCE", at_once)
        text = numbered(texts, "en")
        found = count(text, np.ones((mining.LONGEST, mining.BUCKETS), bool))
        counts = sketch(text)
    runs = [" ".join(found.words[number] for number in row if number) for row in found.rows]
    assert dict(zip(runs, found.counts.tolist(), strict=True)) == expected
    assert found.total == sum(times for run, times in expected.items() if " " not in run)
    for run, times in expected.items():
        assert counts[run.count(" ")].max() >= min(times, 255)


def test_what_the_sketch_says_is_never_too_low_and_adds_up_to_255():
    texts = ["aa bb"] * 200
    one, two = sketch(numbered(texts, "en")), sketch(numbered(texts, "en"))
    assert one[1].max() == 200 and add(one, two)[1].max() == 255
    assert survivors(one, most=3).sum() == 3 and survivors(one, most=2).sum() == 0
    assert survivors(sketch(numbered(["aa bb"] * 9, "en"))).sum() == 0


def test_a_run_survives_with_its_parts_or_not_at_all():
    text = numbered(["aa bb cc"] * 20 + ["bb cc dd"] * 5, "en")
    surviving = survivors(sketch(text))
    found = count(text, surviving)
    runs = {" ".join(found.words[number] for number in row if number) for row in found.rows}
    assert runs == {"aa", "bb", "cc", "aa bb", "bb cc", "aa bb cc"}


def test_worth_is_one_where_words_occur_only_together():
    assert mining.worth(np.array(50), np.array(50 * 50), 10**6) == pytest.approx(1)
    assert mining.worth(np.array(1), np.array(1000 * 1000), 10**6) == pytest.approx(0)


def test_a_run_is_worth_as_little_as_its_worst_split(monkeypatch):
    """`of the` belongs together; `of the moon` is no better than `of the` before a moon that stands anywhere."""
    monkeypatch.setattr(mining, "EDGELESS", frozenset())
    monkeypatch.setattr(mining, "LEAST_WORTH", dict.fromkeys(mining.LEAST_WORTH, 0.5))
    words = [*FILLER, "moon"]
    texts = [" ".join([*some(words, 5), "of the", *some(words, 5)]) for _ in range(300)]
    assert sum("of the moon" in text for text in texts) > mining.LEAST_COUNT
    assert mined([texts]) == ["of the"]


def test_what_tasks_find_is_kept_in_files(tmp_path):
    text = numbered(["aa bb, cc é"] * 20, "en")
    found = count(text, survivors(sketch(text)))
    for thing, kind in ((text, mining.Numbered), (found, mining.Runs)):
        write_words(tmp_path / "file.npz", thing)
        back = read_words(tmp_path / "file.npz", kind)
        assert all(np.array_equal(one, two) for one, two in zip(back, thing, strict=True))
