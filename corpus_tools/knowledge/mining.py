"""Phrases mined from the corpus: runs of two to five words that occur together far more often than apart (PMI-Masking).

Two passes over the same texts, each in as many tasks as one likes; what tasks find is added up, so how texts are shared
out changes nothing.

    numbered    the words of a task's texts as numbers, for both passes
    sketch      counts every run of one to five words in one of BUCKETS buckets per length, up to 255: 21 MB
    survivors   the buckets that reach a count at which at most MOST of them are left: no rarer run can be a phrase
    count       counts exactly the runs that lie, with all their parts, in these buckets
    choose      keeps those whose words belong together

A run of n words is worth min over its splits in two of log p(run) / (p(left) p(right)): `of the united states` is no
better than `of the` and `united states` together. Divided by -log p(run), 1 is reached by words that occur only
together. Memory is bounded by BUCKETS, MOST and the texts of one task.
"""

import re
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import chain, pairwise
from typing import NamedTuple

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
AT_ONCE = 1 << 16
"""Words, about, whose arrays fit a core's cache."""
LONGEST_CHINESE = 12
"""Characters."""
BREAK = "\0"
"""Where no run goes on. No text holds it, and it is no white space."""

PUNCTUATION = '!"#$%&()*+,./:;<=>?@[\\]^_`{|}~“”„‘«»‹›…–—−•·、。，；：？！（）《》〈〉【】「」『』〔〕　'
_BREAKS = re.compile(f"[{re.escape(PUNCTUATION)}]")
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


class Numbered(NamedTuple):
    """Texts, one after another."""

    words: list[str]
    hashes: np.ndarray
    """Of the words, uint64."""
    numbers: np.ndarray
    """uint32: places in `words`; 0 is BREAK."""


def numbered(texts: Iterable[str], language: str) -> Numbered:
    numbers = Numbers(_HANZI if language == "zh" else None)
    split = segment_words if language == "zh" else split_english
    parts = [np.zeros(0, np.uint32)]
    for text in texts:
        words = split(text)
        parts.append(np.fromiter(chain(map(numbers.__getitem__, words), (0,)), np.uint32, len(words) + 1))
    return Numbered(numbers.words, hashes(numbers.words), np.concatenate(parts))


def split_english(text: str) -> list[str]:
    return _BREAKS.sub(f" {BREAK} ", text.lower()).split()


class Numbers(dict[str, int]):
    def __init__(self, form: re.Pattern[str] | None):
        """What is not of this form is no word."""
        super().__init__({BREAK: 0})
        self.words = [BREAK]
        self.form = form

    def __missing__(self, word: str) -> int:
        if self.form is not None and not self.form.fullmatch(word):
            self[word] = 0
            return 0
        self[word] = number = len(self.words)
        self.words.append(word)
        return number


def hashes(words: Iterable[str]) -> np.ndarray:
    """64 bits of every word, the same in every process."""
    digests = b"".join(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest() for word in words)
    return np.frombuffer(digests, "<u8")


def joined(run: np.ndarray, word: np.ndarray) -> np.ndarray:
    """The hash of a run and the word behind it."""
    value = run * np.uint64(0x9E3779B97F4A7C15) + word
    value = (value ^ value >> np.uint64(32)) * np.uint64(0xD6E8FEB86659FD93)
    return value ^ value >> np.uint64(32)


def bucket(value: np.ndarray) -> np.ndarray:
    return (value & np.uint64(BUCKETS - 1)).view(np.int64)


