"""Phrases that are mined from the corpus: runs of two to five words that occur together far more often than apart.

As PMI-Masking does (Levine et al., ICLR 2021), in two passes over the texts. Each runs on shares of them at once, and
what it yields of the shares is added up; how texts are shared out and ordered changes nothing in the list.

    sketch      of a share     to counters, added with `+`: how often an n-gram occurs at most
    survivors   of their sum   to levels: which n-grams are frequent enough to be counted
    count       of a share     to counts, added with `merged`: how often each of these occurs
    choose      of their sum   to the list

Words are in lower case, those of Chinese rjieba's. A word with anything but letters (Chinese: but hanzi), punctuation
and the end of a text are borders that no n-gram crosses, and so is the end of a sentence. No phrase begins or ends with
a function word, yet n-grams that do are counted: they are parts of phrases.

Memory, whatever the size of the corpus: a sketch has 64 MiB and the levels 16; counts hold at most `most` n-grams, 34
bytes each and some 250 more for a single word. Besides, the work holds a batch of half a million characters (or the
longest text, if it is longer) with its n-grams, and a cache of some 300,000 words, 330 MiB in all; `count` also the
n-grams of the counts twice while they are put in order, 650 MiB in all where there are MOST.

An n-gram is known by 64 bits that are the same in every process. The sketch overstates an n-gram by those that share
its counters, the more the larger the corpus is: where many do, only the more frequent n-grams are counted. A counter
has 32 bits, enough for 4 thousand million occurrences of one n-gram.
"""

import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple
from unicodedata import normalize

import numpy as np

from corpus_tools.document import hashed
from corpus_tools.fragments import places_of
from corpus_tools.knowledge import FUNCTION_WORDS
from corpus_tools.segmentation import words as chinese_words

LONGEST = 5
"""Words of a phrase."""
ROWS, BITS = 2, 23
"""Every n-gram has a counter in each of the rows, which have 2 ** BITS; the lower one is nearer to the truth."""
MOST = 1 << 21
MIN_COUNT = 11
LEAST = (0.4, 0.45, 0.5, 0.55)
"""Information that a phrase of two, three, … words has at least."""
MOST_FOLLOWED = 0.8
BATCH = 1 << 19
"""Characters that are counted at a time."""
MOST_WAITING = 256
"""Batches whose counts are added up together."""
MOST_CACHED = 1 << 25
"""Characters, at 100 for each word, of a cache that is begun anew when it has more."""
LEVELS = 255

_PARTICLES = """
的 了 着 过 地 得 之 所 者 是 在 和 与 及 或 而 且 但 并 也 都 就 则 又 还 再 才 却 只 不 没 没有 有 无 为 被 把 将
让 使 令 以 于 从 自 到 至 向 往 对 对于 关于 由 由于 因 因为 因此 因而 所以 如 如果 若 虽 虽然 但是 然而 不过 而且
并且 以及 及其 其 其中 其他 其它 此 此外 此后 这 这个 这些 这种 那 那个 那些 该 各 每 某 本 我 你 他 她 它 我们
你们 他们 她们 它们 自己 什么 谁 哪 一 一个 一些 一种 个 种 次 些 等 等等 吗 呢 吧 啊 呀 嘛 很 更 最 太 非常 十分
已 已经 曾 曾经 正 正在 会 能 可 可以 可能 要 应 应该 需 需要 必须 用 按 按照 根据 通过 经 经过 随 随着 当 当时 时
后 前 中 上 下 里 内 外 间 之后 之前 之间 之一 以后 以前 以来 以上 以下 同时 后来 于是 即 便 比 像 同 跟 给 来 去
说 做 作 成 成为 称 称为 叫 叫做 名 位 年 月 日 亦 仍 均 约 皆 共 位于 包括 期间 目前 除了 由此 这样 那样 第 多 较
主要 开始 进行 认为 表示 指出 获得 受到 达到 一位 一名 两 两个 三个 另 另一 另外 任 至今 方可 分别 大致 方面 人
"""
PARTICLES = frozenset(_PARTICLES.split())
"""Chinese words that no phrase begins or ends with: particles, pronouns, prepositions, connectives, measure words."""

