"""Weights of tasks: equations by hand, and what a run relies on."""

import json
import math
import sys
from dataclasses import replace
from importlib.util import find_spec
from statistics import fmean

import numpy as np
import pytest
import torch
import yaml
from balancing_cases import built, trained
from conftest import records
from ranks import run_ranks
from test_resume import Killed, forwards, losses  # noqa: F401
from test_train import changed, ernie_checkpoint, run, same, weights, with_prior

from pretrain.balancing import dtp, dwa, gradnorm, jacobian
from pretrain.balancing.balancer import LEAST, neutral, shared_out
from pretrain.balancing.measured import Losses
from pretrain.balancing.probe import Probe
from pretrain.balancing.uncertainty import HIGHEST, LOWEST, QUIET, LogVariances, objective
from pretrain.config import BALANCING, BalancingConfig, Config, load_config
from pretrain.engine import get_moments
from pretrain.loop import optimizer_step
from pretrain.run import claim_folder, stage_folder
from pretrain.tasks import TASKS
from pretrain.tasks.spec import Tokens
from pretrain.train import load_finished
from pretrain.world import join

STEPS = {"knowledge_masking": 3, "capitalization": 2, "sentence_distance": 3}
MEASURED = {
    "dwa": {"window": 3},
    "dtp": {"probe_every": 3},
    "gradnorm": {"probe_every": 3, "lr": 0.2},
}
SURGERY = {kind: {"probe_every": 3} for kind in jacobian.WEIGHTINGS}
needs_torchjd = pytest.mark.skipif(
    not all(map(find_spec, ("torchjd", "qpsolvers", "cvxpy"))),
    reason="torchjd is not installed with all that it needs (make extras)",
)


def balancing(config: Config, kind: str, name: str = "tiny", **sections) -> Config:
    settings = {"uncertainty": {"lr": 0.05}, **MEASURED, **SURGERY}[kind]
    return changed(config, name=name, balancing={"kind": kind, **settings}, **sections)


# Equations


def test_a_fixed_weight_multiplies_the_gradient_of_its_task(tiny):
    moments = []
    for weight in (1.0, 2.0):
        config = changed(tiny, train={"clip": 0.0}, balancing={"weights": {"capitalization": weight}})
        engine, steps, _, world, _ = built(config, {"capitalization": 1})
        optimizer_step(engine, steps[0], 1e-3, world, weights=config.balancing.weights)
        moments.append(get_moments(engine)[0])
    assert moments[0].keys() == moments[1].keys()
    assert all(torch.equal(2 * moments[0][name], moments[1][name]) for name in moments[0] if name.endswith("exp_avg"))


def gradients(s: float, loss: float, count: int) -> tuple[float, float]:
    """Of the objective, with respect to the loss and to s."""
    both = torch.tensor(loss, requires_grad=True), torch.tensor(s, requires_grad=True)
    of_loss, of_s = torch.autograd.grad(objective(*both, count), both)
    return of_loss.item(), of_s.item() / QUIET


def test_uncertainty_is_the_objective_of_the_paper():
    """e^-s L + s / 2 per target: for 3 targets with a summed loss of 6 at s = ½."""
    of_loss, of_s = gradients(0.5, 6.0, 3)
    assert of_loss == pytest.approx(math.exp(-0.5))
    assert of_s == pytest.approx(1.5 - 6 * math.exp(-0.5), rel=1e-5)
    assert gradients(math.log(2 * 1.7), 1.7 * 5, 5)[1] == pytest.approx(0, abs=1e-5), "at best the weight is 1 / 2L"


def test_log_variances_are_drawn_back_to_their_bounds():
    """Else an easy task would get all the weight, or one that was easy keep it."""
    for loss in (0.0, 50.0):
        assert gradients(LOWEST - 1, loss, 4) == pytest.approx((math.exp(-LOWEST), -2))
        assert gradients(HIGHEST + 1, loss, 4) == pytest.approx((math.exp(-HIGHEST), 2))


