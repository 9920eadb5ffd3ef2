import time
import warnings

import numpy as np
import pytest
import seqeval.metrics
from scipy import stats
from sklearn import metrics as sklearn

from finetune.metrics import (
    METRICS,
    f1_of_counts,
    mrr_of_queries,
    ndcg_of_queries,
    span_counts,
)
from finetune.results import interval

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("size", [1, 5, 300])
def test_class_metrics_equal_scikit_learn(classes, size):
    warnings.simplefilter("ignore")
    truth, found = RNG.integers(0, classes, size), RNG.integers(0, classes, size)
    assert METRICS["accuracy"](truth, found) == pytest.approx(sklearn.accuracy_score(truth, found))
    assert METRICS["matthews"](truth, found) == pytest.approx(sklearn.matthews_corrcoef(truth, found))
    assert METRICS["macro_f1"](truth, found) == pytest.approx(sklearn.f1_score(truth, found, average="macro"))
    if classes == 2:
        assert METRICS["f1"](truth, found) == pytest.approx(sklearn.f1_score(truth, found, zero_division=0))


def test_correlations_equal_scipy_and_of_a_constant_are_0():
    x, y = RNG.integers(0, 6, 200) / 2, RNG.normal(size=200)
    assert METRICS["pearson"](x, y) == pytest.approx(stats.pearsonr(x, y)[0])
    assert METRICS["spearman"](x, y) == pytest.approx(stats.spearmanr(x, y)[0])
    assert METRICS["pearson_spearman"](x, np.zeros(200)) == 0


def random_tags(count: int) -> list[list[str]]:
    tags = ["O", "B-A", "I-A", "B-B", "I-B"]
    return [RNG.choice(tags, RNG.integers(1, 12)).tolist() for _ in range(count)]


def test_span_f1_equals_seqeval_and_counts_can_be_summed():
    truth = random_tags(300)
    found = [[tag if RNG.random() < 0.7 else str(RNG.choice(["O", "B-A", "I-B"])) for tag in row] for row in truth]
    assert METRICS["span_f1"](truth, found) == pytest.approx(seqeval.metrics.f1_score(truth, found))
    counts = span_counts(truth, found)
    drawn = RNG.integers(0, 300, 300)
    resampled = [truth[index] for index in drawn], [found[index] for index in drawn]
    assert f1_of_counts(counts[drawn]) == pytest.approx(seqeval.metrics.f1_score(*resampled))


def test_ndcg_equals_scikit_learn_also_in_ties():
    grades = [RNG.integers(0, 3, 8).tolist() for _ in range(50)]
    scores = [RNG.integers(0, 4, 8).tolist() for _ in range(50)]
    expected = [sklearn.ndcg_score([grade], [score]) for grade, score in zip(grades, scores, strict=True)]
    assert ndcg_of_queries(grades, scores) == pytest.approx(expected)


def test_mrr_is_1_over_the_place_and_among_ties_its_mean_over_all_orders():
    assert mrr_of_queries([[0, 1, 0]], [[3, 2, 1]]).tolist() == [0.5]
    grades = [0, 1, 0, 2, 0]
    draws = [1 / (1 + next(i for i, j in enumerate(RNG.permutation(5)) if grades[j])) for _ in range(20_000)]
    assert mrr_of_queries([grades], [[1] * 5])[0] == pytest.approx(np.mean(draws), abs=0.01)


def test_a_bootstrap_of_a_thousand_takes_seconds():
    truth, found = RNG.integers(0, 2, 1000), RNG.integers(0, 2, 1000)
    x, y = RNG.normal(size=1000), RNG.normal(size=1000)
    begun = time.process_time()
    for _ in range(1000):
        drawn = RNG.integers(0, 1000, 1000)
        METRICS["matthews"](truth[drawn], found[drawn])
        METRICS["pearson_spearman"](x[drawn], y[drawn])
    assert time.process_time() - begun < 10


def test_the_interval_is_students():
    scores = [0.7, 0.72, 0.75]
    mean, half = interval(scores)
    low, high = stats.t.interval(0.95, 2, loc=mean, scale=stats.sem(scores))
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert interval([0.7]) == (0.7, None)
