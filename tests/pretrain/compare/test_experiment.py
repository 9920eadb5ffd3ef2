"""What a comparison promises to hold equal, arm by arm."""

from collections import Counter

import pytest
import torch
import yaml
from conftest import TASK_NAMES

from pretrain.compare.experiment import CompareConfig, jobs, load_compare
from pretrain.loop import State
from pretrain.train import build_model, first_shape, known_tasks, rate_of, read_sources, steps_of
from pretrain.world import join

ARMS = ["continual", "joint", "sequential", "pyramid", "alone"]


@pytest.fixture
def comparison(tiny) -> CompareConfig:
    run = tiny.model_dump(mode="json", exclude={"name", "seed"}, exclude_unset=True)
    run["schedule"]["over"] = "tasks"
    run["schedule"]["steps_per_task"] = 8
    return CompareConfig(arms=ARMS, seeds=2, orders=2, lr_spans=["run", "stage"], claims=[], run=run)


def of_all_tasks(comparison, **settings):
    found = [job for job in jobs(comparison) if job.arm != "alone"]
    return [job for job in found if all(getattr(job, name) == value for name, value in settings.items())]


def spent(job) -> Counter:
    return sum((Counter(stage.steps) for stage in job.config.stages()), Counter())


def test_every_arm_order_policy_and_seed_is_one_run(comparison):
    made = jobs(comparison)
    assert len({job.name for job in made}) == len(made) == 2 * 2 * (2 * 3 + 2)
    orders = {job.order: job.config.tasks for job in made if job.arm == "sequential"}
    assert orders == {1: TASK_NAMES, 2: [*TASK_NAMES[1:], TASK_NAMES[0]]}
    assert {job.order for job in made if job.arm in ("joint", "alone")} == {1}
    assert all(job.config.folder().parent == comparison.folder() for job in made)


def test_every_arm_spends_the_same_on_every_task(comparison):
    assert all(spent(job) == dict.fromkeys(TASK_NAMES, 8) for job in of_all_tasks(comparison))
    assert all(spent(job) == {TASK_NAMES[0]: 8 * len(TASK_NAMES)} for job in jobs(comparison) if job.arm == "alone")


def test_every_arm_begins_with_the_same_weights_in_encoder_and_heads(comparison):
    for seed in (0, 1):
        begins: dict[str, torch.Tensor] = {}
        for job in of_all_tasks(comparison, seed=seed, lr_spans="run"):
            for number in range(1, len(job.config.stages()) + 1):
                model = build_model(job.config, known_tasks(job.config, number), first_shape(job.config, None))
                for name, tensor in model.state_dict().items():
                    assert torch.equal(begins.setdefault(name, tensor), tensor), (job.name, name)
        assert {name.split(".")[1] for name in begins if name.startswith("heads.")} == set(TASK_NAMES)


def test_every_arm_reads_the_same_instances_of_a_task_in_the_same_order_drawn_the_same_way(comparison):
    world = join()
    for seed in (0, 1):
        read = []
        for job in of_all_tasks(comparison, seed=seed, lr_spans="run"):
            state, found = State(stage=1), {task: [] for task in TASK_NAMES}
            for number, stage in enumerate(job.config.stages(), 1):
                sources = read_sources(job.config, "train", list(stage.steps))
                steps = steps_of(job.config, number, sources, State(stage=number, positions=state.positions), world)
                for step in range(len(steps)):
                    share = steps.share(step)
                    found[share.task] += [batch.ids.tolist() for batch in steps[step]]
                    state.positions[share.task] = share.position + share.size
            read.append(found)
        assert all(other == read[0] for other in read)
    assert read[0]["sentence_distance"][0] != read[0]["sentence_distance"][1]


def test_over_the_run_every_arm_has_the_same_learning_rate_at_every_step(comparison):
    rates = []
    for job in jobs(comparison):
        if job.lr_spans == "run":
            done, found = 0, []
            for number, stage in enumerate(job.config.stages(), 1):
                rate = rate_of(job.config, number)
                found += [rate(State(stage=number, step=n, run_step=done + n)) for n in range(stage.total)]
                done += stage.total
            rates.append(found)
    assert all(other == rates[0] for other in rates) and len(set(rates[0])) > 10


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"run": {"train": {"companions": ["knowledge_masking"]}}}, "companions must be"),
        ({"arms": ["sequental"], "claims": []}, "Did you mean sequential"),
        ({"arms": ["joint", "joint"], "claims": []}, "each arm once"),
        ({"arms": ["joint"]}, "sequential is none of the arms"),
        ({"arms": ["joint", "alone"], "claims": [["joint", "alone"]]}, "primary=downstream"),
        ({"primary": "downstream"}, "needs a suite"),
        ({"orders": 4}, "3 groups of tasks have 3 rotations"),
        ({"run": {"seed": 3}}, "run.seed: the comparison itself sets it"),
        ({"run": {"train": {"rl": 3}}}, "Did you mean train.lr"),
        ({"run": {"schedule": {"steps_per_task": 2}}}, "Use at least 4"),
        ({"sedes": 3}, "Did you mean seeds"),
        (
            {"arms": ["slow"], "variants": {"slow": {"train": {"rl": 1}}}, "claims": []},
            "arm slow: .*Did you mean train.lr",
        ),
        ({"arms": ["slow"], "variants": {"slow": {"seed": 1}}, "claims": []}, "variants.slow.seed: it is the same"),
        ({"arms": ["slow"], "claims": []}, "unknown arm 'slow'"),
        ({"variants": {"slow": {}}}, "slow is none of the arms"),
        ({"variants": {"joint": {}}}, "joint is a schedule"),
        ({"variants": {"a b": {}}}, "should match pattern"),
    ],
)
def test_mistakes_are_named(tmp_path, settings, says):
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump(settings))
    with pytest.raises(ValueError, match=says):
        load_compare(path)


def test_a_variant_sets_what_it_names_and_nothing_else(tmp_path):
    variants = {"plain": {}, "slow": {"train": {"lr": 0.01}}}
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump({
        "arms": ["plain", "slow", "joint"], "claims": [["slow", "plain"]], "variants": variants, "orders": 2,
        "run": {"schedule": {"kind": "continual"}, "train": {"lr": 0.5, "warmup_steps": 7}},
    }))  # fmt: skip
    found = {job.arm: job.config for job in jobs(load_compare(path, ["seeds=1"]))}
    assert list(found) == ["plain", "slow", "joint"]
    assert (found["slow"].train.lr, found["slow"].train.warmup_steps, found["plain"].train.lr) == (0.01, 7, 0.5)
    assert [found[arm].schedule.kind for arm in found] == ["continual", "continual", "joint"]
    left = [found[arm].model_dump(exclude={"name": True, "train": {"lr"}}) for arm in ("plain", "slow")]
    assert left[0] == left[1]


def test_settings_of_the_runs_can_be_overridden(tmp_path):
    compare = load_compare(None, ["seeds=2", "run.train.lr=0.5", "run.tasks=[knowledge_masking, token_document]"])
    assert {job.config.train.lr for job in jobs(compare)} == {0.5}
    assert jobs(compare)[0].config.train.companions == []
