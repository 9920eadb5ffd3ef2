from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus_tools.annotate import Annotator
from corpus_tools.atoms import Atoms
from corpus_tools.knowledge import Knowledge, make_knowledge, sources_of
from corpus_tools.knowledge.spans import Spans, Taken, snap
from corpus_tools.tokenizer import train_tokenizer
from pretrain.tasks.spec import BASIC, ENTITY, LEVEL, PHRASE, UNIT_START

NAMES = {0: "-", BASIC: "basic", PHRASE: "phrase", ENTITY: "entity"}
PHRASES = ("climate change", "stock exchange", "as well as", "as well")


def units(text: str, language: str = "en", knowledge: Knowledge | None = None) -> list[tuple[str, str]]:
    """Every unit and its level; the tokens outside of units each for itself. Lines are texts of their own."""
    tokenizer = train_tokenizer([text] * 50, 2_000, True)
    annotator = Annotator(tokenizer.to_str(), language)
    annotator.knowledge = knowledge or make_knowledge(language, phrases=PHRASES if language == "en" else ())
    annotator.fragments = annotator._no_fragments()
    tokens = annotator.encode(text.split("\n")).tokens
    found: list[tuple[str, str]] = []
    for number, flags in zip(tokens.ids.tolist(), tokens.annotations.tolist(), strict=True):
        token = tokenizer.id_to_token(number)
        if flags & UNIT_START or not flags & LEVEL:
            found.append((token, NAMES[flags & LEVEL]))
        else:
            found[-1] = (f"{found[-1][0]} {token}".replace(" ##", ""), found[-1][1])
    return found


def of_level(level: str, found: list[tuple[str, str]]) -> list[str]:
    return [unit for unit, its in found if its == level]


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
        ("He is in New\nYork is old", ["new"]),
    ],
)
def test_english_entities_are_runs_of_capitalised_words(text, entities):
    assert of_level("entity", units(text)) == entities


def test_phrases_are_found_longest_first_in_any_case_and_yield_to_names():
    assert of_level("phrase", units("Climate  change today")) == ["climate change"]
    assert of_level("phrase", units("cats as well as dogs, as well")) == ["as well as", "as well"]
    assert of_level("phrase", units("the climate, change it\nclimate\nchange")) == []
    found = units("the New York Stock exchange and stock exchange")
    assert of_level("entity", found) == ["new york stock"] and of_level("phrase", found) == ["stock exchange"]
    assert of_level("phrase", units("as climate changes")) == []


def test_phrases_of_words_with_apostrophe_or_hyphen():
    knowledge = make_knowledge("en", phrases=["women's rights", "state-of-the-art technology"])
    text = "the women's rights, state-of-the-art  technology, women ' s rights"
    assert of_level("phrase", units(text, "en", knowledge)) == ["women ' s rights", "state - of - the - art technology"]


def test_chinese_phrases_are_whole_words_in_a_row():
    knowledge = make_knowledge("zh", phrases=["机器学习", "北京大学学习"])
    assert of_level("phrase", units("他喜欢机器学习。", "zh", knowledge)) == ["喜 欢", "机 器 学 习"]
    found = units("他在北京大学学习\n这是机器\n学习很好", "zh", knowledge)
    assert found[2] == ("北 京 大 学", "entity") and ("学 习", "phrase") in found
    only = make_knowledge("zh", ["phrases"], phrases=["北京大学学习"])
    assert ("北 京 大 学 学 习", "phrase") in units("他在北京大学学习", "zh", only)


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
    assert of_level("entity", units("王荣久和李乔说", "zh")) == ["王 荣 久", "李 乔"]  # no dictionary has them


def test_the_order_of_sources_decides(tmp_path):
    (tmp_path / "places.txt").write_text("York\nnew york city\n", "utf-8")

    def found(*sources: str) -> list[tuple[str, str]]:
        knowledge = make_knowledge("en", sources, [f"{tmp_path}"] if "lexicon" in sources else [], None, ["in new"])
        return [unit for unit in units("He is in New York city", "en", knowledge) if unit[1] != "basic"]

    assert found("lexicon", "names", "phrases") == [("new york city", "entity")]
    assert found("names", "lexicon", "phrases") == [("new york", "entity")]
    assert found("phrases", "names", "lexicon") == [("in new", "phrase"), ("york", "entity")]
    assert found("phrases", "names") == [("in new", "phrase"), ("york", "entity")]
    assert found("phrases") == [("in new", "phrase")]
    assert found() == []


