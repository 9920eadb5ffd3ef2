from collections import Counter

import numpy as np
import pytest
from documents import fits, make_document, make_pool, plain_documents, tokens_of

from pretrain.tasks.sentence_reordering import ORDERS, SPEC, num_classes
from pretrain.tasks.spec import Settings

POOL = make_pool(*plain_documents(6, 40))
INSTANCES = list(SPEC.build(POOL))


def draw(instance, seed, settings=POOL.settings):
    return SPEC.draw([tokens_of(run) for run in instance.segments], 0, np.random.default_rng(seed), settings)


@pytest.mark.parametrize("m", range(1, 7))
def test_classes(m):
    assert num_classes(m) == [1, 3, 9, 33, 153, 873][m - 1]
    assert {len(order) for order in ORDERS[: num_classes(m)]} == set(range(1, m + 1))
    assert list(ORDERS) == sorted(ORDERS, key=lambda order: (len(order), order))


def test_the_label_is_the_permutation_that_was_applied():
    for seed in range(200):
        instance = INSTANCES[seed % len(INSTANCES)]
        shown, label = draw(instance, seed)
        order = ORDERS[label]
        assert len(shown) == len(order)
        restored = [segment for _, segment in sorted(zip(order, shown, strict=True), key=lambda pair: pair[0])]
        whole = np.arange(instance.segments[0].start, instance.segments[-1].stop)
        assert (np.concatenate([segment.ids for segment in restored]) == whole).all()


def test_segments_are_cut_between_sentences_and_not_empty():
    for seed in range(100):
        instance = INSTANCES[seed % len(INSTANCES)]
        starts = {run.start for run in instance.segments}
        shown, _ = draw(instance, seed)
        assert all(len(segment.ids) == len(segment.annotations) > 0 for segment in shown)
        assert {int(segment.ids[0]) for segment in shown} <= starts


def test_classes_are_drawn_uniformly_and_all_are_reachable():
    instance = next(instance for instance in INSTANCES if len(instance.segments) >= 4)
    counts = Counter(draw(instance, seed)[1] for seed in range(6_600))
    assert set(counts) == set(range(33))
    assert max(counts.values()) < 2 * min(counts.values())


def test_few_sentences_are_not_cut_into_more_segments():
    pool = make_pool(make_document("two", ["a b c", "d e f"]))
    (instance,) = SPEC.build(pool)
    assert {draw(instance, seed)[1] for seed in range(50)} == {0, 1, 2}


def test_every_border_is_drawn():
    pool = make_pool(make_document("five", ["a", "b", "c", "d", "e"]), max_segments=2)
    (instance,) = SPEC.build(pool)
    drawn = (draw(instance, seed, pool.settings)[0] for seed in range(200))
    assert {len(shown[0].ids) for shown in drawn} == {1, 2, 3, 4, 5}


def test_stretches_fit_before_they_are_shuffled_and_fill_the_room():
    settings = POOL.settings
    room = settings.room(settings.max_segments)
    for instance in INSTANCES:
        assert sum(run.length for run in instance.segments) <= room
        assert all(a.stop == b.start for a, b in zip(instance.segments, instance.segments[1:], strict=False))
    num_sentences = sum(len(document.sentences) for document in POOL.documents)
    assert sum(len(instance.segments) for instance in INSTANCES) > 0.95 * num_sentences
    assert np.median([sum(run.length for run in instance.segments) for instance in INSTANCES]) > 0.8 * room


def test_a_sentence_too_long_is_in_no_stretch_and_ends_one():
    pool = make_pool(make_document("long", ["a b", "c d", " ".join("x" * 200), "e f", "g h"]))
    assert [instance.segments for instance in SPEC.build(pool)] == [((0, 2), (2, 4)), ((204, 206), (206, 208))]


def test_a_document_of_one_sentence_gives_nothing():
    assert list(SPEC.build(make_pool(make_document("one", ["a b c"])))) == []


def test_same_generator_same_order():
    assert draw(INSTANCES[0], 5)[1] == draw(INSTANCES[0], 5)[1]


def test_label_names_are_the_places_in_the_text():
    names = SPEC.labels(Settings(max_segments=3))
    assert names[:3] == ["1", "1 2", "2 1"] and len(names) == 9


def test_accuracy_is_reported_per_number_of_segments():
    labels = np.array([0, 1, 2, 3, 4])
    score = SPEC.metric(labels, np.array([0, 1, 1, 0, 0]))
    assert score.value == pytest.approx(0.4)
    assert score.chance == pytest.approx((1 + 1 / 2 + 1 / 2 + 1 / 6 + 1 / 6) / 5)
    assert score.detail == {"n=1": 1.0, "n=2": 0.5, "n=3": 0.0}


def test_instances_fit_whatever_is_drawn():
    for seed, instance in enumerate(INSTANCES):
        shown, _ = draw(instance, seed)
        assert sum(len(segment.ids) for segment in shown) <= POOL.settings.room(len(shown))
    assert all(fits(instance._replace(segments=instance.segments[:1]), POOL.settings) for instance in INSTANCES)
