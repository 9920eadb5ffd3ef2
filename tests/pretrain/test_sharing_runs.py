"""Sharing in whole runs: ranks, ZeRO, rest, resume, the log and the export."""

import json
from math import log

import pytest
import torch
from conftest import records
from ranks import run_ranks
from safetensors.torch import load_file
from test_engine import assert_same_run
from test_resume import break_off
from test_sharing import INSIDE, KINDS
from test_train import changed, ernie_checkpoint, run, same, weights, with_prior
from transformers import AutoModel

from pretrain.export import export
from pretrain.run import stage_folder
from pretrain.sharing.owners import owner_of
from pretrain.tasks import families_of

KNOWN = ["knowledge_masking", "capitalization", "sentence_distance"]
STEPS = {"knowledge_masking": 2, "sentence_distance": 3}
USES = {"structure-aware": ["word-aware"]}
ALL = {
    **KINDS,
    **INSIDE,
    "asymmetric": {"kind": "asymmetric", "uses": USES},
    "asymmetric, low rank": {"kind": "asymmetric", "uses": USES, "penalty": {"kind": "low_rank", "weight": 0.1}},
    "customized, joint features": {"kind": "customized", "penalty": {"kind": "joint_feature"}},
    "ple, mean": {"kind": "ple", "shared_experts": 2, "penalty": {"kind": "mean", "weight": 0.1}},
}
SOME = ["ple, mean", "cross_stitch", "cgc inside", "ple inside, three layers", "asymmetric, low rank"]


def train_each(tiny, tmp_path, size, kinds, name="", **settings) -> list[dict]:
    folder = tmp_path / f"{size}{name}"
    folder.mkdir()
    (folder / "corpora").symlink_to(tmp_path / "corpora")
    train = {"companions": ["capitalization"], **settings}
    model = {"layers": 3}
    configs = {k: changed(tiny, sharing=ALL[k], train=train, model=model).model_dump(mode="json") for k in kinds}
    return run_ranks("sharing_cases:train_each", size, folder, configs=configs, steps=STEPS, known=KNOWN)


def assert_others_rest(moved: list[list], kind: str) -> None:
    """Of every step: what of sharing moved is everyone's, or belongs to those who learnt."""
    for task, names in moved:
        learnt = [task] if task == "knowledge_masking" or "inside" in kind else [task, "capitalization"]
        owners = {owner_of(name) for name in names if name.startswith("sharing.")}
        assert owners <= {None, *learnt, *families_of(learnt)} and owners
    assert {task for task, _ in moved} == set(STEPS)


def assert_equal_on_any_ranks(tiny, tmp_path, kinds, zero_stage):
    (one,) = train_each(tiny, tmp_path, 1, kinds)
    first, second = train_each(tiny, tmp_path, 2, kinds, zero_stage=zero_stage, micro_batch_size=2)
    for kind in kinds:
        assert first[kind]["weights"] == second[kind]["weights"]
        assert_same_run(one[kind], first[kind])
        assert one[kind]["updates"] == first[kind]["updates"]
        for found in (one, first):
            assert_others_rest(found[kind]["moved"], kind)


def test_two_ranks_are_one_and_what_is_idle_rests(tiny, tmp_path):
    assert_equal_on_any_ranks(tiny, tmp_path, SOME, 2)


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_every_kind_is_the_same_on_two_ranks_under_every_zero_stage(tiny, tmp_path, zero_stage):
    kinds = [kind for kind, settings in ALL.items() if zero_stage < 3 or "penalty" not in settings]
    assert_equal_on_any_ranks(tiny, tmp_path, kinds, zero_stage)


RESUMED = {**ALL, "mmoe, gates with dropout": {"kind": "mmoe", "gate_dropout": 0.3}}
QUICK = ("ple, mean", "cgc inside", "mmoe, gates with dropout")
SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in RESUMED if kind not in QUICK]