def test_what_is_left_of_a_chinese_word_is_a_unit_on_either_side():
    """A tagger may cut the words of the segmenter."""
    text = "中华人民共和国"
    for cut, expected in {
        (2, 4): ["中 华", "人 民", "共 和 国"],
        (1, 7): ["中", "华 人 民 共 和 国"],
        (0, 6): ["中 华 人 民 共 和", "国"],
    }.items():
        spans = Spans(np.array([cut[0]]), np.array([cut[1]]), np.array([ENTITY], np.uint8))
        found = units(text, "zh", Knowledge("zh", [lambda atoms, free, spans=spans: spans], False))
        assert [unit for unit, _ in found] == expected
        assert dict(found) == {
            unit: "entity" if unit == text_of(text, cut) else "phrase" if " " in unit else "basic" for unit in expected
        }


def text_of(text: str, cut: tuple[int, int]) -> str:
    return " ".join(text[cut[0] : cut[1]])


SPANS = st.lists(st.tuples(st.integers(0, 11), st.integers(1, 5), st.sampled_from([PHRASE, ENTITY])), max_size=12)


def spans_of(candidates: list[tuple[int, int, int]]) -> Spans:
    first, length, level = np.array(candidates, np.int64).reshape(-1, 3).T
    return Spans(first, np.minimum(first + length, 12), level.astype(np.uint8))


@given(st.lists(SPANS, max_size=3))
def test_overlaps_go_to_the_first_source_then_leftmost_then_longest(sources):
    taken = Taken(12)
    expected: dict[tuple[int, int], int] = {}
    for candidates in sources:
        spans = spans_of(candidates)
        taken.accept(spans)
        before = {atom for a, b in expected for atom in range(a, b)}
        reached = 0
        triples = zip(*(array.tolist() for array in spans), strict=True)
        for a, b, level in sorted(triples, key=lambda span: (span[0], -span[1])):
            if a >= reached and not before & set(range(a, b)):
                expected[a, b] = level
                reached = b
    starts = np.flatnonzero((taken.levels > 0) & ~taken.continues).tolist()
    assert starts == sorted(a for a, _ in expected)
    for a, b in expected:
        assert taken.continues[a + 1 : b].all()
        (level,) = set(taken.levels[a:b].tolist())
        assert level in {its for spans in sources for first, _, its in spans if first == a}
    assert np.count_nonzero(taken.levels) == sum(b - a for a, b in expected)


@given(st.lists(st.lists(st.integers(1, 3), max_size=4), min_size=1, max_size=3), st.data())
def test_character_spans_become_whole_atoms_of_one_sentence(sentences, data):
    """Atoms of so many letters, a space apart."""
    lines = [" ".join("x" * size for size in sizes) for sizes in sentences]
    text = "\n".join(lines)
    edges = [0, *(place + 1 for place, mark in enumerate(text) if mark in " \n"), len(text) + 1]
    ends = [(a, b - 1) for a, b in pairwise(edges) if b - 1 > a]
    start, stop = np.array(ends, np.int64).reshape(-1, 2).T
    sentence = np.array([text[:a].count("\n") for a, _ in ends], np.int64)
    atoms = Atoms(text, start, stop, sentence, np.arange(len(ends)), np.ones(len(ends), np.int64))
    a = data.draw(st.integers(0, len(text)))
    b = data.draw(st.integers(a, len(text)))
    kept, first, behind = snap(atoms, np.array([a]), np.array([b]))
    cut = text[a:b]
    whole = (a == 0 or text[a - 1] in " \n" or cut[:1] in (" ", "\n")) and (
        b == len(text) or text[b] in " \n" or cut[-1:] in (" ", "\n")
    )
    if "x" in cut and whole and "\n" not in cut.strip():
        assert kept.tolist() == [0]
        assert text[start[first[0]] : stop[behind[0] - 1]] == cut.strip()
    else:
        assert kept.tolist() == []


@pytest.mark.parametrize(
    "settings, message",
    [
        (("en", ["names", "wikidata"], [], None), "no source 'wikidata', only lexicon, spacy"),
        (("en", ["names", "names"], [], None), "names twice"),
        (("en", ["lexicon"], [], None), "name files in corpus.lexicons"),
        (("en", ["names"], ["a.txt"], None), "add lexicon to corpus.knowledge"),
        (("en", ["spacy"], [], None), "spacy needs a model: name it in corpus.tagger"),
        (("en", None, [], "en_core_web_sm"), "corpus.tagger='en_core_web_sm' is read by no source"),
        (("en", ["spacy", "classifier"], [], "x"), "name one of them"),
        (("en", ["lac"], [], None), "lac reads Chinese alone"),
    ],
)
def test_sources_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        sources_of(*settings)
    assert "\n" not in str(caught.value)


def test_default_order():
    assert sources_of("en", None, [], None) == ["names", "phrases"]
    assert sources_of("zh", None, ["x.txt"], None) == ["lexicon", "names", "phrases"]
