"""Downstream tasks as a user declares them: a suite is YAML, a mapping of task names to declarations."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from corpus_tools.config import Section
from pretrain.config import Plain, one_of, refuse_unknown

Kind = Literal["single", "pair", "similarity", "tokens", "ranking", "minimal_pairs"]
Split = Literal["train", "dev", "test"]
Mixing = Literal["proportional", "annealed", "uniform"]
TOGETHER = "together"
"""The entry of a suite that is no task, but says how its tasks are learnt together."""
FREE = {"micro_batch_size", "zero_stage", "checkpoint_every"}
"""Settings of it that decide nothing of what is learnt: they may change, also in the middle."""


class Shape(NamedTuple):
    """What a kind of task needs."""

    columns: tuple[int, ...]
    """How many columns of text it may have."""
    metrics: tuple[str, ...]
    """Those of finetune.metrics.METRICS that fit, the default first."""


CLASS_METRICS = ("accuracy", "macro_f1", "matthews", "f1")
SHAPES: dict[Kind, Shape] = {
    "single": Shape((1,), CLASS_METRICS),
    "pair": Shape((2,), CLASS_METRICS),
    "similarity": Shape((2,), ("pearson_spearman", "pearson", "spearman")),
    "tokens": Shape((1,), ("span_f1",)),
    "ranking": Shape((2,), ("ndcg", "mrr")),
    "minimal_pairs": Shape((2,), ("pair_accuracy",)),
}


class Files(Section):
    """Paths below the data root."""

    train: str | None = None
    dev: str | None = None
    test: str | None = None

    @field_validator("train", "dev", "test")
    @classmethod
    def relative(cls, path: str | None) -> str | None:
        if path is not None and Path(path).is_absolute():
            raise ValueError("is absolute. Give it relative to the data root, which --data names")
        return path


class Hub(Section):
    """A data set of the hub, or a local one that `datasets` loads; what its splits and columns are called there."""

    dataset: str
    config: str | None = None
    train: str | None = None
    dev: str | None = None
    test: str | None = None
    text: list[str] | None = None
    """None: as in the files."""
    label: str | None = None
    group: str | None = None


class Limit(Section):
    """At most so many rows, spread evenly over the split (ranking: queries). None: all."""

    train: int | None = Field(None, ge=1)
    dev: int | None = Field(None, ge=1)
    test: int | None = Field(None, ge=1)


class San(Section):
    """The stochastic answer network in place of the linear head of a pair task: finetune.san."""

    steps: int = Field(5, ge=1)
    """Predictions, one after another, whose probabilities are averaged."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Share of the predictions that training leaves out."""


class Together(Section):
    """How one encoder learns all tasks of a suite at once. The defaults are MT-DNN's (Liu et al. 2019, section 4.2)."""

    mixing: Mixing = "proportional"
    """How often each task has its turn: finetune.mixing."""
    epochs: int = Field(5, ge=1)
    """An epoch has as many steps as all tasks have batches."""
    lr: float = Field(5e-5, gt=0)
    batch_size: int = Field(32, ge=1)
    """Examples in a step, whichever task; of a ranking, whose queries have many texts each, its own batch_size."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """As a task's."""
    weight_decay: float = Field(0.01, ge=0)
    micro_batch_size: int | None = Field(None, ge=1)
    """Examples that a rank computes at once; the rest of its share is accumulated. None: all of it."""
    zero_stage: Literal[0, 1, 2] = 0
    """DeepSpeed's ZeRO: 1 shares the moments among the ranks, 2 the gradients too."""
    checkpoint_every: int = Field(500, ge=1)
    """Steps between checkpoints inside an epoch; there is one at the end of each."""

    @model_validator(mode="after")
    def can_anneal(self) -> "Together":
        if self.mixing == "annealed" and self.epochs < 2:
            raise ValueError("mixing=annealed goes from epoch to epoch: set together.epochs to 2 or more")
        return self


