"""What the steps of a stage read: every instance of the feed in turn, on any rank, from any step on."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pretrain.data.batch import shorten
from pretrain.data.steps import Steps, read_ahead
from pretrain.loop import State
from pretrain.schedule import Stage
from pretrain.schedule.reading import Growth, Reading
from pretrain.tasks.spec import Tokens
from pretrain.train import read_sources, steps_of
from pretrain.world import join

STAGE = Stage({"knowledge_masking": 7, "sentence_distance": 5})


def reading(growth: Growth | None = None, stage: Stage = STAGE) -> Reading:
    return Reading(stage, batch_size=8, max_length=64, growth=growth)


@given(
    st.integers(1, 20),
    st.sampled_from([None, 1, 2, 4, 8]),
    st.sampled_from([None, 16, 64]),
)
def test_a_feed_is_read_without_gaps_while_batches_grow(steps, batch_size, max_length):
    read = reading(Growth(steps, batch_size, max_length))
    done = dict.fromkeys(STAGE.steps, 0)
    for step in range(STAGE.total):
        assert {task: read.before(task, step) for task in done} == done
        done[STAGE.task_at(step)] += read.size(step)
    sizes, lengths = ([of(step) for step in range(STAGE.total)] for of in (read.size, read.length))
    assert sizes == sorted(sizes) and lengths == sorted(lengths)
    assert sizes[0] == (batch_size or 8) and lengths[0] == (max_length or 64)
    assert all(size % (batch_size or 8) == 0 for size in sizes)
    assert all(size == 8 and length == 64 for size, length in zip(sizes[steps:], lengths[steps:], strict=True))


def steps(config, growth=None, rank=0, ranks=1, micro=8) -> Steps:
    sources = read_sources(config, "train", list(STAGE.steps))
    return Steps(reading(growth), sources, {"knowledge_masking": 1000}, ["knowledge_masking"], micro, rank, ranks)


def same(first, second) -> bool:
    return all(
        a.task == b.task and a.ids.tolist() == b.ids.tolist() and a.counts == b.counts
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("readers", [0, 2])
def test_reading_ahead_gives_the_steps_themselves_in_their_order(tiny, readers):
    plain = steps(tiny)
    ahead = list(read_ahead(plain, 3, readers, gpu=False))
    assert len(ahead) == STAGE.total - 3
    assert all(same(batches, plain[step]) for step, batches in enumerate(ahead, 3))


def test_ranks_and_micro_batches_share_the_instances_of_a_step(tiny):
    """Whole instances, in the order of the feed: rank r has every second one, from r on."""
    for step in range(STAGE.total):
        (whole,) = steps(tiny)[step]
        parts = whole.ids.split(whole.layout.lengths)
        for rank in range(2):
            mine = steps(tiny, rank=rank, ranks=2, micro=3)[step]
            assert [len(batch.layout.lengths) for batch in mine] == [2, 2]
            shared = [part.tolist() for batch in mine for part in batch.ids.split(batch.layout.lengths)]
            assert shared == [part.tolist() for part in parts[rank::2]]


def test_a_stage_that_goes_on_reads_what_an_unbroken_one_reads(tiny):
    world, stage = join(), 2
    sources = read_sources(tiny, "train", tiny.tasks)
    whole = steps_of(tiny, stage, sources, State(stage=stage), world)
    positions = dict.fromkeys(tiny.tasks, 0)
    for step in range(len(whole)):
        resumed = steps_of(tiny, stage, sources, State(stage=stage, step=step, positions=dict(positions)), world)
        assert [resumed.share(later) for later in range(len(whole))] == [whole.share(s) for s in range(len(whole))]
        task, position, size = whole.share(step)
        positions[task] = position + size


def test_a_position_of_a_billion_is_as_near_as_the_first(tiny):
    """Neither the order of steps nor that of instances is ever written out."""
    far = Stage({"knowledge_masking": 10**9, "sentence_distance": 10**9})
    read = Steps(Reading(far, 8, 64), steps(tiny).sources, {}, [], 8)
    (batch,) = next(read_ahead(read, 10**9, 0, gpu=False))
    assert read.share(10**9).position == 4 * 10**9 and batch.num_tokens > 8


def test_short_sequences_first(tiny):
    growth = Growth(steps=6, max_length=20)
    short, full = steps(tiny, growth), steps(tiny)
    for step in range(STAGE.total):
        (batch,), (whole,) = short[step], full[step]
        assert max(batch.layout.lengths) <= short.reading.length(step)
        assert len(batch.layout.lengths) == len(whole.layout.lengths)
    assert max(short[0][0].layout.lengths) <= 20 < max(full[0][0].layout.lengths)
    assert all(same(short[step], full[step]) for step in range(6, STAGE.total))


@example([1, 1, 8], 5)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.integers(5, 100))
def test_shortened_segments_keep_their_beginnings(lengths, room):
    segments = [Tokens(np.arange(length), np.zeros(length, np.uint8)) for length in lengths]
    short = shorten(segments, room)
    assert all(s.ids.tolist() == list(range(len(s.ids))) and len(s.ids) == len(s.annotations) > 0 for s in short)
    assert sum(len(s.ids) for s in short) <= max(room, len(lengths))
    if sum(lengths) <= room:
        assert [len(s.ids) for s in short] == lengths


def test_the_budget_of_the_phases_counts_what_growing_batches_read(tiny):
    def budget(growth: dict) -> int:
        tree = tiny.model_dump(mode="json")
        config = type(tiny).model_validate(tree | {"train": tree["train"] | {"growth": growth}})
        return read_sources(config, "train", ["knowledge_masking"])["knowledge_masking"].budget

    assert budget({}) == tiny.schedule.steps_per_task * tiny.train.batch_size
    assert budget({1: {"steps": 4, "batch_size": 2}}) < budget({})
