from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.data.batch import Source
from pretrain.data.feed import order
from pretrain.tasks.spec import BASIC, UNIT_START, WORD_START, Settings, Tokens, Vocabulary


@given(size=st.integers(1, 400), seed=st.integers(0, 2**32), start=st.integers(0, 3))
def test_every_epoch_visits_every_instance_once(size, seed, start):
    seen = [order(position, size, seed, "a") for position in range(start * size, (start + 1) * size)]
    assert [epoch for epoch, _ in seen] == [start] * size
    assert sorted(index for _, index in seen) == list(range(size))


@pytest.mark.parametrize("other", [dict(seed=1), dict(task="b"), dict(epoch=1)], ids=str)
def test_seed_task_and_epoch_each_change_the_order(other):
    size = 1000

    def whole(seed=0, task="a", epoch=0):
        return [order(epoch * size + i, size, seed, task)[1] for i in range(size)]

    stays = sum(a == b for a, b in zip(whole(), whole(**other), strict=True))
    assert stays < 20  # a random permutation keeps one in place, on average


def test_neighbours_do_not_stay_together():
    size = 10_000
    indices = [order(position, size, 0, "a")[1] for position in range(size)]
    close = sum(abs(a - b) < 100 for a, b in pairwise(indices))
    assert 100 < close < 300  # 2 % of 10,000 pairs by chance


def test_a_position_is_found_without_going_through_the_ones_before():
    assert order(10**15 + 7, 10**9, 0, "a")[0] == 10**6


def test_phases_share_the_budget_equally_and_the_last_goes_on():
    """A phase is known by the place in the feed alone, so a resumed run and other ranks meet the same."""
    shares = (0.2, 0.5, 0.8)
    tokens = Tokens(np.arange(10, 30), np.full(20, BASIC | UNIT_START | WORD_START, np.uint8))
    vocabulary = Vocabulary(1, 2, 3, 0, np.arange(10, 30))
    phases = [Settings(mask_share=share) for share in shares]
    source = Source("knowledge_masking", [([tokens], 0)] * 7, phases, vocabulary, 0, budget=12)
    counts = [len(source.at(position).targets["knowledge_masking"].positions) for position in range(16)]
    assert counts == [4] * 4 + [10] * 4 + [16] * 8
    assert len(source.draw(0, "validation").targets["knowledge_masking"].positions) == 4