def test_a_loss_is_logged_as_it_is():
    variances = LogVariances(["a"], 0.1)
    variances.s["a"].data.fill_(1.3)
    loss = torch.tensor(3.3, requires_grad=True)
    assert torch.equal(variances({"a": loss}, {"a": 2})["a"], loss)


def test_dwa_is_equation_7():
    """e^(1/2) : e^(0.5/2) of 2."""
    assert dwa.weigh({"a": 1.0, "b": 0.5}, 2.0) == pytest.approx({"a": 1.124353, "b": 0.875647}, abs=1e-6)
    assert [dwa.ratio(means) for means in ([], [3.0], [4.0, 3.0])] == [1, 1, 0.75]


def test_dwa_stays_bounded_near_a_loss_of_nothing():
    assert [dwa.ratio(means) for means in ([0.0, 0.5], [1e-7, 2e-3], [1e-7, 0.0])] == [1, dwa.MOST, 0]
    assert dwa.weigh({"a": 2.0, "b": 1.0}, 1e-3) == pytest.approx({"a": 2.0, "b": 0.0})


def test_dtp_is_the_focal_loss_of_the_skill():
    assert dtp.weigh(0.5, 0) == pytest.approx(math.log(2))
    assert dtp.weigh(0.5, 1) == pytest.approx(0.346574, abs=1e-6)
    assert dtp.weigh(0.75, 2) == pytest.approx(0.0179801, abs=1e-6)


def test_skill_is_the_part_of_the_way_from_guessing_to_perfect():
    assert dtp.skill(0.75, 0.5) == 0.5
    assert dtp.skill(0.75, 0.0) == 0.75
    assert [dtp.skill(value, 0.5) for value in (0.2, 1.0)] == [dtp.LOWEST, dtp.HIGHEST]


def test_gradnorm_is_the_gradient_of_equation_2():
    """G = 1 and 3, so Ḡ = 2 is what both should be: steps of -1/2 and 3/2 against the gradient."""
    even = {"a": 1.0, "b": 1.0}
    found = gradnorm.weigh(even, {"a": 1.0, "b": 3.0}, even, 1.5, 0.1)
    assert found == pytest.approx({"a": math.exp(0.05), "b": math.exp(-0.15)})


def test_gradnorm_goes_down_its_objective():
    """By the gradient that autograd finds; many steps end where all gradients are as they should be (of α = 1)."""
    norms, rates, alpha = {"a": 0.3, "b": 2.0, "c": 1.1}, {"a": 0.7, "b": 1.4, "c": 0.9}, 1.0
    start = {"a": 0.5, "b": 1.5, "c": 1.0}
    logs = torch.tensor([math.log(start[task]) for task in start], requires_grad=True)
    sizes = logs.exp() * torch.tensor(list(norms.values()))
    mean = sizes.mean().detach()
    (slope,) = torch.autograd.grad(
        (sizes - mean * torch.tensor(list(rates.values())) ** alpha).abs().sum() / mean, logs
    )
    step = gradnorm.weigh(start, norms, rates, alpha, 0.01)
    assert list(step.values()) == pytest.approx((logs.detach() - 0.01 * slope).exp().tolist())
    found = start
    for _ in range(2000):
        found = shared_out(found, gradnorm.weigh(found, norms, rates, alpha, 0.01))
    sizes = [found[task] * norms[task] / rates[task] ** alpha for task in found]
    assert sizes == pytest.approx([fmean(sizes)] * 3, rel=0.05)


def test_gradnorm_favours_the_task_that_learns_slower():
    """With gradients of one size; a task of which no loss is known counts as the mean."""
    rates = gradnorm.rates({"slow": 0.9, "fast": 0.3}, ["slow", "fast", "new"])
    assert rates == pytest.approx({"slow": 1.5, "fast": 0.5, "new": 1.0})
    even = dict.fromkeys(rates, 1.0)
    found = gradnorm.weigh(even, even, rates, 1.5, 0.1)
    assert found["slow"] > 1 > found["fast"] and found["new"] == 1


