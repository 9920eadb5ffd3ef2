from itertools import pairwise
from typing import NamedTuple
from unicodedata import normalize

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus_tools.annotate import Annotator, Words, recurrence
from corpus_tools.fragments import CASELESS
from corpus_tools.tokenizer import train_tokenizer
from pretrain.tasks.spec import (
    CAPITALISED,
    CASED,
    ENTITY,
    LEVEL,
    RECURRENCE_KNOWN,
    RECURS,
    UNIT_START,
    WORD_START,
    Tokens,
)

LATIN = "École iPhone NASA can't Straße naïve 2nd B12 İstanbul ﬁne"
CHINESE = "曹操在北京大学学习，iPhone6的价格是3.14元。我唱歌，穿T恤！"
TOKENIZER = train_tokenizer([LATIN, CHINESE, "a b c d e f g h i j k l m n o p q r s t u v w x y z abc"] * 9, 320, True)
ANNOTATORS = {language: Annotator(TOKENIZER.to_str(), language) for language in ("en", "zh")}
TEXT = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("aBcÉé. ,-'的京北大学İß\u0301#[]")), max_size=60
)


class Annotated(NamedTuple):
    tokens: Tokens
    words: list[tuple[int, int, str]]
    """First token, token after the last, surface in lower case."""


def taken_apart(annotator, texts):
    """What was found in each text."""
    tokens, bounds, (first, stop, key) = annotator.encode(texts)
    keys = list(annotator.fragments.key_numbers)
    found = []
    for a, b in pairwise(bounds.tolist()):
        inside = (first >= a) & (first < b)
        triples = zip((first[inside] - a).tolist(), (stop[inside] - a).tolist(), key[inside].tolist(), strict=True)
        words = [(start, end, keys[number]) for start, end, number in triples]
        found.append(Annotated(Tokens(tokens.ids[a:b], tokens.annotations[a:b]), words))
    return found


def annotate(text, language="en"):
    (found,) = taken_apart(ANNOTATORS[language], [text])
    return found


def words(text, language="en"):
    """Every word as (key, all tokens capitalised, any cased)."""
    (ids, flags), found = annotate(text, language)
    assert len(ids) == len(flags)
    for first, stop, _ in found:
        assert len(set((flags[first:stop] & CAPITALISED).tolist())) == 1
    return [(key, bool(flags[a] & CAPITALISED), bool((flags[a:b] & CASED).any())) for a, b, key in found]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_case_comes_from_the_original_string(form):
    assert words(normalize(form, LATIN)) == [
        ("école", True, True),
        ("iphone", False, True),
        ("nasa", True, True),
        ("can", False, True),
        ("t", False, True),
        ("straße", True, True),
        ("naïve", False, True),
        ("2nd", False, True),
        ("b12", True, True),
        ("i̇stanbul", True, True),
        ("ﬁne", False, True),
    ]


def test_a_token_is_cased_if_it_holds_a_letter_with_case():
    (ids, flags), _ = annotate("3d 曹 ' x")
    tokens = [TOKENIZER.id_to_token(number) for number in ids]
    assert list(zip(tokens, (flags & CASED).tolist(), strict=True)) == [
        ("3", 0),
        ("##d", CASED),
        ("曹", 0),
        ("'", 0),
        ("x", CASED),
    ]


def test_case_flags_agree_with_the_text_lower_cased():
    lower = annotate(LATIN.lower().replace("i̇", "i")).tokens
    upper = annotate(LATIN.replace("İ", "I")).tokens
    assert lower.ids.tolist() == upper.ids.tolist()
    assert not (lower.annotations & CAPITALISED).any()
    assert ((lower.annotations & CASED) == (upper.annotations & CASED)).all()


def test_no_letter_behind_the_table_has_case():
    assert not any(chr(code).lower() != chr(code).upper() for code in range(CASELESS, 0x110000))


def test_special_tokens_spelt_out_are_text():
    ids = annotate("[SEP] a [MASK] [CLS] [PAD]").tokens.ids.tolist()
    assert not set(ids) & {TOKENIZER.token_to_id(token) for token in ("[SEP]", "[MASK]", "[CLS]", "[PAD]")}


