import re
from collections import Counter

import pytest
from documents import make_document, make_pool

from pretrain.tasks.discourse_relation import LEXICONS, SPEC
from pretrain.tasks.markers import Found
from pretrain.tasks.spec import Settings

EN, ZH = LEXICONS["en"], LEXICONS["zh"]


def pairs(*sentences: str, language: str = "en", **settings) -> list[tuple[tuple[str, str], str]]:
    """What one paragraph yields: (pair, name of the label)."""
    names = SPEC.labels(Settings(language))
    pool = make_pool(make_document("d", sentences), language=language, **settings)
    return sorted((pair, names[label]) for pair, label in SPEC.build(pool))


def test_the_lexicons_are_large_and_the_first_label_is_no_marker():
    assert len(EN.markers) >= 60 and len(ZH.markers) >= 40
    for language in ("en", "zh"):
        assert SPEC.labels(Settings(language))[0] == "no marker"


@pytest.mark.parametrize("lexicon", [EN, ZH], ids=["en", "zh"])
def test_every_marker_is_found_and_removed_with_its_comma(lexicon):
    for number, marker in enumerate(lexicon.markers, 1):
        assert marker.text == " ".join(marker.text.split())
        comma, rest = (", ", "The sky fell.") if lexicon is EN else ("，", "天塌下来了。")
        written = marker.text[:1].upper() + marker.text[1:]
        assert lexicon.split(written + comma + rest) == Found(number, rest)


def test_marker_and_comma_go_and_the_capital_is_repaired():
    assert pairs("It was very cold.", "However, the ice did not hold.") == [
        (("It was very cold.", "The ice did not hold."), "however")
    ]
    assert pairs("It was very cold.", "But the ice did not hold.") == [
        (("It was very cold.", "The ice did not hold."), "but")
    ]
    assert pairs("It was very cold.", "As a result, iPhones broke down.")[0][0][1] == "IPhones broke down."


def test_a_longer_marker_wins():
    assert EN.split("In fact, it rained.") == Found(EN.numbers["in fact"], "It rained.")
    assert EN.split("Then, it rained.").number == EN.numbers["then"]
    assert ZH.split("但是天气很冷。") == Found(ZH.numbers["但是"], "天气很冷。")


@pytest.mark.parametrize(
    "text",
    [
        "However hard he tried, it broke.",
        "First aid was given to all.",
        "But for him it had failed.",
        "Yet another storm came.",
        "Instead of rain there was snow.",
        "“However, it rained.”",
        "But then, it rained.",
    ],
)
def test_what_is_not_clear_is_neither_marker_nor_no_marker(text):
    assert EN.split(text) is None
    assert pairs("It was very cold.", text) == []


def test_words_that_only_begin_like_a_marker_are_none():
    assert EN.split("Android phones rang.") == Found(0, "Android phones rang.")
    assert EN.split("Button up your coat.").number == 0
    assert EN.split("Then-president Carter spoke.").number == 0


def test_unambiguous_markers_need_no_comma():
    assert EN.split("Subsequently the ice broke.") == Found(EN.numbers["subsequently"], "The ice broke.")
    assert ZH.split("因此会议推迟了。") == Found(ZH.numbers["因此"], "会议推迟了。")


@pytest.mark.parametrize(
    "text", ["但丁是意大利诗人。", "同时期的作品很多。", "不过是一场梦而已。", "另外一个人来了。", "最后一天下雨了。"]
)
def test_chinese_words_that_contain_a_marker_are_left_out(text):
    assert ZH.split(text) is None


def test_no_marker_is_a_class():
    made = pairs("It was very cold.", "The ice did not hold.", "But the men were glad.")
    assert made == [
        (("It was very cold.", "The ice did not hold."), "no marker"),
        (("The ice did not hold.", "The men were glad."), "but"),
    ]


def test_pairs_stay_inside_a_paragraph():
    document = make_document("d", ["It was very cold."], ["However, the ice did not hold."])
    assert list(SPEC.build(make_pool(document))) == []


def test_english_first_half_goes_too():
    made = pairs("On the one hand, ice is cold.", "On the other hand, it is clean and clear.")
    assert made == [(("Ice is cold.", "It is clean and clear."), "on the other hand")]
    made = pairs("First, we melt the ice.", "Second, we drink the cold water.")
    assert made == [(("We melt the ice.", "We drink the cold water."), "second")]


def test_both_chinese_halves_go():
    assert pairs("虽然天气非常冷，但是他没有穿大衣。", language="zh") == [(("天气非常冷", "他没有穿大衣。"), "但是")]
    assert pairs("他不但聪明好学，而且十分勤奋努力。", language="zh") == [(("他聪明好学", "十分勤奋努力。"), "而且")]
    assert pairs("因为昨天下了大雪。", "所以今天学校停课了。", language="zh") == [
        (("昨天下了大雪", "今天学校停课了。"), "所以")
    ]


@pytest.mark.parametrize("marker", [marker for marker in ZH.markers if marker.firsts], ids=lambda marker: marker.text)
def test_no_first_half_is_left(marker):
    for half in marker.firsts:
        half = re.sub(r"\(\?[^)]*\)", "", half)  # what must not stand beside it
        number = ZH.numbers[marker.text]
        assert ZH.without_first(number, f"{half}，天气非常冷") == "天气非常冷"
        assert ZH.without_first(number, f"他{half}身体不好") == "他身体不好"


def test_chinese_clauses_are_paired_at_commas_without_the_mark_at_the_border():
    made = pairs("他昨天没有来，因此会议推迟了；大家都回家了。", language="zh")
    assert made == [
        (("他昨天没有来", "会议推迟了；大家都回家了。"), "因此"),
        (("他昨天没有来，因此会议推迟了", "大家都回家了。"), "no marker"),
    ]


def test_a_quotation_is_not_cut():
    assert pairs("他说：“今天很冷，但是我不怕。”", language="zh") == []


def test_short_and_long_sides_are_left_out():
    assert pairs("Cold.", "However, the ice did not hold.") == []
    assert pairs("It was very cold.", "However, no.") == []
    assert pairs("It was " + "very " * 130 + "cold.", "However, the ice did not hold.") == []
    assert pairs("冷，但是他没有穿大衣。", language="zh") == []


def test_the_cap_holds_for_every_class():
    sentences = [text for i in range(40) for text in (f"The day was number {i}.", f"But the ice held {i} men.")]
    pool = make_pool(make_document("d", sentences), marker_cap=7)
    assert set(Counter(label for _, label in SPEC.build(pool)).values()) == {7}


def test_pairs_without_a_marker_never_outnumber_the_most_frequent_marker():
    plain = [f"The day was number {i}." for i in range(30)]
    marked = ["But the ice held.", "The men were glad.", "But the ice was thin.", "However, the men went home."]
    pool = make_pool(make_document("d", plain + marked))
    names = SPEC.labels(Settings("en"))
    counts = Counter(names[label] for _, label in SPEC.build(pool))
    assert counts == {"no marker": 2, "but": 2, "however": 1}


def test_order_of_documents_does_not_change_what_the_cap_keeps():
    documents = [make_document(f"d{i}", ["It was very cold.", f"But the ice held {i} men."]) for i in range(30)]
    kept = list(SPEC.build(make_pool(*documents, marker_cap=7)))
    assert list(SPEC.build(make_pool(*reversed(documents), marker_cap=7))) == kept
    assert list(SPEC.build(make_pool(*documents, marker_cap=7, seed=1))) != kept


def test_lower_case_text_stays_lower_case():
    assert EN.split("however, it rained.").rest == "it rained."
