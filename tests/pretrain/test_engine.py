"""What DeepSpeed is asked to promise: the same run on any number of ranks, micro-batches and ZeRO stages."""

import pytest
from conftest import make_tiny
from ranks import run_ranks

from pretrain.config import TrainConfig
from pretrain.deepspeed_config import deepspeed_config

TASKS = ["knowledge_masking", "capitalization", "sentence_distance"]
STEPS = {"knowledge_masking": 2, "sentence_distance": 2}


def train(tiny, tmp_path, size, steps=STEPS, known=TASKS, moments_from=None, **settings):
    config = tiny.model_dump(mode="json")
    config["train"] |= settings
    folder = tmp_path / f"{size}-{'-'.join(f'{k}{v}' for k, v in settings.items())}"
    folder.mkdir()
    (folder / "corpora").symlink_to(tmp_path / "corpora")
    return folder, run_ranks(
        "cases:train_some", size, folder, config=config, steps=steps, known=known,
        moments_from=moments_from and str(moments_from),
    )  # fmt: skip


def assert_same_run(one, other):
    assert one["positions"] == other["positions"]
    for first, second in zip(one["losses"], other["losses"], strict=True):
        assert first == pytest.approx(second, rel=2e-5)
    assert one["weights"] == pytest.approx(other["weights"], rel=1e-3, abs=2e-3)


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_rank")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return train(make_tiny(), folder, 1)[1][0]


@pytest.mark.parametrize(("size", "settings"), [(2, {}), (3, {"micro_batch_size": 2, "zero_stage": 2})])
def test_more_ranks_equal_one(tiny, tmp_path, one_rank, size, settings):
    """Also where 8 instances are 3, 3 and 2."""
    _, (first, *others) = train(tiny, tmp_path, size, **settings)
    assert all(first["weights"] == other["weights"] for other in others)
    assert_same_run(one_rank, first)


def test_uneven_micro_batches_equal_one_batch(tiny, tmp_path, one_rank):
    assert_same_run(one_rank, train(tiny, tmp_path, 1, micro_batch_size=3)[1][0])


@pytest.mark.parametrize("zero_stage", [pytest.param(1, marks=pytest.mark.slow), 2, 3])
def test_zero_equals_plain(tiny, tmp_path, one_rank, zero_stage):
    _, (first, second) = train(tiny, tmp_path, 2, zero_stage=zero_stage, micro_batch_size=2)
    assert first["weights"] == second["weights"]
    assert_same_run(one_rank, first)
    assert first["moments"] == pytest.approx(one_rank["moments"], rel=1e-2, abs=1e-5)
    assert first["updates"] == one_rank["updates"]


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_offload_equals_plain(tiny, tmp_path, one_rank, zero_stage):
    _, (first, second) = train(tiny, tmp_path, 2, zero_stage=zero_stage, micro_batch_size=2, offload=True)
    assert first["weights"] == second["weights"]
    assert_same_run(one_rank, first)
    assert first["moments"] == pytest.approx(one_rank["moments"], rel=1e-2, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("zero_stage", [0, 1, 2])
def test_gradients_in_bf16_train_nearly_the_same(tiny, tmp_path, one_rank, zero_stage, precision):
    settings = {"zero_stage": zero_stage, "precision": precision}
    (plain, _), (first, second) = (
        train(tiny, tmp_path, 2, communication=how, **settings)[1] for how in ("fp32", "bf16")
    )
    assert first["weights"] == second["weights"]
    assert first["moments"] != plain["moments"], "else they did not travel in bf16"
    assert first["moments"] == pytest.approx(plain["moments"], rel=0.1, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["compile", "activation_checkpointing"])
def test_under_zero_3_layers_may_be_compiled_or_computed_twice(tiny, tmp_path, one_rank, way):
    _, (first, second) = train(tiny, tmp_path, 2, zero_stage=3, micro_batch_size=2, **{way: True})
    assert first["weights"] == second["weights"]
    assert_same_run(one_rank, first)


@pytest.mark.parametrize(("size", "zero_stage"), [(1, 0), pytest.param(2, 1, marks=pytest.mark.slow), (2, 3)])
def test_an_idle_head_does_not_move_by_one_bit(tiny, tmp_path, size, zero_stage):
    steps = {"knowledge_masking": 3, "capitalization": 2, "sentence_distance": 2}
    _, (run, *_) = train(tiny, tmp_path, size, steps, zero_stage=zero_stage, companions=["capitalization"])
    assert {task for task, _ in run["moved"]} == set(steps)
    for task, moved in run["moved"]:
        trained = {task} | ({"capitalization"} if task == "sentence_distance" else set())
        heads = {name.split(".")[1] for name in moved if name.startswith("heads.")}
        rows = {name.rsplit(".", 1)[1] for name in moved if "task_type_embeddings" in name}
        assert (heads, rows) == (trained, {task})
        assert any("pooler" in name for name in moved) == (task == "sentence_distance")


@pytest.mark.parametrize(("size", "zero_stage"), [(1, 0), pytest.param(2, 1, marks=pytest.mark.slow), (2, 3)])
def test_moments_are_carried_by_name_over_ranks_and_zero_stages(tiny, tmp_path, size, zero_stage):
    _, (source, *_) = train(tiny, tmp_path, 1, known=TASKS[:1], steps={"knowledge_masking": 2})
    kept = next(tmp_path.glob("1-*/moments-1-0.pt"))
    _, (run, *_) = train(tiny, tmp_path, size, steps={"knowledge_masking": 0}, moments_from=kept, zero_stage=zero_stage)
    assert run["moments"] == pytest.approx(source["moments"])
    assert run["updates"] == source["updates"]


@pytest.mark.parametrize("train", [{"batch_size": 3}, {"batch_size": 8, "growth": {2: {"steps": 5, "batch_size": 1}}}])
def test_a_batch_with_fewer_instances_than_ranks_is_named(train):
    name = "growth.2.batch_size=1" if "growth" in train else "batch_size=3"
    with pytest.raises(ValueError, match=rf"train\.{name}: 4 ranks need an instance each"):
        deepspeed_config(TrainConfig.model_validate(train), 4, gpu=False)