def test_words_of_chinese():
    found = " ".join(key for key, _, _ in words(CHINESE, "zh"))
    assert found == "曹操 在 北京大学 学习 iphone6 的 价格 是 3 14 元 我 唱歌 穿 t恤"


def test_jieba_finds_the_same_words():
    (found,) = taken_apart(Annotator(TOKENIZER.to_str(), "zh", "jieba"), [CHINESE])
    assert found.words == annotate(CHINESE, "zh").words


def test_a_border_of_the_segmenter_inside_a_token_makes_no_word():
    found = annotate("abc" + "가각간", "zh")
    starts = (found.tokens.annotations & WORD_START) > 0
    tokens = [TOKENIZER.id_to_token(number) for number in found.tokens.ids]
    assert all(not start for start, token in zip(starts, tokens, strict=True) if token.startswith("##"))


@given(st.lists(TEXT, max_size=4), st.sampled_from(["en", "zh"]))
def test_annotations_of_any_text(texts, language):
    found = taken_apart(ANNOTATORS[language], texts)
    assert len(found) == len(texts)
    for text, ((ids, flags), found_words) in zip(texts, found, strict=True):
        alone = annotate(text, language)
        assert (ids.tolist(), flags.tolist(), found_words) == (
            alone.tokens.ids.tolist(),
            alone.tokens.annotations.tolist(),
            alone.words,
        )
        plain = TOKENIZER.encode(normalize("NFC", text), add_special_tokens=False).ids
        assert "[" in text or ids.tolist() == plain
        check_flags(flags)
        check_words(flags, found_words)


def check_flags(flags):
    """Levels are constant in a unit, units begin at words, and nothing is in two or in none."""
    assert not flags[:1].size or flags[0] & WORD_START
    assert not (flags & (RECURRENCE_KNOWN | RECURS)).any()
    for before, flag in pairwise([0, *flags.tolist()]):
        if flag & UNIT_START:
            assert flag & WORD_START and flag & LEVEL
        elif flag & LEVEL:
            assert before & LEVEL == flag & LEVEL


def check_words(flags, found):
    edge = 0
    for first, stop, key in found:
        assert edge <= first < stop <= len(flags)
        assert (flags[first:stop] & WORD_START > 0).tolist() == [True] + [False] * (stop - first - 1)
        assert len(set((flags[first:stop] & LEVEL).tolist())) == 1 and flags[first] & LEVEL
        assert any(map(str.isalnum, key)) and key == key.lower()
        between = flags[edge:first] & LEVEL
        assert ((between == 0) | (between == ENTITY)).all()
        edge = stop
    assert not (flags[edge:] & LEVEL).any()


def test_case_does_not_change_the_key():
    assert words("NASA")[0][0] == words("nasa")[0][0] == words("Nasa")[0][0]


DOCUMENT = st.lists(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 3), st.booleans())), min_size=1)


@given(st.lists(DOCUMENT, max_size=4))
def test_recurrence_is_presence_in_another_segment(documents):
    """Each segment a list of (key, tokens, followed by punctuation)."""
    first, stop, keys, segments, expected = [], [], [], [], []
    for document in documents:
        segments.append([len(expected)])
        for number, segment in enumerate(document):
            others = {key for i, other in enumerate(document) if i != number for key, _, _ in other}
            for key, length, punctuated in segment:
                first.append(len(expected))
                stop.append(len(expected) + length)
                keys.append(key)
                flag = RECURRENCE_KNOWN | (RECURS if key in others else 0) if len(document) > 1 else 0
                expected += [flag] * length + [0] * punctuated
            expected.append(0)
            segments[-1].append(len(expected))
    placed = Words(*(np.array(values, np.int64) for values in (first, stop, keys)))
    assert recurrence(placed, segments, len(expected)).tolist() == expected


def test_a_word_that_a_segment_border_cuts_belongs_where_it_begins():
    words = Words(np.array([0, 1, 3]), np.array([1, 3, 4]), np.array([1, 2, 2]))
    assert recurrence(words, [[0, 2, 4]], 4).tolist() == [RECURRENCE_KNOWN] + [RECURRENCE_KNOWN | RECURS] * 3


def test_arrays_are_small():
    tokens = annotate(LATIN).tokens
    assert (tokens.ids.dtype, tokens.annotations.dtype) == (np.int32, np.uint8)
