import gzip
from collections.abc import Collection, Sequence
from random import Random

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from corpus_tools.annotate import Annotator
from corpus_tools.atoms import Atoms
from corpus_tools.knowledge import make_knowledge
from corpus_tools.knowledge.lexicon import Lexicons, read_lexicons
from corpus_tools.knowledge.phrases import FLAGS, MOST_WORDS, Phrases, number_of
from corpus_tools.knowledge.spans import Taken
from corpus_tools.tokenizer import train_tokenizer
from pretrain.tasks.spec import ENTITY, LEVEL, PHRASE, UNIT_START

LETTERS = "aé北😀"
"""Of one, two, three and four bytes."""
Sentences = Sequence[Sequence[str]]


def atoms_of(sentences: Sentences, chinese: bool) -> Atoms:
    """English: every word is an atom, with spaces between. Chinese: every character is one, without spaces."""
    start, stop, sentence, word, numbers, place = [], [], [], [], [], 0
    for number, words in enumerate(sentences):
        for surface in words:
            for piece in surface if chinese else [surface]:
                start.append(place)
                place += len(piece)
                stop.append(place)
                sentence.append(number)
                word.append(len(numbers))
            place += not chinese
            numbers.append(number_of(surface.lower()) << FLAGS)
        place += 1 - (bool(words) and not chinese)
    text = "\n".join(("" if chinese else " ").join(words) for words in sentences)
    return Atoms(text, *(np.array(column, np.int64) for column in (start, stop, sentence, word, numbers)))


def found_in(sentences: Sentences, chinese: bool, source) -> list[tuple[int, str]]:
    """What a source finds, after overlaps are resolved: the number of the sentence, and the text."""
    atoms = atoms_of(sentences, chinese)
    taken = Taken(len(atoms.start))
    taken.accept(source(atoms, taken.levels == 0))
    first = np.flatnonzero((taken.levels > 0) & ~taken.continues)
    last = np.flatnonzero((taken.levels > 0) & ~np.append(taken.continues, False)[1:])
    return [
        (int(atoms.sentence[a]), atoms.text[atoms.start[a] : atoms.stop[b]]) for a, b in zip(first, last, strict=True)
    ]


def naive(sentences: Sentences, chinese: bool, entries: Collection[str], least: int, most: int) -> list:
    """From left to right, the longest run of words that is an entry."""
    found = []
    for number, words in enumerate(sentences):
        place = 0
        while place < len(words):
            for count in range(min(most, len(words) - place), least - 1, -1):
                run = ("" if chinese else " ").join(words[place : place + count])
                if run in entries:
                    found.append((number, run))
                    place += count - 1
                    break
            place += 1
    return found


WORD = st.text(LETTERS, min_size=1, max_size=3)
SENTENCES = st.lists(st.lists(WORD, max_size=8), min_size=1, max_size=3)


@given(st.booleans(), SENTENCES, st.lists(st.lists(WORD, min_size=1, max_size=4), min_size=1, max_size=12))
def test_lexicons_and_phrases_find_what_a_naive_search_finds(chinese, sentences, entries):
    separator = "" if chinese else " "
    written = {separator.join(words) for words in entries}
    assert found_in(sentences, chinese, Lexicons(dict.fromkeys(written, ENTITY))) == naive(
        sentences, chinese, written, 1, 99
    )
    phrases = {separator.join(words) for words in entries if len(words) > 1}
    assert found_in(sentences, chinese, Phrases(phrases, separator)) == naive(
        sentences, chinese, phrases, 2, MOST_WORDS
    )


def test_half_a_million_entries_find_what_a_naive_search_finds():
    random = Random(0)
    words = [f"{a}{b}{c}" for a in "bdfgklm" for b in "aeiouéü" for c in "rnst北京"]
    entries = set()
    while len(entries) < 500_000:
        entries.add(" ".join(random.choices(words, k=random.choice([2, 3, 3, 4]))))
    sentences = [random.choices(words, k=20) for _ in range(3_000)]
    expected = naive(sentences, False, entries, 2, 4)
    assert len(expected) > 3_000
    assert found_in(sentences, False, Lexicons(dict.fromkeys(sorted(entries), ENTITY))) == expected
    assert found_in(sentences, False, Phrases(sorted(entries), " ")) == expected


