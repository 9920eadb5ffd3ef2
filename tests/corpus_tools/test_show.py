import pytest
from rich.console import Console

from corpus_tools.shards import Instances, read_manifest
from corpus_tools.show import show
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
    assert "Mount+ Hale+»" in text and "near «" in text
    masked = printed(english_corpus, "knowledge_masking", count=50)
    assert "[" in masked and "=]" in masked and "→" in masked


def test_chinese_is_not_spaced(chinese_corpus):
    text = printed(chinese_corpus, "sentence_reordering", count=5)
    lines = [line[2:] for line in text.splitlines() if line[1:2] == "│"]
    assert lines and not any(" " in line for line in lines)
    assert "‹" in text


def test_same_seed_same_instances(english_corpus):
    assert printed(english_corpus, "knowledge_masking", seed=1) == printed(english_corpus, "knowledge_masking", seed=1)
    assert printed(english_corpus, "knowledge_masking", seed=1) != printed(english_corpus, "knowledge_masking", seed=2)


def test_a_task_that_the_corpus_lacks(chinese_corpus):
    with pytest.raises(ValueError, match="no task 'capitalization'"):
        show(chinese_corpus, "capitalization")
