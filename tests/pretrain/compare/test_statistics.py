import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from pretrain.compare.statistics import (
    LEAST_SEEDS,
    Sample,
    backward_transfer,
    forgetting,
    holm,
    intransigence,
    mean_interval,
    multi_bootstrap,
)

NEW = np.nan
MATRIX = np.array([[0.9, NEW, NEW], [0.5, 0.8, NEW], [0.6, 0.9, 0.7]])


def of_seeds(first, second) -> Sample:
    """A test set whose examples do not matter."""
    return Sample(1, lambda examples: np.array([first, second]))


def of_examples(right: np.ndarray) -> Sample:
    """(2, seeds, examples): what each arm and seed got right."""
    return Sample(right.shape[2], lambda examples: right[:, :, examples].mean(axis=2))


def test_a_matrix_by_hand():
    assert backward_transfer(MATRIX) == pytest.approx([-0.3, 0.1, NEW], nan_ok=True)
    assert forgetting(MATRIX) == pytest.approx([0.3, -0.1, NEW], nan_ok=True)
    assert intransigence(MATRIX, np.array([0.8, 0.8, 0.8])) == pytest.approx([-0.1, 0.0, 0.1])


def test_forgetting_counts_from_the_best_stage_not_the_first():
    matrix = np.array([[0.5, NEW], [0.8, 0.1], [0.6, 0.1]])
    assert forgetting(matrix)[0] == pytest.approx(0.2)
    assert backward_transfer(matrix)[0] == pytest.approx(0.1)


def test_one_stage_forgets_nothing_that_could_be_told():
    joint = np.array([[0.5, 0.6]])
    assert np.isnan(forgetting(joint)).all() and np.isnan(backward_transfer(joint)).all()
    assert intransigence(joint, joint[-1]).tolist() == [0, 0]


def test_a_task_that_no_stage_trains_is_an_error():
    with pytest.raises(ValueError, match="no score"):
        forgetting(np.array([[0.5, NEW]]))


def test_the_interval_of_a_mean():
    mean, low, high = mean_interval([1.0, 2.0, 3.0, 4.0])
    assert (mean, low, high) == pytest.approx((2.5, 0.4457, 4.5543), abs=1e-3)
    assert np.isnan(mean_interval([1.0]).low)


@pytest.mark.parametrize("seeds", [4, 6])
def test_intervals_over_few_seeds_hold_the_truth_as_often_as_they_say(seeds):
    rng, covered, claimed, trials = np.random.default_rng(seeds), 0, 0, 400
    for _ in range(trials):
        shared = rng.normal(size=seeds)
        found = multi_bootstrap([of_seeds(shared + rng.normal(size=seeds), shared)], seeds, repeats=300)
        covered += found.low <= 0 <= found.high
        claimed += found.p < 0.05
    assert 0.92 <= covered / trials <= 0.985
    assert claimed / trials <= 0.08


def test_it_sees_what_a_paired_test_sees():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=8)
    first, second = shared + 0.5 + 0.1 * rng.normal(size=8), shared
    found = multi_bootstrap([of_seeds(first, second)], 8)
    truth = ttest_rel(first, second).confidence_interval()
    assert (found.low, found.high) == pytest.approx((truth.low, truth.high), abs=0.06)
    assert found.p < 0.01 and found.mean == pytest.approx((first - second).mean())


def test_few_examples_widen_the_interval():
    rng = np.random.default_rng(0)
    widths = []
    for examples in (25, 2500):
        right = rng.random((2, 8, examples)) < np.array([0.8, 0.7])[:, None, None]
        found = multi_bootstrap([of_examples(right.astype(float))], 8, repeats=500)
        widths.append(found.high - found.low)
    assert widths[0] > 3 * widths[1]


def test_the_same_test_set_for_both_arms_takes_its_difficulty_out():
    """Both arms fail on the same half of the examples; one of them on a few more."""
    hard = np.arange(200) < 100
    right = np.stack([~hard, ~hard & (np.arange(200) < 190)]).astype(float)[:, None].repeat(4, 1)
    found = multi_bootstrap([of_examples(right)], 4, repeats=500)
    assert found.low > 0 and found.mean == pytest.approx(0.05)


def test_ties_claim_nothing_and_p_has_a_floor():
    same = multi_bootstrap([of_seeds([0.5] * 4, [0.5] * 4)], 4, repeats=500)
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)
    sure = multi_bootstrap([of_seeds([0.9] * 4, [0.5] * 4)], 4, repeats=500)
    assert sure.p == pytest.approx(2 / 501)


def test_swapping_the_arms_turns_the_difference_round():
    rng = np.random.default_rng(1)
    right = rng.random((2, 5, 60))
    one = multi_bootstrap([of_examples(right)], 5, repeats=400)
    other = multi_bootstrap([of_examples(right[::-1])], 5, repeats=400)
    assert (other.mean, other.low, other.high, other.p) == pytest.approx((-one.mean, -one.high, -one.low, one.p))


def test_one_seed_has_no_interval():
    assert LEAST_SEEDS > 2
    with pytest.raises(ValueError, match="two or more"):
        multi_bootstrap([of_seeds([1.0], [0.0])], 1)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.02, 0.9]) == pytest.approx([1.0, 0.06, 1.0])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_never_below_the_p_value_keeps_its_order_and_more_claims_cost_more(p_values):
    adjusted = holm(p_values)
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()
    more = holm([*p_values, 1.0])
    assert all(a <= m for a, m in zip(adjusted, more, strict=False))
