"""What is told of ranks that failed, from the records that they left."""

from pathlib import Path

import pytest

from launch.errors import CRASH, LOST, MISTAKE, all_of, cause, clear, keep


@pytest.fixture
def logs(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CUMUL_HOST", "n0")
    return tmp_path / "logs"


def test_what_one_rank_found_is_told_with_its_name_what_all_found_without(logs):
    for rank in (0, 1):
        keep(logs, rank, ValueError("no such task"))
    assert cause(logs).line() == "no such task"
    clear(logs)
    keep(logs, 0, ConnectionError("rank 1 did not answer"))
    keep(logs, 1, ValueError("a shard is cut short"))
    assert (cause(logs).kind, cause(logs).line()) == (MISTAKE, "rank 1 on n0: a shard is cut short")


def test_who_lost_others_explains_nothing_where_one_crashed(logs):
    assert cause(logs) is None
    keep(logs, 0, ConnectionError("rank 1 did not answer"))
    assert (cause(logs).kind, cause(logs).line()) == (LOST, "rank 0 on n0: rank 1 did not answer")
    keep(logs, 1, RuntimeError("out of memory"))
    found = cause(logs)
    assert found.kind == CRASH and found.line().startswith("rank 1 on n0: RuntimeError: out of memory. See ")


def test_a_disk_that_fails_may_work_again_a_mistake_does_not_mend_itself(logs):
    keep(logs, 0, OSError("cannot write runs/mine/stage1: no space left on device"))
    assert cause(logs).kind == CRASH
    assert cause(logs).message == "cannot write runs/mine/stage1: no space left on device"
    keep(logs, 0, ValueError("lr=-1"))
    assert cause(logs).kind == MISTAKE


def test_ranks_of_a_larger_world_are_forgotten(logs):
    for rank in range(3):
        keep(logs, rank, RuntimeError("gone"))
    clear(logs, least=1)
    assert [path.name for path in all_of(logs)] == ["ended0.json"]
