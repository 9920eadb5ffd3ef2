"""The look-up of fragments gives what the tokenizer gives on the whole text."""

import io
import json
import os
import random
from itertools import chain, islice, pairwise
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from corpus_tools import annotate
from corpus_tools.annotate import Annotator
from corpus_tools.fragments import HANZI, PUNCTUATION, SEPARATE
from corpus_tools.tokenizer import train_tokenizer

DATA = Path(os.environ.get("CUMUL_DATA", Path(__file__).parents[3] / "shared" / "data"))
SAMPLE = [
    "Don't [SEP] naïve cafés — 3.14%",
    "曹操在北京大学学习，iPhone6的价格是3.14元。",
    "abcdefghijklmnopqrstuvwxyz 가각간 ΣΑΣ",
]
HOSTILE = [
    "\u0301", "\u0338", "\u20dd", "\u3099", "\u200b", "\u200d", "\ufeff", "\u00ad", "\u2028", "\u3000", "\u00a0", "\t",
    "\r", "\n", " ", "\x00", "\x07", "\ufffd", "\U000e0020", "\U0001f469\u200d\U0001f467", "\U0001f1e8\U0001f1f3",
    "\u202e", "\u05d0\u05d1", "\u0915\u094d\u0937\u093f", "\uac00", "\u1100", "\u1161", "か", "\uff76\uff9e", "\uff21",
    "\ufb01", "\uf900", "\ufa0e", "〇", "\u337f", "\u2f00", "\U00020000", "\U0002a6df", "\U0002ceb0", "\U00030000",
    "İ", "ß", "Σ", "É", "é", "京", "大学", "T恤", "iPhone", "3.14", "a", "b'", "(", "）", "。", "，", "·", "…", "“",
    "[SEP]", "[unused1]", "##", "#", "[", "≠", "ǅ", "x" * 120,
]  # fmt: skip
TEXTS = st.lists(st.lists(st.one_of(st.sampled_from(HOSTILE), st.characters(exclude_categories=["Cs"]))).map("".join))
TOKENIZERS = {lowercase: train_tokenizer(SAMPLE * 9, 400, lowercase) for lowercase in (True, False)}
ANNOTATORS = {
    (language, lowercase): Annotator(tokenizer.to_str(), language)
    for language in ("en", "zh")
    for lowercase, tokenizer in TOKENIZERS.items()
}


def plain(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """A text as one piece; special tokens spelt out are text."""
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.encode_special_tokens = True
    encodings = tokenizer.encode_batch([normalize("NFC", text) for text in texts], add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def ids(annotator: Annotator, texts: list[str]) -> list[list[int]]:
    tokens, bounds, _ = annotator.encode(texts)
    return [tokens.ids[a:b].tolist() for a, b in pairwise(bounds)]


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("language", ["en", "zh"])
@given(texts=TEXTS)
def test_the_tokens_of_a_text_are_those_of_its_fragments(language, lowercase, texts):
    assert ids(ANNOTATORS[language, lowercase], texts) == plain(TOKENIZERS[lowercase], texts)


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_tokens_of_an_encyclopedia_are_those_of_its_fragments(language, lowercase):
    path = DATA / f"{language}_wiki" / "docs.jsonl.zst"
    if not path.exists():
        pytest.skip(f"no {path}: set CUMUL_DATA")
    with path.open("rb") as file:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), "utf-8")
        texts = [line for text in islice(lines, 150) for line in json.loads(text)["text"].split("\n\n")]
    tokenizer = train_tokenizer(texts, 4_000, lowercase)
    assert ids(Annotator(tokenizer.to_str(), language), texts) == plain(tokenizer, texts)


@pytest.mark.parametrize("lowercase", [True, False])
def test_what_counts_as_separate_is_cut_on_both_sides_whatever_stands_there(lowercase):
    separate = [*PUNCTUATION, *(chr(code) for first, last in HANZI for code in (first, (first + last) // 2, last))]
    whole = [f"{a}{mark}{b}" for mark in separate for a in ("a", "é", "가", "\u3099", "") for b in ("b", "\u0301", "#")]
    parts = [[text[:-2], text[-2], text[-1]] for text in whole]
    assert all(SEPARATE[ord(mark)] for mark in separate)
    for text, pieces, found in zip(whole, parts, plain(TOKENIZERS[lowercase], whole), strict=True):
        if normalize("NFC", text) == text:
            assert found == list(chain.from_iterable(plain(TOKENIZERS[lowercase], pieces))), ascii(text)


def test_a_full_table_is_begun_anew_and_changes_nothing(monkeypatch):
    texts = [" ".join(random.Random(n).choices(SAMPLE, k=3)) + f" {n} 京{n}" for n in range(40)]
    for language in ("en", "zh"):
        small, large = (Annotator(TOKENIZERS[True].to_str(), language) for _ in range(2))
        monkeypatch.setattr(annotate, "MOST_FRAGMENTS", 30)
        found = [small.encode([text]) for text in texts]
        assert len(small.fragments.numbers) < 100
        monkeypatch.undo()
        expected = large.encode(texts)
        for field in ("ids", "annotations"):
            together = np.concatenate([getattr(each.tokens, field) for each in found])
            assert together.tolist() == getattr(expected.tokens, field).tolist()


def test_keys_hold_within_a_call():
    words = ANNOTATORS["en", True].encode(["Berlin, berlin! BERLIN", "(berlin) paris"]).words
    assert len(set(words.key[:4].tolist())) == 1 and words.key[4] != words.key[0]
