import json
import os
import pickle
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import reduce
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import pytest
import zstandard

from corpus_tools import phrases
from corpus_tools.phrases import BITS, ROWS, Counts, choose, count, merged, sketch, survivors
from corpus_tools.segmentation import words as chinese_words

DATA = Path(os.environ.get("CUMUL_DATA", Path(__file__).parents[3] / "shared/data"))
PLANTED = ("climate change", "member of parliament", "north atlantic treaty organization", "struck by a falling meteor")


def english(seed: int, count: int) -> list[str]:
    """Random words, and in every third sentence one of the planted phrases."""
    random = Random(seed)
    letters = [f"{a}{b}{c}" for a in "bdfgklmnprz" for b in ("a", "e", "oo") for c in ("k", "n", "x")]
    weights = [1 / (rank + 5) for rank in range(len(letters))]
    texts = []
    for _ in range(count):
        words = random.choices(letters, weights, k=12)
        if random.random() < 1 / 3:
            words.insert(random.randrange(len(words)), random.choice(PLANTED))
        texts.append(" ".join(words).capitalize() + ".")
    return texts


def chinese(seed: int, count: int) -> list[str]:
    random = Random(seed)
    words = ["北京", "研究", "喜欢", "苹果", "老师", "音乐", "历史", "经济", "问题", "火车", "城市", "孩子", "电影"]
    return [f"{random.choice(words)}的{''.join(random.choices(words, k=6))}，人工智能技术。" for _ in range(count)]


def mine(parts: Iterable[list[str]], language: str, most: int, min_count: int = 3) -> tuple[np.ndarray, Counts]:
    parts = list(parts)
    counters = reduce(np.add, [sketch(texts, language) for texts in parts])
    levels = survivors(counters, 1 << 20, min_count)
    return counters, merged([count(texts, levels, language, most) for texts in parts], most)


def ngrams(counts: Counts) -> dict[tuple[str, ...], int]:
    """Every n-gram whose beginnings are all there, and how often it occurs."""
    places = {key: place for place, key in enumerate(counts.keys.tolist())}
    found = {}
    for key, times in zip(counts.keys.tolist(), counts.counts.tolist(), strict=True):
        words: list[str] = []
        while key in places:
            place = places[key]
            words.insert(0, counts.words.get(int(counts.lasts[place]), ""))
            key = int(counts.prefixes[place])
        if key == 0 and all(words):
            found[tuple(words)] = times
    return found


def test_planted_phrases_are_found_and_nothing_else():
    _, counts = mine([english(0, 4_000)], "en", 1 << 20)
    assert choose(counts, "en") == tuple(sorted(PLANTED))


def test_chinese_phrases_are_written_without_spaces():
    texts = chinese(0, 500)
    assert len(chinese_words("人工智能技术")) > 1
    _, counts = mine([texts], "zh", 1 << 20)
    assert choose(counts, "zh") == ("人工智能技术",)


@pytest.mark.parametrize("language, texts", [("en", english(1, 3_000)), ("zh", chinese(1, 1_500))])
@pytest.mark.parametrize("most", [400, 1 << 20])
def test_how_texts_are_shared_out_changes_nothing(language, texts, most):
    counters, counts = mine([texts], language, most)
    shuffled = Random(2).sample(texts, len(texts))
    other_counters, other = mine([shuffled[:10], shuffled[10:700], shuffled[700:]], language, most)
    assert (counters == other_counters).all()
    assert (counts.floor > 0) == (most == 400)
    for mine_, theirs in zip(counts, pickle.loads(pickle.dumps(other)), strict=True):
        assert np.array_equal(mine_, theirs) if isinstance(mine_, np.ndarray) else mine_ == theirs
    assert choose(counts, language, 3) == choose(other, language, 3)


def test_counts_are_exact_and_every_frequent_ngram_is_there():
    texts = english(3, 2_000)
    truth: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        words = text.lower().rstrip(".").split()
        truth.update(tuple(words[a : a + n]) for n in range(1, 6) for a in range(len(words) - n + 1))
    _, counts = mine([texts], "en", 1 << 20, 11)
    found = ngrams(counts)
    assert all(truth[words] == times for words, times in found.items())
    function = phrases.FUNCTION_WORDS
    for words, times in truth.items():
        if times >= 11 and not (len(words) == 5 and (words[0] in function or words[-1] in function)):
            assert words in found
    assert counts.total == sum(times for words, times in truth.items() if len(words) == 1)


