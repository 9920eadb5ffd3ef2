from random import Random

import pytest

from corpus_tools.annotate import Annotator
from corpus_tools.knowledge import chinese_names, mine_collocations
from corpus_tools.tokenizer import train_tokenizer
from pretrain.tasks.spec import BASIC, ENTITY, LEVEL, PHRASE, UNIT_START

NAMES = {0: "-", BASIC: "basic", PHRASE: "phrase", ENTITY: "entity"}
COLLOCATIONS = ("climate change", "stock exchange", "york stock")


def units(text: str, language: str = "en") -> list[tuple[str, str]]:
    """Every unit and its level; the tokens outside of units each for itself."""
    tokenizer = train_tokenizer([text] * 50, 2_000, True)
    tokens = Annotator(tokenizer.to_str(), language, collocations=COLLOCATIONS).encode([text]).tokens
    found: list[tuple[str, str]] = []
    for number, flags in zip(tokens.ids.tolist(), tokens.annotations.tolist(), strict=True):
        token = tokenizer.id_to_token(number)
        if flags & UNIT_START or not flags & LEVEL:
            found.append((token, NAMES[flags & LEVEL]))
        else:
            found[-1] = (f"{found[-1][0]} {token}".replace(" ##", ""), found[-1][1])
    return found


@pytest.mark.parametrize(
    "text, entities",
    [
        ("Yesterday we met Angela Merkel in Berlin.", ["angela merkel", "berlin"]),
        ("Angela Merkel spoke.", ["angela merkel"]),
        ("Apples are cheap.", []),
        ("In Berlin it rained; However, I stayed.", ["berlin"]),
        ("The Bank of England and the Queen of the Netherlands met.", ["bank of england", "queen of the netherlands"]),
        ("They saw J. R. R. Tolkien and Jean-Luc Picard.", ["j . r . r . tolkien", "jean - luc picard"]),
        ("He saw Paris, London and Ludwig van Beethoven.", ["paris", "london", "ludwig van beethoven"]),
        ("It is Paris - London again.", ["paris", "london"]),
        ("They like NASA and the US.", ["nasa", "us"]),
        ("She said Alice the best.", ["alice"]),
    ],
)
def test_english_entities_are_runs_of_capitalised_words(text, entities):
    assert [unit for unit, level in units(text) if level == "entity"] == entities


def test_collocations_are_phrases_and_chain_but_yield_to_entities():
    assert ("climate change", "phrase") in units("we fear climate change today")
    assert ("york stock exchange", "phrase") in units("the york stock exchange")
    assert ("climate", "basic") in units("the climate, change it")
    found = units("the New York stock exchange")
    assert ("new york", "entity") in found and ("stock exchange", "phrase") in found


def test_punctuation_is_in_no_unit():
    assert units("wait - what ?!") == [("wait", "basic"), ("-", "-"), ("what", "basic"), ("?", "-"), ("!", "-")]


def test_chinese_words_are_phrases_names_are_entities_characters_are_basic():
    assert units("诸葛亮在北京学习了3天，很iPhone。", "zh") == [
        ("诸 葛 亮", "entity"),
        ("在", "basic"),
        ("北 京", "entity"),
        ("学 习", "phrase"),
        ("了", "basic"),
        ("3", "basic"),
        ("天", "basic"),
        ("，", "-"),
        ("很", "basic"),
        ("iphone", "basic"),
        ("。", "-"),
    ]


def test_chinese_names_come_from_the_dictionary():
    names = chinese_names()
    assert {"北京", "曹操", "联合国"} <= names
    assert not {"学习", "我们", "的"} & names
    assert min(map(len, names)) == 2


def test_collocations_are_pairs_that_seek_each_other():
    words = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrst"]
    drawn = Random(0).choices(words, k=12_000)
    lines = [f"{a} {b} {c}" for a, b, c in zip(drawn[::3], drawn[1::3], drawn[2::3], strict=True)]
    texts = [f"{line} of Machine Learning." if number % 80 == 0 else line for number, line in enumerate(lines)]
    assert mine_collocations(texts) == ("machine learning",)
    assert mine_collocations(reversed(texts)) == ("machine learning",)
    assert mine_collocations(texts, min_count=51) == ()


def test_no_collocation_crosses_punctuation_or_holds_a_function_word():
    texts = [f"alpha, beta of gamma x{i} delta-epsilon 3 zeta" for i in range(100)]
    assert mine_collocations(texts, min_npmi=-1) == ()


def test_mining_stops_reading():
    read = []
    mine_collocations((read.append(i) or "one two three four" for i in range(1000)), max_words=40)
    assert len(read) == 10