class Task(Section):
    kind: Kind
    text: list[str]
    """Columns. single: text; pair, similarity: both texts; tokens: tokens; ranking: query, text; minimal_pairs: good,
    bad."""
    label: str = "label"
    """The column of the class, score (similarity), tags (tokens) or grade (ranking). minimal_pairs has none."""
    group: str | None = None
    """minimal_pairs: the column of the paradigm."""
    classes: list[str] | None = None
    """None: those of the training split, sorted. Of two, the last is the positive one."""
    range: tuple[float, float] | None = None
    """similarity: the lowest and the highest score."""
    metric: str = ""
    """What epochs and checkpoints are judged by; empty: the first that SHAPES has for the kind."""
    epochs: int = Field(3, ge=1)
    lr: float = Field(3e-5, gt=0)
    batch_size: int = Field(32, ge=1)
    """Examples in a step; ranking: queries with all their texts."""
    max_length: int = Field(128, ge=8)
    """Tokens of an input; what is longer is cut."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises; then it falls linearly to 0."""
    weight_decay: float = Field(0.01, ge=0)
    san: San | None = None
    """pair: this head. None: a linear one."""
    files: Files | None = None
    hub: Hub | None = None
    limit: Limit = Limit()

    @field_validator("classes", mode="before")
    @classmethod
    def as_text(cls, classes: Any) -> Any:
        return [str(name) for name in classes] if isinstance(classes, list) else classes

    @model_validator(mode="before")
    @classmethod
    def default_metric(cls, tree: Any) -> Any:
        """So that a declaration says the same whether the default was written or not."""
        if isinstance(tree, dict) and not tree.get("metric") and tree.get("kind") in SHAPES:
            return tree | {"metric": SHAPES[tree["kind"]].metrics[0]}
        return tree

    @model_validator(mode="after")
    def fits_kind(self) -> "Task":
        shape = SHAPES[self.kind]
        one_of(self.metric, shape.metrics, f"metric of kind {self.kind}")
        for columns in (self.text, self.hub and self.hub.text):
            if columns and len(columns) not in shape.columns:
                raise ValueError(f"kind {self.kind} has {shape.columns[0]} column(s) of text, here are {len(columns)}")
        if (self.kind == "similarity") != (self.range is not None):
            raise ValueError("similarity, and nothing else, needs the range of its score, such as `range: [0, 5]`")
        if self.range is not None and self.range[0] >= self.range[1]:
            raise ValueError("range is [lowest, highest]")
        if self.classes is not None and (self.kind not in ("single", "pair") or len(set(self.classes)) < 2):
            raise ValueError("classes are two names or more, of a task of kind single or pair")
        if self.san is not None and self.kind != "pair":
            raise ValueError("san is a head for kind pair")
        if self.group is not None and self.kind != "minimal_pairs":
            raise ValueError("group is for minimal_pairs")
        if self.files is None and self.hub is None:
            raise ValueError("says nowhere where its rows are. Add `files:` or `hub:`")
        for place in filter(None, (self.files, self.hub)):
            missing = [split for split in self.needed() if getattr(place, split) is None]
            if missing:
                raise ValueError(f"kind {self.kind} needs the split {missing[0]}")
        return self

    def needed(self) -> tuple[Split, ...]:
        return ("test",) if self.kind == "minimal_pairs" else ("train", "dev")


Suite = Mapping[str, Task]
Declared = TypeVar("Declared", bound=Section)


def load_suite(path: Path, overrides: Sequence[str] = ()) -> dict[str, Task]:
    """Read YAML and apply `TASK.KEY=VALUE`. Raises ValueError in one line, naming the setting and the fix."""
    tree = read_tree(path, overrides)
    return {str(name): declared(str(name), task) for name, task in tree.items() if name != TOGETHER}


def load_together(path: Path, overrides: Sequence[str] = ()) -> Together:
    """The suite's entry `together`, or the defaults, with `together.KEY=VALUE` applied. Raises as load_suite."""
    return validated(TOGETHER, read_tree(path, overrides)[TOGETHER], Together)


def read_tree(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"no suite {path}")
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Plain)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    declares = isinstance(tree, dict) and tree.keys() - {TOGETHER}
    if not declares or not all(isinstance(task, dict) for task in tree.values()):
        raise ValueError(f"{path} must hold `TASK: {{kind: …, text: […], …}}` for every task")
    tree = {TOGETHER: {}} | tree
    for override in overrides:
        override_one(tree, override)
    return tree


def override_one(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    name, *sections, last = key.split(".")
    if not equals or last == key:
        raise ValueError(f"--set {override!r} is not TASK.KEY=VALUE")
    branch = tree[one_of(name, tree, "task")]
    for section in sections:
        branch = branch.setdefault(section, {})
        if not isinstance(branch, dict):
            raise ValueError(f"--set {override!r}: {section} is no section")
    try:
        branch[last] = yaml.load(value, Plain)
    except yaml.YAMLError:
        raise ValueError(f"--set {override!r}: {value!r} is not a YAML value. Quote what is text.") from None


def declared(name: str, tree: dict[str, Any]) -> Task:
    if not re.fullmatch(r"[\w-][\w.-]*", name):
        raise ValueError(f"task {name!r} names a folder: use letters, digits, _, - and .")
    for key, section in SECTIONS.items():
        if tree.get(key) is not None:
            if not isinstance(tree[key], dict):
                raise ValueError(f"{name}.{key} is a section: write {name}.{key}.KEY=value")
            refuse_unknown(tree[key], section, f"{name}.{key}.")
    return validated(name, tree, Task)


def validated(name: str, tree: dict[str, Any], section: type[Declared]) -> Declared:
    refuse_unknown({key: value for key, value in tree.items() if key not in SECTIONS}, section, f"{name}.")
    try:
        return section.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, (name, *first["loc"])))
        given = "" if isinstance(first["input"], dict) else f" (got {first['input']!r})"
        raise ValueError(f"{where}: {first['msg'].removeprefix('Value error, ')}{given}") from None


SECTIONS: dict[str, type[Section]] = {"files": Files, "hub": Hub, "limit": Limit, "san": San}