def runs(text: Numbered, surviving: np.ndarray | None = None) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(n, first words, hashes) of all runs of n words, n = 1 to LONGEST, that survive with all their parts."""
    breaks = np.flatnonzero(text.numbers == 0)
    ends = breaks[np.flatnonzero(np.diff(breaks // AT_ONCE, append=-1))] + 1
    for begin, end in pairwise([0, *ends.tolist()]):
        word = text.hashes[text.numbers[begin:end]]
        places = np.flatnonzero(text.numbers[begin:end])
        value = word[places]
        for n in range(1, LONGEST + 1):
            if n > 1:
                goes_on = np.diff(places) == 1
                places = places[:-1][goes_on]
                value = joined(value[:-1][goes_on], word[places + n - 1])
            if surviving is not None:
                kept = surviving[n - 1, bucket(value)]
                places, value = places[kept], value[kept]
            yield n, places + begin, value


def sketch(text: Numbered) -> np.ndarray:
    """How many runs of every length fell into every bucket, at most 255: uint8 of shape (LONGEST, BUCKETS)."""
    counts = np.zeros((LONGEST, BUCKETS), np.uint32)
    for n, _, value in runs(text):
        np.add.at(counts[n - 1], bucket(value), np.uint32(1))
    return np.minimum(counts, 255, out=counts).astype(np.uint8)


def add(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """The sketch of both texts."""
    total = one + two
    total[total < one] = 255
    return total


def survivors(counts: np.ndarray, most: int = MOST) -> np.ndarray:
    """The buckets worth counting: bool of the same shape."""
    enough = np.bincount(counts[counts >= LEAST_COUNT], minlength=256)
    reached = np.cumsum(enough[::-1])[::-1]
    least = max(LEAST_COUNT, int(np.argmax(reached <= most)) if reached[255] <= most else 255)
    return counts >= least


class Runs(NamedTuple):
    """How often runs occur."""

    words: list[str]
    rows: np.ndarray
    """uint32 of shape (runs, LONGEST): places in `words`, 0 behind the last."""
    hashes: np.ndarray
    counts: np.ndarray
    total: int
    """All words of the texts."""


def count(text: Numbered, surviving: np.ndarray) -> Runs:
    """How often every run occurs that lies, with all its parts, in these buckets."""
    found: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(LONGEST)]
    for n, places, value in runs(text, surviving):
        found[n - 1].append((places, value))
    rows, values, counts = [], [], []
    for n, pieces in enumerate(found, start=1):
        places = np.concatenate([np.zeros(0, np.int64), *(places for places, _ in pieces)])
        value = np.concatenate([np.zeros(0, np.uint64), *(value for _, value in pieces)])
        order, firsts = grouped(value)
        row = np.zeros((len(firsts), LONGEST), np.uint32)
        row[:, :n] = text.numbers[places[order[firsts]][:, None] + np.arange(n)]
        rows.append(row)
        values.append(value[order[firsts]])
        counts.append(np.diff(firsts, append=len(order)))
    every = np.concatenate(rows)
    used = np.union1d(0, every)
    place = np.zeros(len(text.words), np.uint32)
    place[used] = np.arange(len(used))
    total = int(np.count_nonzero(text.numbers))
    words = [text.words[number] for number in used]
    return Runs(words, place[every], np.concatenate(values), np.concatenate(counts), total)


def grouped(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An order in which equal values stand together, and where each group begins."""
    order = np.argsort(value)
    return order, np.flatnonzero(np.diff(value[order], prepend=~value[order[:1]]))


def hash_rows(word: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The hash of every row, none of which has a gap, from those of the words."""
    value = word[rows[:, 0]]
    for column in rows.T[1:]:
        value = joined(value, word[column])
    return value


def union(several: Iterable[Runs]) -> Runs:
    """How often runs occur in all texts."""
    numbers = Numbers(None)
    every = []
    for found in several:
        place = np.fromiter(map(numbers.__getitem__, found.words), np.uint32, len(found.words))
        every.append(found._replace(rows=place[found.rows]))
    rows = np.concatenate([found.rows for found in every])
    values = np.concatenate([found.hashes for found in every])
    counts = np.concatenate([found.counts for found in every])
    order, firsts = grouped(values)
    first = order[firsts]
    total = sum(found.total for found in every)
    return Runs(numbers.words, rows[first], values[first], np.add.reduceat(counts[order], firsts), total)


def choose(found: Runs, language: str) -> list[str]:
    """The phrases, sorted: English words are joined by a space, Chinese ones by nothing."""
    words, rows, value, counts, total = found
    word = hashes(words)
    lengths = np.count_nonzero(rows, axis=1)
    order = np.argsort(value)
    known = value[order]

    def places(parts: np.ndarray) -> np.ndarray:
        """Of other runs, all of which are known."""
        return order[np.searchsorted(known, hash_rows(word, parts))]

    chosen = (counts >= LEAST_COUNT) & (lengths > 1) & edges_fit(words, rows, lengths, language)
    for n in range(2, LONGEST + 1):
        those = np.flatnonzero(chosen & (lengths == n))
        splits = [counts[places(rows[those, :at])] * counts[places(rows[those, at:n])] for at in range(1, n)]
        chosen[those] = worth(counts[those], np.max(splits, axis=0), total) >= LEAST_WORTH[n]
    for n in range(LONGEST, 2, -1):
        those = np.flatnonzero(chosen & (lengths == n))
        for part in (places(rows[those, 1:n]), places(rows[those, : n - 1])):
            chosen[part[counts[part] * PART <= counts[those]]] = False
    space = "" if language == "zh" else " "
    return sorted(space.join(words[number] for number in row if number) for row in rows[chosen].tolist())


def worth(times: np.ndarray, parts: np.ndarray, total: int) -> np.ndarray:
    """`parts`: the counts of left and right, multiplied."""
    return np.log(times * total / parts) / np.log(total / times)


def edges_fit(words: list[str], rows: np.ndarray, lengths: np.ndarray, language: str) -> np.ndarray:
    if language == "zh":
        fits = np.array([word not in PARTICLES for word in words])
        characters = np.array([0, *map(len, words[1:])])
        rest = characters[rows].sum(1) <= LONGEST_CHINESE
    else:
        fits = np.array([len(word) > 1 and word not in EDGELESS and _WORD.match(word) is not None for word in words])
        rest = np.ones(len(rows), bool)
    return fits[rows[:, 0]] & fits[rows[np.arange(len(rows)), lengths - 1]] & rest
