from collections import Counter, defaultdict

import numpy as np
import pytest
from documents import fits, is_whole_sentences, make_document, make_pool, owner, plain_documents

from pretrain.tasks.sentence_distance import ADJACENT, OTHER_DOCUMENT, SAME_DOCUMENT, SPEC
from pretrain.tasks.spec import Run

POOL = make_pool(*plain_documents(12, 60))
INSTANCES = list(SPEC.build(POOL))


def test_labels_are_true():
    for (first, second), label in INSTANCES:
        one, two = owner(POOL, first), owner(POOL, second)
        assert is_whole_sentences(one, first) and is_whole_sentences(two, second)
        if label == OTHER_DOCUMENT:
            assert one.id != two.id
        else:
            assert one.id == two.id
            assert first.stop <= second.start, "always forward"
            assert (first.stop == second.start) == (label == ADJACENT)


def test_every_first_span_meets_every_class_once():
    classes = defaultdict(list)
    for (first, _), label in INSTANCES:
        classes[first].append(label)
    assert classes
    assert all(sorted(labels) == [ADJACENT, SAME_DOCUMENT, OTHER_DOCUMENT] for labels in classes.values())


def test_every_third_instance_is_not_one_class():
    assert max(Counter(label for _, label in INSTANCES[::3]).values()) < 0.6 * len(INSTANCES[::3])


def test_instances_fit():
    assert all(fits(instance, POOL.settings) for instance in INSTANCES)


def test_length_does_not_tell_the_class():
    pool = make_pool(*plain_documents(60, 40), *renamed(plain_documents(60, 6, seed=1), start=10**6))
    lengths: dict[Run, dict[int, int]] = defaultdict(dict)
    for (first, second), label in SPEC.build(pool):
        lengths[first][label] = second.length
    adjacent, same, other = (np.array([found[label] for found in lengths.values()]) for label in range(3))
    assert [same.mean(), other.mean()] == pytest.approx([adjacent.mean()] * 2, rel=0.1)
    assert np.abs(adjacent - other).mean() < 1


def renamed(documents, start):
    """The same documents elsewhere in the store, under other ids."""
    texts = [[sentence.text for sentence in document.sentences] for document in documents]
    return [make_document(f"short{i}", text, start=start + 10_000 * i) for i, text in enumerate(texts)]


def test_order_of_documents_does_not_change_instances():
    turned = make_pool(*reversed(POOL.documents))
    assert sorted(SPEC.build(turned)) == sorted(INSTANCES)


def test_short_documents_of_three_sentences_serve():
    pool = make_pool(*(make_document(f"d{i}", ["a b c", "d e f", "g h i"], start=9 * i) for i in range(3)))
    assert Counter(label for _, label in SPEC.build(pool)) == {ADJACENT: 3, SAME_DOCUMENT: 3, OTHER_DOCUMENT: 3}


def test_two_sentences_or_a_single_document_give_nothing():
    two = [make_document(f"d{i}", ["a b c", "d e f"], start=6 * i) for i in range(3)]
    assert list(SPEC.build(make_pool(*two))) == []
    assert list(SPEC.build(make_pool(*plain_documents(1, 40)))) == []


def test_spans_around_a_sentence_too_long_are_not_adjacent():
    long = " ".join("x" * 200)
    pool = make_pool(
        make_document("a", ["a b c", long, *["d e f g h i j k l m"] * 30]),
        make_document("b", ["k l m"] * 3, start=1_000),
    )
    firsts = {first for (first, _), _ in SPEC.build(pool)}
    assert Run(0, 3) not in firsts
    assert any(203 <= first.start < 1_000 for first in firsts)