@pytest.mark.parametrize("kind", [*QUICK, *SLOW])
def test_a_killed_run_ends_with_the_bits_of_an_unbroken_one(tiny, kind):
    model = {"dropout": 0.1, "layers": 3}
    whole, broken = (changed(tiny, name=name, sharing=RESUMED[kind], model=model) for name in ("whole", "broken"))
    run(whole)
    break_off(broken, 14)
    run(broken)
    assert same(weights(whole, 2), weights(broken, 2))
    assert same(*(load_file(stage_folder(config, 2) / "moments.safetensors") for config in (whole, broken)))
    assert [r["loss"] for r in records(whole, "step")] == [r["loss"] for r in records(broken, "step")]


def test_rows_of_cross_stitch_learn_at_a_rate_of_their_own(tiny):
    slow, fast = (
        changed(tiny, name=f"x{times}", sharing={"kind": "cross_stitch", "row_lr": times, "levels": 1})
        for times in (1, 50)
    )
    moved = []
    for config in (slow, fast):
        run(config, [1])
        rows = {name: row for name, row in weights(config, 1).items() if ".rows.word-aware." in name}
        moved.append(max((row - torch.tensor([0.9, 0.1])).abs().max().item() for row in rows.values()))
    assert moved[1] > 10 * moved[0] > 0


def test_the_log_tells_of_gates_and_penalty(tiny):
    """Four tasks: their own expert and the shared one at each of two levels."""
    config = changed(tiny, sharing={"kind": "ple", "penalty": {"kind": "mean"}})
    run(config)
    steps = records(config, "step")
    for record in steps:
        assert record["gates"].keys() == record["loss"].keys() and record["penalty"] > 0
        for levels in record["gates"].values():
            assert len(levels) == 2 and all(sum(level["load"]) == pytest.approx(1) for level in levels)
    first, last = steps[0]["gates"], steps[-1]["gates"]
    assert all(level["entropy"] == pytest.approx(log(2)) for levels in first.values() for level in levels)
    assert all(level["entropy"] < log(2) for levels in last.values() for level in levels)


def test_hard_sharing_leaves_no_trace(tiny):
    run(tiny, [1])
    assert not any("sharing" in name for name in weights(tiny, 1))
    assert all("gates" not in record and "penalty" not in record for record in records(tiny, "step"))
    folder = export(tiny)
    assert all("head_reads" not in about for about in json.loads((folder / "tasks.json").read_text()).values())


def test_an_export_has_the_encoder_alone_and_says_so(tiny):
    config = changed(tiny, sharing={"kind": "mmoe"})
    run(config, [1])
    folder = export(config)
    assert not any("sharing" in name for name in load_file(folder / "model.safetensors"))
    said = json.loads((folder / "tasks.json").read_text())["capitalization"]["head_reads"]
    assert "sharing (mmoe)" in said and said in (folder / "README.md").read_text()
    trained = weights(config, 1)["encoder.encoder.layer.1.output.dense.weight"]
    exported = AutoModel.from_pretrained(folder).encoder.layer[1].output.dense.weight
    assert exported.detach().equal(trained)


def test_prior_weights_bring_no_sharing_and_may_have_too_few_layers(tiny, tmp_path):
    prior = ernie_checkpoint(tmp_path / "prior")
    one, two = (
        with_prior(
            changed(tiny, name=f"last{layers}", sharing={"kind": "cgc", "place": "inside", "layers": layers}), prior
        )
        for layers in (1, 2)
    )
    run(one, [1])
    assert any(name.startswith("sharing.layers.0.own.") for name in weights(one, 1))
    with pytest.raises(ValueError, match=r"sharing\.layers=2: the encoder has 1 layers"):
        run(two, [1])


def test_more_layers_than_the_encoder_has_are_refused(tiny):
    with pytest.raises(ValueError, match=r"sharing\.layers=3: the encoder has 2 layers"):
        changed(tiny, sharing={"kind": "cgc", "place": "inside", "layers": 3})