def weigh(kind: str, *rows: list[float], seed: int = 0) -> list[float]:
    method = jacobian.weighting(BalancingConfig(kind=kind, **({"c": 0.4} if kind == "cagrad" else {})))
    found = jacobian.weigh(
        {str(number): torch.tensor(row, dtype=torch.float64) for number, row in enumerate(rows)}, method, seed
    )
    return list(found.values())


@needs_torchjd
def test_gradient_methods_are_those_of_their_papers():
    assert weigh("mgda", [1, 0], [0, 2]) == pytest.approx([0.8, 0.2], abs=1e-2), "the least norm in the hull"
    assert weigh("pcgrad", [1, 0], [-1, 1]) == pytest.approx([2, 1.5]), "g₁ + ½ g₂, and g₂ + g₁"
    assert weigh("pcgrad", [1, 0], [0, 3]) == pytest.approx([1, 1]), "no conflict"
    assert weigh("upgrad", [1, 0], [-1, 1]) == pytest.approx([1, 0.75], abs=1e-3), "½ the projections on the dual cone"
    first, second = weigh("cagrad", [1, 0], [-1, 1])
    combined = np.array([first - second, second])
    radius = np.linalg.norm(combined - [0, 0.5]) / 0.5
    assert radius == pytest.approx(0.4, abs=1e-3), "c mean gradients away from the mean gradient"
    assert min(combined @ [1, 0], combined @ [-1, 1]) > min([0, 0.5] @ np.array([[1, -1], [0, 1]])), "and less conflict"


@needs_torchjd
@pytest.mark.parametrize("kind", jacobian.WEIGHTINGS)
def test_gradient_methods_do_not_look_at_the_scale_of_gradients(kind):
    rows = np.random.default_rng(1).normal(size=(3, 4))
    expected = weigh(kind, *rows.tolist())
    for scale in (1e-5, 1e4):
        assert weigh(kind, *(scale * rows).tolist()) == pytest.approx(expected, rel=1e-3)


@needs_torchjd
def test_upgrad_hurts_no_task_however_small_its_gradient():
    for size in (0.1, 0.01, 0.001):
        rows = np.array([[1.0, 0.0], [-0.8 * size, 0.6 * size]])
        combined = np.array(weigh("upgrad", *rows.tolist())) @ rows
        assert (combined @ rows.T / np.linalg.norm(rows, axis=1) / np.linalg.norm(combined)).min() > -0.01


@needs_torchjd
def test_pcgrad_draws_by_the_seed_alone():
    rows = np.random.default_rng(0).normal(size=(5, 3)).tolist()
    found = []
    for state in (1, 2):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        found.append(weigh("pcgrad", *rows, seed=7))
        assert torch.equal(torch.get_rng_state(), before)
    assert found[0] == found[1] != weigh("pcgrad", *rows, seed=9)


# Weights over time


def test_a_task_that_joins_starts_at_the_mean_and_one_that_rests_is_forgotten():
    assert neutral({"a": 0.5, "b": 1.5}, ["a", "b", "new"]) == {"a": 0.5, "b": 1.5, "new": 1.0}
    assert neutral({"a": 0.5, "b": 1.5}, ["b", "new"]) == {"b": 1.0, "new": 1.0}
    assert neutral({}, ["a", "b"]) == {"a": 1.0, "b": 1.0}


