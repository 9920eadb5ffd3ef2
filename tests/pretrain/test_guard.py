"""The loss guard: a bad step changes nothing, is counted and kept, and too many of them end the run."""

import json
from math import inf, nan

import pytest
import torch
from conftest import records
from safetensors.torch import load_file
from test_resume import break_off
from test_train import changed, run, weights

from pretrain.data.feed import order
from pretrain.data.steps import Share
from pretrain.guard import Guard
from pretrain.model.model import Model
from pretrain.run import stage_folder

SHARE = Share("a", 0, 8)


@pytest.fixture
def multiply(monkeypatch):
    """Multiplies the losses of some forward passes, counted from 1."""
    forward, factors, calls = Model.forward, {}, [0]

    def changed_losses(self, batch):
        calls[0] += 1
        return {task: loss * factors.get(calls[0], 1.0) for task, loss in forward(self, batch).items()}

    monkeypatch.setattr(Model, "forward", changed_losses)
    return factors


def skipped(config):
    return [json.loads(line) for line in (config.folder() / "skipped.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("zero_stage", [0, 1, 3])
def test_a_step_whose_gradient_is_not_finite_changes_nothing_and_is_kept(tiny, multiply, zero_stage, capsys):
    """Step 4 of a run whose tasks each have four steps in stage 1; the last moves nothing either."""
    multiply[4], multiply[8] = nan, inf
    config = changed(tiny, train={"zero_stage": zero_stage}, log={"every": 3})
    run(config, [1])
    state = json.loads((stage_folder(config, 1) / "state.json").read_text())
    assert state["state"]["skipped"] == 2 and state["updates"]["encoder"] == 6
    assert state["updates"]["head.capitalization"] == 2
    assert all(tensor.isfinite().all() for tensor in weights(config, 1).values())
    steps = skipped(config)
    assert [(step["run_step"], step["task"]) for step in steps] == [(4, "capitalization"), (8, "capitalization")]
    assert steps[0]["instances"] == [list(order(position, 40, 0, "capitalization")) for position in range(8, 16)]
    assert "step 4 of the run (capitalization) skipped" in capsys.readouterr().out
    assert [record["skipped"] for record in records(config, "step")] == [0, 0, 1, 2]
    assert all(loss == loss for record in records(config, "step") for loss in record["loss"].values())


def test_what_a_skipped_step_leaves_is_what_was_before_it(tiny, multiply):
    """A run that ends with a skipped step has the weights of one that was never given that step."""
    multiply[8] = nan
    run(tiny, [1])
    multiply.clear()
    other = changed(tiny, name="other", train={"checkpoint_every": 7, "keep_every": 7})
    run(other, [1])
    before = load_file(stage_folder(other, 1) / "checkpoints" / "step7" / "model.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(tiny, 1).items())


def test_what_is_done_again_after_a_crash_is_not_kept_twice(tiny, multiply):
    multiply[7] = nan
    break_off(tiny, 8)
    multiply[7 - 5 + 8] = nan
    run(tiny, [1])
    assert [step["run_step"] for step in skipped(tiny)] == [7]


def test_too_many_skipped_steps_end_the_run_with_the_reason(tiny, multiply):
    multiply.update(dict.fromkeys(range(3, 9), nan))
    config = changed(tiny, train={"max_skipped": 2})
    with pytest.raises(ValueError, match=r"3 steps were skipped.*max_skipped=2.*skipped\.jsonl.*train\.lr"):
        run(config, [1])
    assert [step["run_step"] for step in skipped(config)] == [3, 4, 5]


def test_a_spike_is_skipped_where_spikes_are_guarded(tiny, multiply):
    """From the eleventh step of a task on there are ten norms to compare with."""
    multiply[27] = 1e4
    guarded = changed(tiny, schedule={"steps_per_task": 60}, train={"spike": 20.0, "spike_window": 10})
    run(guarded, [1])
    assert [step["run_step"] for step in skipped(guarded)] == [27]
    norms = json.loads((stage_folder(guarded, 1) / "state.json").read_text())["state"]["norms"]
    assert {task: len(past) for task, past in norms.items()} == {"knowledge_masking": 10, "capitalization": 10}
    assert max(norms["knowledge_masking"]) < 10


@pytest.mark.parametrize(("norm", "refused"), [(1.5, False), (3.0, True), (nan, True), (inf, True)], ids=str)
def test_the_limit_is_so_many_deviations_above_the_mean(norm, refused):
    guard = Guard({"a": [1.0, 2.0] * 5}, spike=2.0, window=10)
    guard.prepare("a")
    assert bool(guard.refuses(torch.tensor(norm))) == refused


def test_a_new_task_has_no_spikes_and_a_refused_norm_is_not_learnt():
    guard = Guard({"a": [1.0, 2.0] * 5}, spike=2.0, window=10)
    guard.prepare("b")
    assert guard.limit == inf
    guard.prepare("a")
    guard.remember(7, SHARE, torch.tensor(9.0))
    assert guard.norms["a"] == [1.0, 2.0] * 5
    assert [(step.run_step, step.norm) for step in guard.skipped()] == [(7, 9.0)]
    assert guard.skipped() == []
