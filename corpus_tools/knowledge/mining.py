"""Phrases mined from the corpus: runs of two to five words that occur together far more often than apart (PMI-Masking).

Two passes over the same texts, each in as many tasks as one likes; what tasks find is added up, so how texts are shared
out changes nothing.

    sketch      counts every run of one to five words in one of BUCKETS buckets per length, up to 255: 21 MB
    survivors   the buckets that reach a count at which at most MOST of them are left: no rarer run can be a phrase
    count       counts exactly the runs in these buckets
    choose      keeps those whose words belong together

A run of n words is worth min over its splits in two of log p(run) / (p(left) p(right)): `of the united states` is no
better than `of the` and `united states` together. Divided by -log p(run), 1 is reached by words that occur only
together. Memory is bounded by BUCKETS and MOST, and by the distinct words of the texts, whose hashes are kept.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from itertools import chain, islice

import numpy as np

from corpus_tools.knowledge.english import FUNCTION_WORDS
from corpus_tools.segmentation import words as segment_words

LONGEST = 5
"""Words in a phrase."""
BUCKETS = 1 << 22
MOST = 400_000
"""Buckets that survive, over all lengths."""
LEAST_COUNT = 10
LEAST_WORTH = {2: 0.4, 3: 0.45, 4: 0.5, 5: 0.55}
"""By the number of words: longer runs of boilerplate seem worth more than they are."""
PART = 0.8
"""A run of which such a share stands in one longer phrase is a part of that phrase: `york times`."""
MOST_PHRASES = 800_000
LONGEST_CHINESE = 12
"""Characters."""
BATCH = 1 << 18
"""Words that are counted at once."""
JOINT = "\0"
"""Between the words of a run, and where no run goes on. No text holds it, and it is no white space."""

PUNCTUATION = '!"#$%&()*+,./:;<=>?@[\\]^_`{|}~“”„‘«»‹›…–—−•·、。，；：？！（）《》〈〉【】「」『』〔〕　'
BREAKS = str.maketrans(PUNCTUATION, JOINT * len(PUNCTUATION))
EDGELESS = FUNCTION_WORDS | {"'s", "s", "also", "including", "based", "called", "known", "became", "made", "used"}
"""English words that begin and end no phrase."""
_PARTICLES = """
的 了 着 过 地 得 和 与 及 或 在 是 有 为 以 于 由 从 对 把 被 将 让 向 到 等 之 其 这
那 该 此 每 各 某 一个 一种 这个 那个 他 她 它 们 他们 她们 它们 我 你 我们 你们 自己 也 都
就 又 还 很 更 最 不 没 没有 可以 会 能 要 并 并且 而 而且 但 但是 因为 所以 如果 虽然 因此
以及 其中 其他 进行 成为 作为 通过 根据 由于 后 前 中 上 下 里 内 外 时 年 月 日 个 位 名 次
种 所 使 使得 即 则 若 如
"""
PARTICLES = frozenset(_PARTICLES.split())
"""Chinese words that begin and end no phrase."""
_WORD = re.compile(r"[^\W\d_]")
_HANZI = re.compile("[\u3400-\u9fff]+")


def word_lists(texts: Iterable[str], language: str) -> Iterator[list[str]]:
    """The words of a text; whatever a run must not cross is JOINT."""
    for text in texts:
        if language == "zh":
            yield [word if _HANZI.fullmatch(word) else JOINT for word in segment_words(text)]
        else:
            yield text.lower().translate(BREAKS).replace(JOINT, f" {JOINT} ").split()


class Hashes(dict[str, int]):
    """64 bits of every word, the same in every process; 0 for what no run holds."""

    def __missing__(self, word: str) -> int:
        digest = blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        value = 0 if word == JOINT else int.from_bytes(digest, "little") | 1
        self[word] = value
        return value


def runs(texts: Iterable[str], language: str) -> Iterator[tuple[list[str], int, np.ndarray, np.ndarray]]:
    """(words, n, places, hashes) of all runs of n words, for n = 1 to LONGEST, batch after batch."""
    hashes = Hashes()
    breaks = [JOINT]
    every = chain.from_iterable(chain(words, breaks) for words in word_lists(texts, language))
    while words := list(islice(every, BATCH)):
        # a batch ends with a text, as near as possible: how texts meet in batches must not matter
        while words[-1] != JOINT:
            words.append(next(every))
        of_word = np.fromiter(map(hashes.__getitem__, words), np.uint64, len(words))
        value, whole = of_word, of_word > 0
        for n in range(1, LONGEST + 1):
            if n > 1:
                whole = whole[:-1] & (of_word[n - 1 :] > 0)
                value = mix(value[:-1] * np.uint64(0x9E3779B97F4A7C15) + of_word[n - 1 :])
            places = np.flatnonzero(whole)
            yield words, n, places, value[places]


def mix(value: np.ndarray) -> np.ndarray:
    value = (value ^ value >> np.uint64(32)) * np.uint64(0xD6E8FEB86659FD93)
    return value ^ value >> np.uint64(32)


def bucket(value: np.ndarray) -> np.ndarray:
    return (value % np.uint64(BUCKETS)).astype(np.int64)


def sketch(texts: Iterable[str], language: str) -> np.ndarray:
    """How many runs of every length fell into every bucket, at most 255: uint8 of shape (LONGEST, BUCKETS)."""
    counts = np.zeros((LONGEST, BUCKETS), np.uint8)
    for _, n, _, value in runs(texts, language):
        found = np.bincount(bucket(value), minlength=BUCKETS)
        np.minimum(found + counts[n - 1], 255, out=counts[n - 1], casting="unsafe")
    return counts


def add(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """The sketch of both texts."""
    return np.where(two > 255 - one, 255, one + two).astype(np.uint8)


def survivors(counts: np.ndarray, most: int = MOST) -> np.ndarray:
    """The buckets worth counting: bool of the same shape."""
    reached = np.cumsum(np.bincount(counts.ravel(), minlength=256)[::-1])[::-1]
    least = max(LEAST_COUNT, int(np.argmax(reached <= most)) if reached[255] <= most else 255)
    return counts >= least


def count(texts: Iterable[str], surviving: np.ndarray, language: str) -> Counter[str]:
    """How often every run in these buckets occurs, its words joined by JOINT; the number of all words under `""`."""
    totals: Counter[str] = Counter()
    names: dict[int, str] = {}
    for words, n, places, value in runs(texts, language):
        if n == 1:
            totals[""] += len(places)
        kept = surviving[n - 1, bucket(value)]
        value, places = value[kept], places[kept]
        found, counts = np.unique(value, return_counts=True)
        numbers = found.tolist()
        unnamed = np.array([number for number in numbers if number not in names], np.uint64)
        fresh = np.flatnonzero(np.isin(value, unnamed))
        new, first = np.unique(value[fresh], return_index=True)
        for number, place in zip(new.tolist(), places[fresh[first]].tolist(), strict=True):
            names[number] = JOINT.join(words[place : place + n])
        for number, times in zip(numbers, counts.tolist(), strict=True):
            totals[names[number]] += times
    return totals


def choose(counts: Mapping[str, int], language: str) -> tuple[str, ...]:
    """The phrases, sorted: English words are joined by a space, Chinese ones by nothing."""
    worth: dict[str, float] = {}
    for run, times in counts.items():
        words = run.split(JOINT)
        if len(words) > 1 and times >= LEAST_COUNT and edges_fit(words, language):
            value = worth_of(words, times, counts, counts[""])
            if value >= LEAST_WORTH[len(words)]:
                worth[run] = value
    for run in sorted(worth, key=len, reverse=True):
        words = run.split(JOINT)
        for part in (JOINT.join(words[1:]), JOINT.join(words[:-1])):
            if run in worth and counts.get(part, 0) * PART <= counts[run]:
                worth.pop(part, None)
    best = sorted(worth, key=lambda run: (-worth[run], run))[:MOST_PHRASES]
    return tuple(sorted(run.replace(JOINT, "" if language == "zh" else " ") for run in best))


def edges_fit(words: list[str], language: str) -> bool:
    if language == "zh":
        return not (words[0] in PARTICLES or words[-1] in PARTICLES) and sum(map(len, words)) <= LONGEST_CHINESE
    return all(len(word) > 1 and word not in EDGELESS and _WORD.match(word) for word in (words[0], words[-1]))


def worth_of(words: list[str], times: int, counts: Mapping[str, int], every: int) -> float:
    parts = ((JOINT.join(words[:at]), JOINT.join(words[at:])) for at in range(1, len(words)))
    least = min(math.log(times * every / (counts.get(a, times) * counts.get(b, times))) for a, b in parts)
    return least / math.log(every / times) if every > times else 0.0