def test_no_weight_falls_to_nothing():
    """MGDA gives exact zeros, and then stages would begin with tasks whose mean weight is 0."""
    found = shared_out({"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 5.0, "b": 0.0, "c": 0.0})
    assert found["b"] == found["c"] == pytest.approx(LEAST, rel=0.05) and fmean(found.values()) == pytest.approx(1)
    assert neutral(found, ["b", "c", "new"]) == pytest.approx({"b": 1.0, "c": 1.0, "new": 1.0})
    assert shared_out({"a": 1.5, "b": 0.5}, {"a": 0.0, "b": 0.0}) == {"a": 1.5, "b": 0.5}


def test_a_task_of_which_nothing_is_found_keeps_its_weight():
    """Whatever the scale of a method's answer."""
    before = {"a": 1.5, "b": 0.5, "absent": 1.0}
    assert shared_out(before, {"a": 30.0, "b": 10.0}) == pytest.approx(before)
    assert shared_out(before, {}) == before


def test_losses_of_a_window_are_means_over_targets_and_a_step_that_is_not_finite_has_none():
    found, fine, bad = Losses(join(), {}), torch.tensor(1.0), torch.tensor(torch.nan)
    found.add({"a": torch.tensor(6.0)}, {"a": 3}, fine)
    found.add({"a": bad, "b": bad}, {"a": 2, "b": 2}, bad)
    found.add({"a": torch.tensor(1.0)}, {"a": 1}, fine)
    again = Losses(join(), json.loads(json.dumps(found.totals())))
    for window in (found, again):
        assert window.means() == {"a": 1.75}
        assert window.means() == {}


def test_dwa_weighs_by_the_losses_of_the_last_two_windows(tiny):
    """Inside a stage; the log has every step's loss, each over 8 targets."""
    config = changed(tiny, balancing={"kind": "dwa", "window": 4, "temperature": 0.1}, train={"companions": []})
    tasks = {"sentence_distance": 6, "sentence_reordering": 6}
    done = trained(config, tasks)
    taken = [task for task, _ in done["moved"]] or []
    assert taken == list(tasks) * 6
    means = {
        task: [fmean(done["losses"][i][0] for i in (w, w + 2)) for w in (n, n + 4)] for n, task in enumerate(tasks)
    }
    assert done["weights"][:8] == [dict.fromkeys(tasks, 1.0)] * 8
    expected = dwa.weigh({task: last / before for task, (before, last) in means.items()}, 0.1)
    assert expected["sentence_distance"] != pytest.approx(1, abs=1e-3)
    assert done["weights"][8:] == [pytest.approx(expected)] * 4


# Probes


def test_a_probe_changes_nothing_but_the_weights(tiny):
    """GradNorm with a rate too small for any weight to move, beside the default: with dropout, the same bits."""
    dropout = {"model": {"dropout": 0.1, "attention_dropout": 0.1}}
    plain = changed(tiny, name="plain", **dropout)
    probing = changed(tiny, balancing={"kind": "gradnorm", "probe_every": 2, "lr": 1e-300}, **dropout)
    for config in (plain, probing):
        run(config)
    assert same(weights(plain, 2), weights(probing, 2))
    assert losses(plain) == losses(probing)
    assert sum(record["probe_seconds"] for record in records(probing, "step")) > 0
    assert sum(record["probe_seconds"] for record in records(plain, "step")) == 0


def test_a_task_without_targets_is_left_out_of_a_probe(tiny):
    """A row of zeros would get all the weight from MGDA, and nobody would move."""
    engine, steps, _, world, _ = built(tiny, STEPS)
    source = steps.sources["capitalization"]
    uncased = [([Tokens(np.arange(10, 20), np.zeros(10, np.uint8))], 0)]
    steps = replace(steps, sources={**steps.sources, "capitalization": replace(source, instances=uncased)})
    found = Probe(engine.module, steps, tiny, world).gradients(0, 0)
    assert set(found) == {"knowledge_masking", "sentence_distance"}


def test_guessing_is_judged_by_more_than_a_batch(tiny):
    """Of three equally frequent labels, the most frequent one of eight is half of them."""
    engine, steps, _, world, _ = built(tiny, STEPS)
    probe = Probe(engine.module, steps, tiny, world)
    assert probe.chances()["sentence_distance"] == pytest.approx(1 / 3, abs=0.03)
    of_a_batch = [
        TASKS["sentence_distance"].metric(*2 * [probe.predictions(at, 0)["sentence_distance"][0]]).chance
        for at in range(10)
    ]
    assert fmean(of_a_batch) > 0.4


def test_dtp_learns_nothing_from_labels_that_are_all_the_same(tiny):
    class Same:
        def chances(self):
            return dict.fromkeys(STEPS, 0.5)

        def predictions(self, run_step, step):
            return {task: (np.zeros(9, int), np.zeros(9, int)) for task in STEPS}

    config = BalancingConfig(kind="dtp")
    assert dtp.DTP(config, {}, Same()).update(dict.fromkeys(STEPS, 1.0), 0, 0) == {}


def test_what_gates_do_in_a_probe_is_not_in_the_log(tiny):
    config = balancing(tiny, "gradnorm", sharing={"kind": "mmoe"}, train={"companions": []})
    run(config, [1])
    assert all(len(record["gates"]) == 1 for record in records(config, "step"))


def test_dwa_forgets_the_windows_of_a_task_that_rests(tiny):
    """Else what it lost in the meantime would count as how slowly it learns."""
    schedule = {"kind": "pyramid", "over": "tasks", "steps_per_task": 24}
    config = balancing(tiny, "dwa", tasks=list(STEPS), schedule=schedule, train={"companions": []})
    stages = [list(stage.steps) for stage in config.stages()]
    at = next(n for n, tasks in enumerate(stages) if n and set(stages[0]) - set(tasks))
    run(config, [*range(1, at + 2)])
    state = json.loads((stage_folder(config, at + 1) / "state.json").read_text())["state"]
    assert set(state["balance"]["memory"]) == set(stages[at])


@needs_torchjd
def test_mgda_gives_an_absent_task_no_part_of_the_others_weight():
    config = BalancingConfig(kind="mgda")
    found = jacobian.weigh(
        {"a": torch.tensor([1.0, 0.0]).double(), "b": torch.tensor([0.0, 2.0]).double()}, jacobian.weighting(config), 0
    )
    after = shared_out({"a": 1.0, "b": 1.0, "absent": 1.0}, found)
    assert after == pytest.approx({"a": 1.6, "b": 0.4, "absent": 1.0}, abs=0.02)


def test_a_probe_is_addressed_by_the_step_of_the_run(tiny):
    _, steps, *_ = built(tiny, STEPS)
    (first,), (again,), (later,) = (steps.beside("knowledge_masking", 0, at) for at in (3, 3, 4))
    assert torch.equal(first.ids, again.ids) and not torch.equal(first.ids, later.ids[: len(first.ids)])


# Runs


KINDS = [
    "uncertainty",
    *MEASURED,
    pytest.param("pcgrad", marks=needs_torchjd),
    *(pytest.param(kind, marks=[needs_torchjd, pytest.mark.slow]) for kind in ("upgrad", "mgda", "cagrad")),
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_balanced_run_survives_kills_bit_for_bit(tiny, forwards, kind):  # noqa: F811
    """In a probe too, and over the border of the stages; and its weights move."""
    settings = {"model": {"dropout": 0.1}, "train": {"micro_batch_size": 4, "checkpoint_every": 2, "lr": 1e-2}}
    whole = balancing(tiny, kind, "whole", **settings)
    run(whole)
    broken = balancing(tiny, kind, "broken", **settings)
    for kill in (9, 4, 26):  # after two steps, in the probe that is due after three, and later
        forwards["left"] = kill
        with pytest.raises(Killed):
            run(broken)
    forwards["left"] = -1
    run(broken)
    assert losses(whole) == losses(broken)
    assert same(weights(whole, 2), weights(broken, 2))
    shown = [[record["weight"] for record in records(config, "step")] for config in (whole, broken)]
    assert shown[0] == shown[1] != [dict.fromkeys(weight, 1.0) for weight in shown[0]]
    if kind != "uncertainty":
        assert all(fmean(weight.values()) == pytest.approx(1) for weight in shown[0])
        assert shown[0][8].keys() == set(tiny.tasks)


@pytest.mark.parametrize("kind", ["gradnorm", "dwa"])
def test_what_is_remembered_is_carried_over_the_border_of_stages(tiny, kind):
    run(balancing(tiny, kind))
    first, second = (
        json.loads((stage_folder(tiny, stage) / "state.json").read_text())["state"]["balance"] for stage in (1, 2)
    )
    assert set(first["memory"]) == {"knowledge_masking", "capitalization"}
    assert set(second["memory"]) == set(tiny.tasks)
    if kind == "gradnorm":
        assert first["memory"].items() <= second["memory"].items(), "L(0) of a task stays"


def test_a_task_that_joins_begins_with_the_mean_weight_of_the_others(tiny):
    config = balancing(tiny, "uncertainty")
    run(config, [1])
    old = [weight for weight in records(config, "step")[-1]["weight"].values()]
    assert old != [1, 1]
    run(config, [2])
    first = records(config, "step")[8]
    rested = [task for task in ("sentence_reordering", "sentence_distance") if task not in first["loss"]]
    assert rested and all(first["weight"][task] == pytest.approx(fmean(old)) for task in rested)


def test_learnt_weights_begin_beside_prior_weights(tiny, tmp_path, capsys):
    run(with_prior(balancing(tiny, "uncertainty"), ernie_checkpoint(tmp_path / "prior")), [1])
    assert "weight of capitalization, weight of knowledge_masking" in capsys.readouterr().out


def test_learnt_weights_go_through_stages_under_zero_3(tiny):
    """Where evaluation and checkpoints put the model together from its parts."""
    plain, parts = balancing(tiny, "uncertainty", "plain"), balancing(tiny, "uncertainty", train={"zero_stage": 3})
    for config in (plain, parts):
        run(config)
    learnt = [{n: s.item() for n, s in weights(c, 2).items() if n.startswith("log_variances")} for c in (plain, parts)]
    assert len(learnt[0]) == 4 and all(learnt[0].values())
    assert learnt[1] == pytest.approx(learnt[0], rel=1e-3)


def test_the_default_keeps_and_carries_nothing(tiny):
    run(tiny)
    state = json.loads((stage_folder(tiny, 2) / "state.json").read_text())["state"]
    assert state["balance"] == {}
    assert not any("log_variances" in name for name in weights(tiny, 2))
    assert records(tiny, "step")[-1]["weight"] == dict.fromkeys(tiny.tasks, 1.0)


def test_a_run_that_began_before_there_was_balancing_goes_on(tiny):
    run(tiny, [1])
    path = tiny.folder() / "config.yaml"
    tree = yaml.safe_load(path.read_text())
    del tree["balancing"]
    path.write_text(yaml.safe_dump(tree))
    claim_folder(tiny)
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(ValueError, match=r"balancing\.kind was 'fixed'"):
        claim_folder(balancing(tiny, "dwa"))


def test_an_export_of_a_run_with_learnt_weights_has_none(tiny):
    config = balancing(tiny, "uncertainty")
    run(config, [1])
    model, _, _ = load_finished(config, 1)
    assert set(model.log_variances.s) == {"knowledge_masking", "capitalization"}


# Ranks


def weigh_alike(tiny, tmp_path, zero_stages: dict[str, int]):
    """Kinds on two ranks in micro-batches, each under a ZeRO stage, beside one rank without."""
    plain = {kind: balancing(tiny, kind, train={"companions": ["capitalization"]}) for kind in zero_stages}
    ones = {kind: trained(config, STEPS) for kind, config in plain.items()}
    configs = [
        changed(plain[kind], train={"zero_stage": stage, "micro_batch_size": 2}) for kind, stage in zero_stages.items()
    ]
    folder, dumped = tmp_path / "two", [c.model_dump(mode="json") for c in configs]
    folder.mkdir()
    ranks = run_ranks("balancing_cases:balanced", 2, folder, home=str(tmp_path), configs=dumped, tasks=STEPS)
    for c, first, second in zip(configs, *ranks, strict=True):
        kind, zero = c.balancing.kind, c.train.zero_stage
        for key in ("weights", "end", "state", "gramian"):
            assert first[key] == second[key], (kind, zero, key)
        one = ones[kind]
        assert first["positions"] == one["positions"] and first["predicted"] == one["predicted"]
        for ours, theirs in zip(first["weights"], one["weights"], strict=True):
            assert ours == pytest.approx(theirs, rel=2e-3), (kind, zero)
        for ours, theirs in zip(first["losses"], one["losses"], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-3), (kind, zero)
        if c.balancing.probes:  # not the mean of each rank's products of gradients
            np.testing.assert_allclose(first["gramian"], one["gramian"], rtol=1e-2, atol=1e-4)
        if kind == "uncertainty":
            for task, moved in first["moved"]:
                assert set(moved) == {task} | ({"capitalization"} if task == "sentence_distance" else set())


def test_two_ranks_weigh_as_one_does_and_as_each_other_by_every_bit(tiny, tmp_path):
    weigh_alike(tiny, tmp_path, {"dtp": 2, "gradnorm": 2, "uncertainty": 1})


@pytest.mark.slow
@needs_torchjd
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_every_kind_weighs_alike_on_two_ranks_under_every_zero_stage(tiny, tmp_path, zero_stage):
    kinds = ["uncertainty", "dwa"] if zero_stage == 3 else ["uncertainty", *MEASURED, *SURGERY]
    weigh_alike(tiny, tmp_path, dict.fromkeys(kinds, zero_stage))


# Mistakes


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("balancing.kind=gradnrm", "unknown balancing 'gradnrm'. Did you mean gradnorm?"),
        ("balancing={kind: dwa, window: 0}", "balancing.window: Input should be greater than or equal to 1 (got 0)"),
        ("balancing={kind: dwa, temperature: 0}", "balancing.temperature: Input should be greater than 0"),
        ("balancing={kind: dtp, gamma: 200}", "balancing.gamma: Input should be less than or equal to 10"),
        ("balancing={kind: gradnorm, lr: 1000}", "balancing.lr: Input should be less than or equal to 1"),
        ("balancing={kind: cagrad, c: 1}", "balancing.c: Input should be less than 1"),
        ("balancing={kind: dwa, gamma: 2}", "gamma=2.0 is not read by kind=dwa, but by dtp"),
        ("balancing.probe_every=10", "probe_every=10 is not read by kind=fixed, but by dtp, gradnorm"),
        ("balancing.weights={capitalisation: 2}", "Did you mean capitalization?"),
        ("balancing.weights={capitalization: 0}", "balancing.weights.capitalization: Input should be greater than 0"),
    ],
)
def test_mistakes_are_named_in_one_line(override, says):
    with pytest.raises(ValueError) as error:
        load_config(None, [override])
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_weight_for_a_task_that_is_not_trained_is_refused():
    with pytest.raises(ValueError, match=r"balancing\.weights: ir_relevance is not in `tasks`"):
        load_config(None, ["tasks=[capitalization]", "balancing.weights={ir_relevance: 2}"])


@pytest.mark.parametrize("kind", BALANCING)
def test_what_probes_is_refused_under_zero_3(kind):
    overrides = [f"balancing.kind={kind}", "train.zero_stage=3"]
    if kind in ("fixed", "uncertainty", "dwa"):
        load_config(None, overrides)
    else:
        with pytest.raises(ValueError, match=rf"balancing\.kind={kind} probes.*zero_stage=2"):
            load_config(None, overrides)


def test_without_torchjd_a_run_is_refused_before_it_begins(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(ValueError, match=r"balancing\.kind=mgda needs torchjd.*make extras"):
        run(balancing(tiny, "mgda"))