@pytest.mark.parametrize(
    "text, pairs",
    [
        ("red sea. Blue whale", {("red", "sea"), ("blue", "whale")}),
        ("Red sea, blue\nwhale-shark", {("red", "sea"), ("blue", "whale")}),
        ("red 747 sea b2b (blue) sky", set()),
        ("École  ÉLÉMENTAIRE", {("école", "élémentaire")}),
        ("E\u0301cole élémentaire", {("école", "élémentaire")}),
    ],
)
def test_ngrams_cross_no_border(text, pairs):
    levels = np.ones((ROWS, 1 << BITS), np.uint8)
    assert {words for words in ngrams(count([text, "x"], levels, "en")) if len(words) == 2} == pairs


def test_phrases_do_not_begin_or_end_with_a_function_word():
    texts = ["Knights of the round table sing.", "The table is round.", "We sing of the knights."] * 20
    assert choose(mine([texts], "en", 1 << 20)[1], "en", most_followed=1, least=(0, 0, 0, 0)) == (
        "knights of the round",
        "knights of the round table",
        "round table",
        "round table sing",
        "sing of the knights",
        "table is round",
        "table sing",
    )


def test_parts_of_something_longer_are_no_phrases():
    _, counts = mine([english(4, 4_000)], "en", 1 << 20)
    assert "atlantic treaty" not in choose(counts, "en")
    assert "atlantic treaty" in choose(counts, "en", most_followed=1)


def test_few_enough_counters_survive_and_the_highest_do():
    counters = np.zeros((ROWS, 1 << BITS), np.uint32)
    counters[:, :1_000] = np.arange(1_000)
    assert (np.count_nonzero(survivors(counters, 1 << 20, 11), axis=1) == 1_000 - 11).all()
    levels = survivors(counters, 300, 11)
    assert (np.flatnonzero(levels[0]) == np.arange(700, 1_000)).all()
    assert (np.diff(levels[0, 700:1_000].astype(int)) >= 0).all() and levels.max() == phrases.LEVELS
    assert (survivors(counters * 0) == 0).all()


def test_nothing_comes_of_nothing():
    counters, counts = mine([[], ["", " ", "…"]], "en", 100)
    assert not counters.any() and counts.total == 0 and choose(counts, "en") == ()


def test_keys_are_the_same_in_every_process():
    code = (
        "from zlib import crc32; from corpus_tools.phrases import sketch;"
        "print(crc32(sketch(['the red sea and the blue whale'], 'en')))"
    )
    printed = {
        subprocess.check_output([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed})
        for seed in ("1", "2")
    }
    assert len(printed) == 1


LETTERS = str.maketrans("0123456789", "ghijklmnop")


def new_words(texts: int) -> Iterator[str]:
    """Ever new words: what makes tables grow without bound."""
    random = Random(0)
    for _ in range(texts):
        yield " ".join(f"{random.getrandbits(60):x}" for _ in range(40)).translate(LETTERS)


def test_memory_does_not_grow_with_the_corpus(monkeypatch):
    monkeypatch.setattr(phrases, "BATCH", 1 << 16)
    monkeypatch.setattr(phrases, "MOST_CACHED", 1 << 20)
    levels = np.random.default_rng(0).integers(1, 256, (ROWS, 1 << BITS)).astype(np.uint8)
    most = 4_000
    peaks: dict[str, list[int]] = {"sketch": [], "count": []}
    for texts in (500, 1_500):
        for name, work in (
            ("sketch", lambda texts=texts: sketch(new_words(texts), "en")),
            ("count", lambda texts=texts: count(new_words(texts), levels, "en", most)),
        ):
            tracemalloc.start()
            result = work()
            peaks[name].append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            if isinstance(result, Counts):
                assert 0 < len(result.keys) <= most
                assert len(result.words) <= most
    assert peaks["sketch"][1] < 1.05 * peaks["sketch"][0] < 80e6
    assert peaks["count"][1] < 1.15 * peaks["count"][0]


@pytest.mark.parametrize(
    "source, expected, refused",
    [
        ("en_wiki", {"united states", "high school", "world war ii", "prime minister"}, {"of the", "united states of"}),
        ("zh_wiki", {"热带气旋", "同性婚姻", "欧洲冠军联赛"}, {"的"}),
    ],
)
def test_phrases_of_real_text(source, expected, refused):
    path = DATA / source / "docs.jsonl.zst"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    with path.open("rb") as file:
        lines = TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
        texts = [text for line in islice(lines, 3_000) for text in json.loads(line)["text"].split("\n\n")]
    found = set(choose(mine([texts], source[:2], 1 << 20, 11)[1], source[:2]))
    assert len(found) > 500
    assert expected <= found and not refused & found
