"""What is told of ranks that failed, from the records that they left."""

import pytest

from launch.errors import CRASH, LOST, MISTAKE, all_of, cause, clear, keep
from pretrain.config import Config


@pytest.fixture
def config(tmp_path, monkeypatch) -> Config:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUMUL_HOST", "n0")
    return Config()


def test_what_one_rank_found_is_told_with_its_name_what_all_found_without(config):
    for rank in (0, 1):
        keep(config, rank, ValueError("no such task"))
    assert cause(config).line() == "no such task"
    clear(config)
    keep(config, 0, ConnectionError("rank 1 did not answer"))
    keep(config, 1, ValueError("a shard is cut short"))
    assert (cause(config).kind, cause(config).line()) == (MISTAKE, "rank 1 on n0: a shard is cut short")


def test_who_lost_others_explains_nothing_where_one_crashed(config):
    assert cause(config) is None
    keep(config, 0, ConnectionError("rank 1 did not answer"))
    assert (cause(config).kind, cause(config).line()) == (LOST, "rank 0 on n0: rank 1 did not answer")
    keep(config, 1, RuntimeError("out of memory"))
    found = cause(config)
    assert found.kind == CRASH and found.line().startswith("rank 1 on n0: RuntimeError: out of memory. See ")


def test_a_disk_that_fails_may_work_again_a_mistake_does_not_mend_itself(config):
    keep(config, 0, OSError("cannot write runs/mine/stage1: no space left on device"))
    assert cause(config).kind == CRASH
    assert cause(config).message == "cannot write runs/mine/stage1: no space left on device"
    keep(config, 0, ValueError("lr=-1"))
    assert cause(config).kind == MISTAKE


def test_ranks_of_a_larger_world_are_forgotten(config):
    for rank in range(3):
        keep(config, rank, RuntimeError("gone"))
    clear(config, least=1)
    assert [path.name for path in all_of(config)] == ["ended0.json"]
