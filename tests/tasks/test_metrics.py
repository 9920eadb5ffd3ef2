import numpy as np
import pytest

from pretrain.tasks import TASKS
from pretrain.tasks.metrics import accuracy, balanced_accuracy, f1, majority_share

LABELS = np.array([0, 0, 0, 1])


def test_accuracy_and_what_guessing_reaches():
    assert accuracy(LABELS, np.array([0, 0, 1, 1])) == 0.75
    assert majority_share(LABELS) == 0.75


def test_f1_of_class_1():
    assert f1(LABELS, np.array([0, 0, 1, 1])) == pytest.approx(2 / 3)  # precision 1/2, recall 1
    assert f1(LABELS, np.zeros(4)) == 0
    assert f1(np.zeros(4), np.zeros(4)) == 0


def test_balanced_accuracy_weighs_classes_alike():
    assert balanced_accuracy(LABELS, np.zeros(4)) == 0.5
    assert balanced_accuracy(LABELS, np.array([0, 0, 1, 1])) == pytest.approx((2 / 3 + 1) / 2)


def test_chance_of_capitalization_is_always_saying_yes():
    p = 0.25
    assert TASKS["capitalization"].metric(LABELS, LABELS).chance == pytest.approx(2 * p / (1 + p))


def test_chance_of_token_document_is_a_half():
    assert TASKS["token_document"].metric(LABELS, LABELS) == (1.0, 0.5, {})
