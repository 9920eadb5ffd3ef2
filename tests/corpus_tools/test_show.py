import re

import pytest
from rich.console import Console

from corpus_tools.shards import Instances, read_manifest
from corpus_tools.show import show, spaced
from pretrain.tasks import TASKS


def printed(corpus, task: str, **settings) -> str:
    console = Console(width=400)
    with console.capture() as capture:
        console.print(show(corpus, task, **settings))
    return capture.get()


@pytest.mark.parametrize("task", TASKS)
def test_instances_are_shown_with_their_labels_in_words(english_corpus, task):
    text = printed(english_corpus, task, count=4, seed=5)
    assert text.startswith(f"{task}: {TASKS[task].summary}")
    labels = [line.removeprefix("label: ") for line in text.splitlines() if line.startswith("label: ")]
    assert set(labels) <= set(read_manifest(english_corpus)["tasks"][task]["labels"] or [])
    assert len(labels) == (0 if TASKS[task].target else 4)
    assert text.count("\nA│") == 4
    assert "##" not in text


def test_the_label_is_that_of_the_instance(english_corpus):
    instances = Instances(english_corpus, "train", "sentence_distance")
    names = read_manifest(english_corpus)["tasks"]["sentence_distance"]["labels"]
    text = printed(english_corpus, "sentence_distance", count=len(instances))
    shown = [line.removeprefix("label: ") for line in text.splitlines() if line.startswith("label: ")]
    assert shown == [names[label] for _, label in instances]


def test_capitals_entities_and_masks_are_visible(english_corpus):
    text = printed(english_corpus, "capitalization", count=50)
    assert "near Mount+ Hale+" in text and "«" not in text
    masked = printed(english_corpus, "knowledge_masking", count=50)
    assert "[" in masked and "=]" in masked and "→" in masked and "near «" in masked


def test_chinese_is_not_spaced(chinese_corpus):
    text = printed(chinese_corpus, "sentence_reordering", count=5)
    lines = [line[2:] for line in text.splitlines() if line[1:2] == "│"]
    assert lines and not any(" " in line for line in lines)
    assert "‹" in printed(chinese_corpus, "knowledge_masking", count=5)


@pytest.mark.parametrize(
    "text",
    [
        'He said "no" to it, "yes" to 1,000 others ("why?").',
        "In the U.S. it costs $3.5, e.g. at Anna's.",
        "The non-observant and/or others don't (1927–28) 50%.",
        "On May 2, 1905, 400 came to Ἀχιλλεύς.",
    ],
)
def test_spaces_are_mostly_where_they_were(text):
    pieces = re.findall(r"\w+|[^\w\s]", text)
    shown, quoted = pieces[0], False
    for place, piece in enumerate(pieces[1:], 1):
        shown += " " * spaced(pieces[max(0, place - 2) : place + 1], quoted) + piece
        quoted ^= piece == '"'
    assert shown == text


def test_the_mark_of_a_word_stands_behind_all_its_pieces(english_corpus, chinese_corpus):
    text = printed(english_corpus, "capitalization", count=50)
    for name in ("Anna+ Keller+", "Maria+ Ortega+", "Lake+ Vendis+", "Port+ Aldine+"):
        assert name in text
    assert "花园+" in printed(chinese_corpus, "token_document", count=50)


def test_same_seed_same_instances(english_corpus):
    assert printed(english_corpus, "knowledge_masking", seed=1) == printed(english_corpus, "knowledge_masking", seed=1)
    assert printed(english_corpus, "knowledge_masking", seed=1) != printed(english_corpus, "knowledge_masking", seed=2)


def test_a_task_that_the_corpus_lacks(chinese_corpus):
    with pytest.raises(ValueError, match="no task 'capitalization'"):
        show(chinese_corpus, "capitalization")