_ENGLISH = re.compile(r"[^\W_]+|\S")
_HANZI = re.compile("[\u3007\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")
_CONTENT = np.uint64(1)
"""The lowest bit of a word's number: it is no function word. A border has the number 0."""
_SPREAD = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)
"""Odd numbers of random bits, one for each row."""
_STEP = np.uint64(0xFF51AFD7ED558CCD)


class Counts(NamedTuple):
    """How often n-grams of one word or more occur; the arrays have the shape (n-grams,)."""

    keys: np.ndarray
    """uint64, ascending: what an n-gram is known by."""
    counts: np.ndarray
    """int64"""
    prefixes: np.ndarray
    """uint64: the key of all words but the last; 0 for a single word."""
    lasts: np.ndarray
    """uint64: the key of the last word."""
    lengths: np.ndarray
    """uint8, in words."""
    levels: np.ndarray
    """uint8: what the sketch says of the count."""
    words: dict[int, str]
    """The single words by their keys."""
    floor: int
    """All n-grams of a higher level are there, none of this or a lower one."""
    total: int
    """Words read."""


class _Grams(NamedTuple):
    keys: np.ndarray
    prefixes: np.ndarray
    lasts: np.ndarray
    lengths: np.ndarray


def sketch(texts: Iterable[str], language: str) -> np.ndarray:
    """uint32 (ROWS, 2 ** BITS): counters of all n-grams, each in one counter of every row."""
    counters = np.zeros((ROWS, 1 << BITS), np.uint32)
    for numbers, _ in _batches(texts, language):
        keys = _grams(numbers).keys
        for row, places in zip(counters, _places(keys), strict=True):
            np.add.at(row, places, np.uint32(1))
    return counters


def survivors(counters: np.ndarray, most: int = MOST, min_count: int = MIN_COUNT) -> np.ndarray:
    """uint8, of the shape of the sketch: 0 for counters that are too low, else 1 to LEVELS, equally many of each.

    Too low is less than `min_count`, and what more than `most` counters of a row reach (fewer than it has).
    """
    reached = np.partition(counters, counters.shape[1] - most - 1, axis=1)[:, -most - 1].max() + 1
    least = max(int(reached), min_count)
    levels = np.zeros(counters.shape, np.uint8)
    high = counters >= least
    counts = np.sort(counters[high])
    edges = np.unique(counts[np.arange(LEVELS) * len(counts) // LEVELS]) if len(counts) else counts
    levels[high] = np.searchsorted(edges, counters[high], "right")
    return levels


def count(texts: Iterable[str], levels: np.ndarray, language: str, most: int = MOST) -> Counts:
    """The n-grams that survive, at most `most`: those of the lowest levels are left out where there are more."""
    found = _nothing()
    waiting: list[Counts] = []
    for numbers, words in _batches(texts, language):
        grams = _grams(numbers)
        keys = grams.keys
        reached = np.minimum(*(row[places] for row, places in zip(levels, _places(keys), strict=True)))
        kept = np.flatnonzero(reached > found.floor)
        keys, prefixes, lasts, lengths, reached = (column[kept] for column in (*grams, reached))
        total = int(np.count_nonzero(numbers))
        once = np.ones(len(keys), np.int64)
        part = Counts(keys, once, prefixes, lasts, lengths, reached, words, found.floor, total)
        waiting.append(_ordered(part, most))
        if len(waiting) == MOST_WAITING or sum(len(part.keys) for part in waiting) > most // 2:
            found, waiting = merged([found, *waiting], most), []
    return merged([found, *waiting], most)


def merged(parts: Iterable[Counts], most: int = MOST) -> Counts:
    """The counts of all that the parts are counts of."""
    parts = list(parts) or [_nothing()]
    columns = (np.concatenate(column) for column in zip(*(part[:6] for part in parts), strict=True))
    keys, counts, prefixes, lasts, lengths, levels = columns
    words = dict(chain.from_iterable(part.words.items() for part in parts))
    floor, total = max(part.floor for part in parts), sum(part.total for part in parts)
    return _ordered(Counts(keys, counts, prefixes, lasts, lengths, levels, words, floor, total), most)


def _nothing() -> Counts:
    keys, small = np.zeros(0, np.uint64), np.zeros(0, np.uint8)
    return Counts(keys, np.zeros(0, np.int64), keys, keys, small, small, {}, 0, 0)


def _ordered(found: Counts, most: int) -> Counts:
    """Every n-gram once, in order, and not too many: whole levels go, so that the order of adding changes nothing."""
    order = np.argsort(found.keys)
    keys = found.keys[order]
    first = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])
    counts = np.add.reduceat(found.counts[order], first) if len(first) else found.counts
    order = order[first]
    levels = found.levels[order]
    above = np.cumsum(np.bincount(levels, minlength=LEVELS + 1)[::-1])[::-1]  # n-grams of a level or a higher one
    floor = max(found.floor, int(np.argmax(np.append(above[1:], 0) <= most)))
    kept = levels > floor
    order = order[kept]
    keys, lengths = found.keys[order], found.lengths[order]
    words = {key: found.words[key] for key in keys[lengths == 1].tolist()}
    return Counts(
        keys, counts[kept], found.prefixes[order], found.lasts[order], lengths, levels[kept], words, floor, found.total
    )


