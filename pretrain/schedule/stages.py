"""Schedules: pure functions from (tasks, budget) to stages. No model, no randomness, no clock.

A stage trains a set of tasks together, starting from the weights of the stage before. The budget is the steps that each
task gets in total: every schedule spends exactly the same on every task, else comparing them would mean nothing. Only
`alone` gives the whole to one task, so that the others can be compared with having none.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations

Tasks = Sequence[str | Sequence[str]]
"""In curriculum order; a sequence of tasks is a group that is introduced together."""


@dataclass(frozen=True)
class Stage:
    steps: dict[str, int]
    """Optimizer steps that each task gets in this stage."""

    @property
    def total(self) -> int:
        return sum(self.steps.values())

    def task_at(self, step: int) -> str:
        """The task of a step, counted from 0: each task is spread evenly over the stage, the same way on all ranks."""
        return next(task for task in self.steps if self.done(task, step) < self.done(task, step + 1))

    def done(self, task: str, step: int) -> int:
        """Steps of a task among the first `step` steps; found in time that does not grow with the stage."""
        return bisect_left(range(self.steps[task]), step, key=lambda number: self.place(task, number))

    def place(self, task: str, number: int) -> int:
        """The step at which a task has its turn `number`: of n, it is due at (number + ½) / n; ties as listed."""
        before, mine = number, self.steps[task]
        first = True
        for other, count in self.steps.items():
            if other == task:
                first = False
            else:
                due, unit = (2 * number + 1) * count - mine, 2 * mine
                before += min(count, max(0, due // unit + 1 if first else -(-due // unit)))
        return before


def continual(tasks: Tasks, budget: int) -> list[Stage]:
    """One group after the other, never to return."""
    return [Stage(dict.fromkeys(group, budget)) for group in grouped(tasks, budget)]


def joint(tasks: Tasks, budget: int) -> list[Stage]:
    """All tasks at once, in one stage."""
    return [Stage(dict.fromkeys(chain(*grouped(tasks, budget)), budget))]


def sequential(tasks: Tasks, budget: int) -> list[Stage]:
    """Stage i introduces group i and keeps training all earlier ones (ERNIE 2.0, sequential multi-task learning).

    With n groups, an earlier group gets u = budget / (n + 1) steps in every later stage and the new one the rest of its
    budget. Four tasks of 50k: 20k, then 10k 30k, then 10k 10k 40k, then 10k 10k 10k 50k.
    """
    groups = grouped(tasks, budget)
    last = len(groups) - 1
    least = len(groups) + 1 if last else 1
    revisit = budget // (len(groups) + 1)
    require(budget, least, f"sequential revisits each of {len(groups)} groups in every later stage")
    return [
        Stage(
            dict.fromkeys(chain(*groups[:i]), revisit) | dict.fromkeys(groups[i], budget - revisit * (last - i)),
        )
        for i in range(len(groups))
    ]


def pyramid(tasks: Tasks, budget: int) -> list[Stage]:
    """All single groups, then all pairs, …, then all together: a task spreads its budget over its 2ⁿ⁻¹ stages."""
    groups = grouped(tasks, budget)
    num_visits = 2 ** (len(groups) - 1)
    require(budget, num_visits, f"pyramid trains each of {len(groups)} groups in {num_visits} stages")
    visited = dict.fromkeys(chain(*groups), 0)
    stages = []
    for size in range(1, len(groups) + 1):
        for members in combinations(groups, size):
            steps = {}
            for task in chain(*members):
                done = visited[task]
                steps[task] = budget * (done + 1) // num_visits - budget * done // num_visits
                visited[task] += 1
            stages.append(Stage(steps))
    return stages


def alone(tasks: Tasks, budget: int) -> list[Stage]:
    """The first task with the budget of all."""
    names = list(chain(*grouped(tasks, budget)))
    return [Stage({names[0]: budget * len(names)})]


def grouped(tasks: Tasks, budget: int) -> list[tuple[str, ...]]:
    groups = [(entry,) if isinstance(entry, str) else tuple(entry) for entry in tasks]
    names = list(chain(*groups))
    if not groups or not all(groups):
        raise ValueError(f"a schedule needs tasks, got {list(tasks)}")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"tasks are listed twice: {', '.join(repeated)}. Name each task once.")
    require(budget, 1, "every task needs a step")
    return groups


def require(budget: int, least: int, reason: str) -> None:
    if budget < least:
        raise ValueError(f"a budget of {budget} steps per task is too small: {reason}. Use at least {least}.")
