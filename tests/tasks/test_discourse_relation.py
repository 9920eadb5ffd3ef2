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


PAIRS = {
    "虽然他没有来参加，会议却照常举行了。": ("他没有来参加", "会议照常举行了。", "虽然…却"),
    "尽管天气非常寒冷，他们仍然坚持训练。": ("天气非常寒冷", "他们坚持训练。", "虽然…却"),
    "如果明天早上下雨，我们就留在家里。": ("明天早上下雨", "我们留在家里。", "如果…就"),
    "如果明天早上下雨，则我们就留在家里。": ("明天早上下雨", "我们留在家里。", "如果…就"),
    "只要光还存在，他就永远不会消失。": ("光还存在", "他永远不会消失。", "只要…就"),
    "只有获得密钥，才可以正常放映。": ("获得密钥", "可以正常放映。", "只有…才"),
    "一旦斗殴开始，裁判就把双方分开。": ("斗殴开始", "裁判把双方分开。", "一旦…就"),
    "即使是普通市民，也可以乘车越过国境。": ("是普通市民", "可以乘车越过国境。", "即使…也"),
    "无论身在哪个位置，他都想踢球。": ("身在哪个位置", "他想踢球。", "无论…都"),
    "不仅增加了伴奏表演，还增加了歌词。": ("增加了伴奏表演", "增加了歌词。", "不但…还"),
    "既满足了国内需求，又解决了运输问题。": ("满足了国内需求", "解决了运输问题。", "既…又"),
    "与其在这里等待，不如自己去找他。": ("在这里等待", "自己去找他。", "不如"),
    "他们宁可饿着肚子，也不接受施舍。": ("他们饿着肚子", "不接受施舍。", "宁可…也不"),
    "之所以没有找到，是因为它不在岛上。": ("没有找到", "它不在岛上。", "之所以…是因为"),
    "一方面进行谈判，一方面准备战争。": ("进行谈判", "准备战争。", "另一方面"),
    "他虽然身受重伤，但却成功逃了出去。": ("他身受重伤", "成功逃了出去。", "但"),
    "首先搜集所有的资料，然后仔细观看。": ("搜集所有的资料", "仔细观看。", "然后"),
    "第二次世界大战时葡萄牙虽保持中立，但借出了基地。": ("第二次世界大战时葡萄牙保持中立", "借出了基地。", "但"),
}


@pytest.mark.parametrize("sentence", PAIRS)
def test_both_halves_of_a_pair_go_though_a_subject_stands_before_the_second(sentence):
    before, after, name = PAIRS[sentence]
    assert pairs(sentence, language="zh") == [((before, after), name)]


@pytest.mark.parametrize(
    "sentence",
    [
        "如果明天早上下雨，大家留在家里。",  # the second half is missing
        "他昨天没有来参加，却在今天来了。",  # a joining word that is no marker
        "他昨天没有来参加，而会议照常举行了。",
        "但因为一直下雨，会议推迟了很久。",
        "除非明天早上下雨，大家都会来参加。",
    ],
)
def test_what_still_shows_how_it_was_joined_is_of_no_class(sentence):
    assert ZH.read(*sentence.split("，")) is None


@pytest.mark.parametrize(
    "sentence",
    [
        "他主要是研究历史，成就非常多。",
        "他不单独行动，还会来。",
        "与其他人一起，他们来了。",
        "他来是因为下雨，就这样。",
    ],
)
def test_words_that_only_contain_a_half_are_none(sentence):
    before, after = sentence.split("，")
    assert ZH.read(before, after) == (0, before, after)


def test_a_first_half_that_was_answered_before_stays():
    before, after = "即使他撞上了也不会脱轨", "车厢之间也有连接。"
    assert ZH.read(before, after) == (0, before, after)
    before, after = "他虽然不得志，但仍然发掘人才", "向来称许别人。"
    assert ZH.read(before, f"不过{after}") == (ZH.numbers["不过"], before, after)


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


def test_marked_pairs_bring_their_own_classes():
    settings = Settings("zh", relations=("cause", "contrast"))
    assert SPEC.labels(settings) == ["cause", "contrast"] != SPEC.labels(Settings("zh"))


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
