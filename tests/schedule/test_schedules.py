from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.schedule import SCHEDULES, Stage

KINDS = st.sampled_from([kind for kind in SCHEDULES if kind != "alone"])
FAMILIES = [["a", "b", "c"], ["d", "e"], ["f", "g"]]


def steps(kind: str, tasks, budget: int) -> list[dict[str, int]]:
    return [stage.steps for stage in SCHEDULES[kind](tasks, budget)]


def test_sequential_is_the_published_table():
    assert steps("sequential", "abcd", 50_000) == [
        {"a": 20_000},
        {"a": 10_000, "b": 30_000},
        {"a": 10_000, "b": 10_000, "c": 40_000},
        {"a": 10_000, "b": 10_000, "c": 10_000, "d": 50_000},
    ]


def test_continual_and_joint():
    assert steps("continual", "abc", 5) == [{"a": 5}, {"b": 5}, {"c": 5}]
    assert steps("joint", "abc", 5) == [{"a": 5, "b": 5, "c": 5}]


def test_alone_spends_what_all_others_spend_on_all():
    assert steps("alone", ["a", ["b", "c"]], 5) == [{"a": 15}]


def test_pyramid_trains_every_combination_from_singles_to_all():
    stages = [tuple(stage) for stage in steps("pyramid", "abcd", 50_000)]
    assert stages == [members for size in range(1, 5) for members in combinations("abcd", size)]


@given(KINDS, st.integers(1, 7), st.integers(64, 100_000))
def test_every_schedule_spends_exactly_the_budget_on_every_task(kind, num_tasks, budget):
    tasks = "abcdefg"[:num_tasks]
    spent: Counter[str] = sum(map(Counter, steps(kind, tasks, budget)), Counter())
    assert spent == dict.fromkeys(tasks, budget)


@given(KINDS, st.integers(64, 10_000))
def test_a_group_is_introduced_together_and_spends_the_budget_too(kind, budget):
    made = steps(kind, FAMILIES, budget)
    assert sum(map(Counter, made), Counter()) == dict.fromkeys("abcdefg", budget)
    for stage in made:
        for family in FAMILIES:
            assert len({stage.get(task) for task in family}) == 1
    assert len(made) == {"sequential": 3, "continual": 3, "joint": 1, "pyramid": 7}[kind]


@given(KINDS, st.integers(1, 7), st.integers(1, 200))
def test_a_stage_trains_all_its_tasks_or_the_least_budget_is_named(kind, num_tasks, budget):
    tasks = "abcdefg"[:num_tasks]
    try:
        made = steps(kind, tasks, budget)
    except ValueError as error:
        assert f"budget of {budget}" in str(error)
        least = int(str(error).rsplit(" ", 1)[1].rstrip("."))
        assert least > budget
        made = steps(kind, tasks, least)
        with pytest.raises(ValueError, match="too small"):
            steps(kind, tasks, least - 1)
    assert all(count > 0 for stage in made for count in stage.values())


@given(st.integers(1, 7), st.integers(64, 10_000))
def test_pyramid_splits_a_budget_evenly(num_tasks, budget):
    made = steps("pyramid", "abcdefg"[:num_tasks], budget)
    counts = [stage["a"] for stage in made if "a" in stage]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("kind", SCHEDULES)
def test_mistakes_are_named(kind):
    with pytest.raises(ValueError, match="listed twice: a"):
        SCHEDULES[kind](["a", ["b", "a"]], 100)
    with pytest.raises(ValueError, match="needs tasks"):
        SCHEDULES[kind]([], 100)
    with pytest.raises(ValueError, match="budget of 0"):
        SCHEDULES[kind](["a"], 0)


def order(stage: Stage) -> list[str]:
    return [stage.task_at(step) for step in range(stage.total)]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=7))
def test_the_order_of_a_stage_is_exact_and_even(counts):
    stage = Stage(dict(zip("abcdefg", counts, strict=False)))
    done = dict.fromkeys(stage.steps, 0)
    for step, current in enumerate(order(stage)):
        assert {task: stage.done(task, step) for task in done} == done
        done[current] += 1
        for task, count in stage.steps.items():
            # every task is within half a step of its due, so the step itself within half the number of tasks
            assert abs(done[task] - count * (step + 1) / stage.total) <= 0.5 + len(counts) / 2
    assert done == stage.steps


def test_the_order_of_equal_counts_is_round_robin():
    assert order(Stage(dict.fromkeys("abc", 100))) == list("abc" * 100)


def test_a_step_of_a_stage_of_any_length_is_found_at_once():
    """An array of the order would take 7 GB here."""
    stage = Stage({task: 10**9 + number for number, task in enumerate("abcdefg")})
    tasks = [stage.task_at(6 * 10**9 + step) for step in range(70)]
    assert Counter(tasks) == dict.fromkeys("abcdefg", 10)