class _Pieces(dict[str, int]):
    """Numbers what texts are split into; `numbers` has the words of each, one piece after the other."""

    def __init__(self, split: Callable[[str], Iterable[str]], function_words: frozenset[str]):
        self.split = split
        self.function_words = function_words
        self.numbers = array("Q")
        self.bounds = array("q", [0])
        self.known = {"": 0}
        self.words: dict[int, str] = {}
        self.room = 0

    def __missing__(self, piece: str) -> int:
        for word in self.split(piece):
            key = self.known.get(word)
            if key is None:
                self.known[word] = key = hashed(word) & ~1 | (word not in self.function_words)
                self.words[key] = word
            self.numbers.append(key)
        self.bounds.append(len(self.numbers))
        self.room += len(piece) + 100
        self[piece] = found = len(self)
        return found


def _english(piece: str) -> list[str]:
    piece = piece.lower()
    return [piece] if piece.isalpha() else [word if word.isalpha() else "" for word in _ENGLISH.findall(piece)]


def _chinese(piece: str) -> list[str]:
    return [piece if _HANZI.fullmatch(piece) else ""]


def _batches(texts: Iterable[str], language: str) -> Iterator[tuple[np.ndarray, dict[int, str]]]:
    """The words of some texts, as numbers: uint64, 0 for a border. And what the numbers stand for, at least these."""
    chinese = language == "zh"
    pieces = _no_pieces(chinese)
    for batch in _joined(texts):
        if pieces.room > MOST_CACHED:
            pieces = _no_pieces(chinese)
        text = normalize("NFC", batch)
        found = np.fromiter(map(pieces.__getitem__, chinese_words(text) if chinese else text.split()), np.int64)
        # copies: an array that is looked into cannot grow
        bounds, numbers = np.array(pieces.bounds), np.array(pieces.numbers)
        yield numbers[places_of(bounds, found)[0]], pieces.words


def _no_pieces(chinese: bool) -> _Pieces:
    return _Pieces(_chinese, PARTICLES) if chinese else _Pieces(_english, FUNCTION_WORDS)


def _joined(texts: Iterable[str]) -> Iterator[str]:
    """Texts together, each with a border behind it."""
    batch, room = [], 0
    for text in texts:
        batch.append(text)
        room += len(text)
        if room > BATCH:
            yield "".join(f"{text}\n.\n" for text in batch)
            batch, room = [], 0
    if batch:
        yield "".join(f"{text}\n.\n" for text in batch)


def _grams(numbers: np.ndarray) -> _Grams:
    """All n-grams. Of LONGEST words only those that can be phrases: none is a part of a longer one."""
    numbers = np.append(numbers, np.zeros(LONGEST, np.uint64))
    starts = np.flatnonzero(numbers)
    keys = numbers[starts]
    found = [(keys, np.zeros_like(keys), keys)]
    for length in range(2, LONGEST + 1):
        lasts = numbers[starts + (length - 1)]
        going = lasts > 0
        if length == LONGEST:
            going &= (numbers[starts] & lasts & _CONTENT) > 0
        starts, lasts, prefixes = starts[going], lasts[going], keys[going]
        keys = _longer(prefixes, lasts)
        found.append((keys, prefixes, lasts))
    lengths = np.repeat(np.arange(1, LONGEST + 1, dtype=np.uint8), [len(keys) for keys, _, _ in found])
    keys, prefixes, lasts = (np.concatenate(column) for column in zip(*found, strict=True))
    return _Grams(keys, prefixes, lasts, lengths)


