"""A comparison: the same budget spent by several schedules, from the same weights, on the same instances.

What is held equal: steps, instances and tokens of every task, the initial weights of a seed, the order of instances of
a task and seed, the learning rate. What differs is when a task is trained; between variants, what they set.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from corpus_tools.config import Section
from pretrain.config import Config, one_of, read_tree, validated
from pretrain.schedule import SCHEDULES
from pretrain.tasks import TASKS

ORDERED = {"continual", "sequential", "pyramid"}
"""The arms that depend on the order of tasks."""
HELD = {"name", "seed", "tasks", "corpus", "evaluate"}
"""What no variant may set: arms would read other instances, or be measured otherwise."""
VARIANT = r"^[a-z][a-z0-9_-]*$"


class CompareConfig(Section):
    name: str = Field("compare", pattern=r"^\w[\w.-]*$")
    """The comparison lies in runs/<name>/: a folder of every run, and report/."""
    arms: list[str] = ["continual", "joint", "sequential", "pyramid"]
    """Schedules, or names of `variants`; `alone` gives the whole budget to the first task, which is knowledge masking
    unless said otherwise."""
    variants: dict[Annotated[str, Field(pattern=VARIANT)], dict[str, Any]] = {}
    """Arms of one schedule, that of `run`: what each sets beside it, such as `{bf16: {train: {precision: bf16}}}`."""
    seeds: int = Field(4, ge=1)
    """Seeds 0, 1, …: of initial weights, the order of instances, masks and dropout. All arms have the same."""
    orders: int = Field(1, ge=1)
    """Orders of the tasks, or families: as listed, then each rotated by one more, so that each comes first once.
    Variants have the first."""
    lr_spans: list[Literal["run", "stage"]] = ["run"]
    """Policies of the learning rate: `run`, the same in every arm; `stage`, anew in every stage, as in the paper."""
    claims: list[tuple[str, str]] = [("sequential", "joint"), ("sequential", "continual")]
    """What is tested: is the first arm better than the second? Declared before anything runs; Holm counts them all."""
    primary: Literal["validation", "downstream"] = "validation"
    """The one measure that claims are about: the mean of the tasks' validation metrics after the last stage, or of the
    downstream tasks."""
    downstream: list[str] = []
    """Suites that every run's checkpoint is fine-tuned on, such as configs/downstream/en.yaml."""
    downstream_tasks: list[str] = []
    """Of these suites; none: all."""
    data: str | None = None
    """Folder of the suites' files."""
    finetune_seeds: int = Field(3, ge=1)
    """Fine-tunings of a checkpoint on a task."""
    beside: list[str] = []
    """Checkpoints that are fine-tuned too, to stand beside the arms: directories, hub names, `demo:minilm`."""
    run: dict[str, Any] = {}
    """What all runs share: the sections of a configuration of `cumul train`."""

    @model_validator(mode="after")
    def fits(self) -> "CompareConfig":
        if not self.arms or len(set(self.arms)) < len(self.arms):
            raise ValueError(f"arms: name each arm once, got {self.arms}")
        for arm in self.arms:
            one_of(arm, [*SCHEDULES, *self.variants], "arm")
        for name, variant in self.variants.items():
            if name in SCHEDULES:
                raise ValueError(f"variants: {name} is a schedule. Give the variant another name.")
            if name not in self.arms:
                raise ValueError(f"variants: {name} is none of the arms {', '.join(self.arms)}. Add it, or drop it.")
            for key in HELD & variant.keys():
                raise ValueError(f"variants.{name}.{key}: it is the same in all arms. Set it in run.")
        for arm in (arm for claim in self.claims for arm in claim if arm not in self.arms):
            raise ValueError(f"claims: {arm} is none of the arms {', '.join(self.arms)}. Add it, or drop the claim.")
        if self.primary == "validation" and any("alone" in claim for claim in self.claims):
            raise ValueError(
                "claims: the arm alone has one task's metric, not all. Set primary=downstream, or drop it."
            )
        if self.primary == "downstream" and not self.downstream:
            raise ValueError("primary=downstream needs a suite: downstream=[configs/downstream/en.yaml]")
        return self

    def folder(self) -> Path:
        return Path("runs") / self.name


class Job(NamedTuple):
    """One run of a comparison."""

    arm: str
    order: int
    lr_spans: str
    seed: int
    config: Config

    @property
    def name(self) -> str:
        return self.config.name.rpartition("/")[2]


def load_compare(path: Path | None, overrides: Sequence[str] = ()) -> CompareConfig:
    """Read YAML and apply `key=value` or `run.section.key=value`. Raises ValueError as `load_config` does."""
    compare = validated(read_tree(path, overrides), CompareConfig)
    for job in jobs(compare):
        job.config.stages()  # raises where the budget is too small
        if compare.downstream:
            job.config.refuse_unexportable()
    return compare


def jobs(compare: CompareConfig) -> list[Job]:
    """Every run, all arms of a seed one after another. Raises ValueError where their configuration is wrong."""
    for key in {"name", "seed"} & compare.run.keys():
        raise ValueError(f"run.{key}: the comparison itself sets it")
    count = len(shared_config(compare).groups())
    if compare.orders > count:
        raise ValueError(f"orders={compare.orders}: {count} groups of tasks have {count} rotations")
    planned = [
        Job(arm, order, spans, seed, config_of(compare, arm, order, spans, seed))
        for seed in range(compare.seeds)
        for spans in compare.lr_spans
        for order in range(1, compare.orders + 1)
        for arm in compare.arms
        if order == 1 or arm in ORDERED
    ]
    if any(job.config.train.companions for job in planned):
        raise ValueError(
            "run.train.companions must be []: a companion trains its task beyond its budget, and in some arms more "
            "than in others"
        )
    return planned


def config_of(compare: CompareConfig, arm: str, order: int, spans: str, seed: int) -> Config:
    groups = shared_config(compare).groups()
    tree = over(shared_tree(compare), compare.variants.get(arm, {"schedule": {"kind": arm}}))
    ours = {
        "name": f"{compare.name}/{arm}.{spans}.order{order}.seed{seed}",
        "seed": seed,
        "tasks": [task for group in groups[order - 1 :] + groups[: order - 1] for task in group],
        "train": {"lr_spans": spans},
        "log": {"group": compare.name},
    }
    try:
        return validated(over(tree, ours), Config)
    except ValueError as error:
        raise ValueError(f"arm {arm}: {error}") from None


def over(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of settings with others laid over it."""
    return dict(tree) | {
        key: over(tree.get(key, {}), value) if isinstance(value, Mapping) else value for key, value in changes.items()
    }


def shared_tree(compare: CompareConfig) -> dict[str, Any]:
    """What all runs have in common. Companions are off unless they are asked for, which is refused."""
    return over({"train": {"companions": []}}, compare.run)


def shared_config(compare: CompareConfig) -> Config:
    return validated(shared_tree(compare), Config)


def group_names(compare: CompareConfig) -> list[str]:
    """What the schedules of a comparison add stage by stage, in words."""
    shared = shared_config(compare)
    return [
        str(TASKS[group[0]].family.value) if shared.schedule.over == "families" else group[0]
        for group in shared.groups()
    ]