def entities(text: str, language: str, *entries: str) -> list[str]:
    atoms: list[Atoms] = []
    annotator = Annotator(train_tokenizer([text] * 50, 2_000, True).to_str(), language)
    lexicons = Lexicons(dict.fromkeys(entries, ENTITY))
    units = annotator.knowledge.units
    annotator.knowledge.units = lambda asked: atoms.append(asked) or units(asked)
    annotator.encode([text])
    taken = Taken(len(atoms[0].start))
    taken.accept(lexicons(atoms[0], taken.levels == 0))
    first = np.flatnonzero((taken.levels > 0) & ~taken.continues)
    last = np.flatnonzero((taken.levels > 0) & ~np.append(taken.continues, False)[1:])
    return [text[atoms[0].start[a] : atoms[0].stop[b]] for a, b in zip(first, last, strict=True)]


@pytest.mark.parametrize(
    "text, language, entries, expected",
    [
        ("party at the art school", "en", ["art", "art sch"], ["art"]),
        ("Apple pie and apple PIE", "en", ["apple pie"], ["Apple pie", "apple PIE"]),
        ("us and the US and Us", "en", ["US"], ["US"]),
        ("Oil, oil", "en", ["Oil", "oil"], ["Oil", "oil"]),
        ("the New York Times of new york", "en", ["New York", "York Times", "New York Times"], ["New York Times"]),
        ("İstanbul and straße, ﬁne", "en", ["İstanbul", "straße"], ["İstanbul", "straße"]),
        ("in St. John's, Newfoundland", "en", ["St. John's, Newfoundland"], ["St. John's, Newfoundland"]),
        ("他在北京大学学习", "zh", ["大学", "京大"], []),
        ("他在北京大学学习", "zh", ["北京大学", "在北京大学"], ["在北京大学"]),
        ("😀用iPhone学习😀，ｉＰｈｏｎｅ", "zh", ["iPhone", "😀"], ["😀", "iPhone", "😀"]),
    ],
)
def test_entries_are_whole_words_and_capitals_count(text, language, entries, expected):
    assert entities(text, language, *entries) == expected


def test_files_of_entries(tmp_path):
    (tmp_path / "a.txt").write_text(
        "\ufeffNew York\t300\n\n  London  \nx\n...\nthe\nLondon\t5\n" + "y" * 101 + "\n", "utf-8"
    )
    (tmp_path / "deep").mkdir()
    with gzip.open(tmp_path / "deep" / "b.tsv.gz", "wb") as file:
        file.write(b"cafe\xcc\x81\tfood\t7\n\xff\xfe\n")
    (tmp_path / "deep" / "phrases-law.txt.zst").write_bytes(zstandard.compress(b"as  well as\nLondon\n"))
    (tmp_path / "deep" / "notes.md").write_text("no lexicon")
    entries, refused = read_lexicons([f"{tmp_path}"])
    assert entries == {"New York": ENTITY, "London": ENTITY, "café": ENTITY, "as well as": PHRASE}
    assert refused == {
        "function word": 1,
        "invalid UTF-8": 1,
        "more than 100 characters": 1,
        "no word": 1,
        "one character": 1,
        "repeated": 2,
    }
    assert read_lexicons([f"{tmp_path / '*' / '*.zst'}"]).entries == {"as well as": PHRASE, "London": PHRASE}


@pytest.mark.parametrize(
    "name, message", [("none.txt", "does not exist"), ("deep", "holds no lexicon"), ("a.md", "holds no lexicon")]
)
def test_what_is_no_lexicon_is_named(tmp_path, name, message):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.md").write_text("x")
    with pytest.raises(ValueError, match=f"{name} {message}.* Name files") as caught:
        read_lexicons([f"{tmp_path / name}"])
    assert "\n" not in str(caught.value)


def test_a_lexicon_without_entries_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x\n\n", "utf-8")
    with pytest.raises(ValueError, match=r"no entry in .*a\.txt; lines refused: {'one character': 1}"):
        read_lexicons([f"{tmp_path / 'a.txt'}"])


def test_a_lexicon_that_is_cut_short_is_named(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"\n".join(b"entry %d" % number for number in range(999)))[:-9])
    with pytest.raises(ValueError, match=r"a\.txt\.gz is truncated"):
        read_lexicons([f"{path}"])


def test_a_file_of_phrases_makes_phrases(tmp_path):
    (tmp_path / "phrases.txt").write_text("as well as", "utf-8")
    (tmp_path / "names.txt").write_text("berlin", "utf-8")
    text = "berlin as well as rome"
    annotator = Annotator(train_tokenizer([text] * 9, 500, True).to_str(), "en")
    annotator.knowledge = make_knowledge("en", lexicons=[f"{tmp_path}"])
    flags = annotator.encode([text]).tokens.annotations
    starts = flags[(flags & UNIT_START) > 0] & LEVEL
    assert starts.tolist()[:2] == [ENTITY, PHRASE]