def _longer(keys: np.ndarray, lasts: np.ndarray) -> np.ndarray:
    """The keys of n-grams with one word more."""
    return (keys ^ (keys >> np.uint64(29))) * _STEP + lasts


def _places(keys: np.ndarray) -> Iterator[np.ndarray]:
    """For every row of a sketch, where n-grams are counted in it."""
    for odd in _SPREAD:
        yield (keys * odd >> np.uint64(64 - BITS)).astype(np.int64)


def choose(
    counts: Counts,
    language: str,
    min_count: int = MIN_COUNT,
    least: Sequence[float] = LEAST,
    most_followed: float = MOST_FOLLOWED,
) -> tuple[str, ...]:
    """The phrases, sorted; English words are joined by a space.

    An n-gram is one if it occurs `min_count` times, its information is at least `least[n - 2]`, and it is not the
    beginning or end of something longer: its last word, or last two, … have the same word behind them in at most the
    share `most_followed` of all places, and its first words the same word before them.

    Its information is the pointwise mutual information with that segmentation into parts which explains it best, as a
    share of what there can be: 1 if its words occur together only, 0 if chance brings them together.
    """
    if not len(counts.keys):
        return ()
    followed, preceded = _followed(counts)
    found = set()
    for length in range(2, LONGEST + 1):
        rows, words = _decoded(counts, length, min_count)
        content = (words[:, 0] & words[:, -1] & _CONTENT) > 0
        rows, words = rows[content], words[content]
        information, there = _information(counts, rows, words)
        kept = there & (information >= least[length - 2])
        for size in range(1, min(length + 1, LONGEST)):
            kept &= preceded[_find(counts, _key(words[:, :size]))[0]] <= most_followed
            kept &= followed[_find(counts, _key(words[:, length - size :]))[0]] <= most_followed
        for row in words[kept].tolist():
            found.add(("" if language == "zh" else " ").join(counts.words[key] for key in row))
    return tuple(sorted(found))


def _decoded(counts: Counts, length: int, min_count: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the n-grams of a length are in the counts, and their words: uint64 (n-grams, length)."""
    rows = np.flatnonzero((counts.lengths == length) & (counts.counts >= min_count))
    words = np.zeros((len(rows), length), np.uint64)
    whole, there = rows, np.ones(len(rows), bool)
    for place in range(length - 1, 0, -1):
        words[:, place] = counts.lasts[whole]
        there &= _find(counts, words[:, place])[1]
        whole, found = _find(counts, counts.prefixes[whole])
        there &= found
    words[:, 0] = counts.keys[whole]
    return rows[there], words[there]


def _information(counts: Counts, rows: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `choose` says, and whether all parts are in the counts: those of an n-gram that is frequent enough are."""
    logs = np.log(counts.counts / counts.total)
    there = np.ones(len(rows), bool)
    likeliest = [np.zeros(len(rows))]  # the first words, as parts that are independent
    for stop in range(1, words.shape[1] + 1):
        ways = []
        for start in range(stop):
            if stop - start < words.shape[1]:
                part, found = _find(counts, _key(words[:, start:stop]))
                there &= found
                ways.append(likeliest[start] + logs[part])
        likeliest.append(np.max(ways, axis=0))
    return likeliest[-1] / logs[rows] - 1, there


def _followed(counts: Counts) -> tuple[np.ndarray, np.ndarray]:
    """(n-grams,) of the places of an n-gram, the share that the commonest word behind it has, and that before it."""
    followed, preceded = np.zeros((2, len(counts.keys)))
    for length in range(2, LONGEST + 1):
        rows, words = _decoded(counts, length, 1)
        for shares, parts in ((followed, words[:, :-1]), (preceded, words[:, 1:])):
            part, there = _find(counts, _key(parts))
            np.maximum.at(shares, part[there], counts.counts[rows[there]] / counts.counts[part[there]])
    return followed, preceded


def _key(words: np.ndarray) -> np.ndarray:
    keys = words[:, 0]
    for last in words.T[1:]:
        keys = _longer(keys, last)
    return keys


def _find(counts: Counts, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where n-grams are in the counts, and whether they are."""
    places = np.minimum(np.searchsorted(counts.keys, keys), len(counts.keys) - 1)
    return places, counts.keys[places] == keys
