"""The whole configuration: defaults here, overridden by YAML, overridden by `section.key=value`. Nothing else."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from corpus_tools.config import CorpusConfig, Section, refuse_unread
from pretrain.schedule import SCHEDULES, Stage
from pretrain.tasks import TASKS, families_of
from pretrain.tasks.spec import Family

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ModelConfig(Section):
    prior: str | None = None
    """Weights to continue from: a local checkpoint directory, a hub name, or `demo:minilm`. None: from scratch."""
    layers: int = Field(4, ge=1)
    """This and the next three describe an encoder from scratch; prior weights bring their own."""
    hidden: int = Field(256, ge=8)
    heads: int = Field(4, ge=1)
    intermediate: int | None = None
    """Width of the feed-forward layers; None: 4 × hidden."""
    embedding: int | None = Field(None, ge=8)
    """Width of the embeddings, which a matrix then widens (ALBERT); None: hidden, and no such matrix."""
    share_layers: bool = False
    """One set of weights serves all layers (ALBERT)."""
    activation: Literal["gelu", "relu"] = "gelu"
    dropout: float = Field(0.1, ge=0, lt=1)
    attention_dropout: float = Field(0.1, ge=0, lt=1)
    """0 lets a GPU use flash attention, which has no dropout over instances of different lengths."""

    @model_validator(mode="after")
    def heads_fit(self) -> "ModelConfig":
        if self.prior is None and self.hidden % self.heads:
            raise ValueError(f"hidden={self.hidden} cannot be cut into heads={self.heads} equal heads")
        if self.prior is not None and (self.share_layers or self.embedding is not None):
            raise ValueError(
                f"prior={self.prior} has layers that differ and embeddings of full width, which share_layers and "
                "embedding would not keep. Leave them out, or leave out prior: ALBERT is trained from scratch."
            )
        return self


class DistillConfig(Section):
    """A student of a frozen teacher (DistilBERT). Its other sizes are the teacher's."""

    teacher: str
    """A BERT or ERNIE checkpoint with a masked-LM head and the corpus' tokenizer: a directory, or a hub name."""
    layers: list[int] | None = Field(None, min_length=1)
    """The teacher's layers that the student begins with, the first being 0. None: every second one, 0, 2, …"""
    temperature: float = Field(2.0, gt=0, allow_inf_nan=False)
    """Of the soft targets."""
    weights: tuple[NotNegative, NotNegative, NotNegative] = (5.0, 2.0, 1.0)
    """Of three losses: soft targets, masked words, hidden states."""
    shape: Literal["distilbert", "ernie"] = "distilbert"
    """What is exported: `distilbert` has neither token types nor pooler, `ernie` keeps both."""

    @model_validator(mode="after")
    def learns(self) -> "DistillConfig":
        if not any(self.weights):
            raise ValueError("weights are all 0: there is nothing to learn. The published ones are [5, 2, 1].")
        return self

    def taken(self, count: int) -> list[int]:
        """The layers, of a teacher that has `count`. Raises ValueError where one of them does not exist."""
        layers = list(range(0, count, 2)) if self.layers is None else self.layers
        for number in layers:
            if not 0 <= number < count:
                raise ValueError(
                    f"distill.layers: {number} does not exist: {self.teacher} has layers 0 to {count - 1}."
                )
        return layers


class PenaltyConfig(Section):
    """Regularised sharing: a term of the loss that keeps the weights that tasks have of their own alike."""

    kind: Literal["none", "mean", "joint_feature", "low_rank"] = "none"
    weight: float = Field(0.01, gt=0, allow_inf_nan=False)
    """Of the term in the loss of every step."""

    @model_validator(mode="after")
    def is_read(self) -> "PenaltyConfig":
        if self.kind == "none" and self.weight != type(self).model_fields["weight"].default:
            raise ValueError(f"weight={self.weight} is read where there is a kind. Set penalty.kind, or leave it out.")
        return self


OF_ONES_OWN = ("asymmetric", "customized", "cross_stitch", "cgc", "ple")
"""The kinds of sharing in which tasks or families have weights of the same shape."""
SINGLE_LEVEL = {"ml_mmoe": "mmoe", "ple": "cgc"}
READ_BY = {
    "place": ("omoe", "mmoe", "ml_mmoe", "cgc", "ple"),
    "experts": ("omoe", "mmoe", "ml_mmoe"),
    "task_experts": ("cgc", "ple"),
    "shared_experts": ("cgc", "ple"),
    "levels": ("cross_stitch", "ml_mmoe", "ple"),
    "row_lr": ("cross_stitch",),
    "per_channel": ("cross_stitch",),
    "gate_dropout": ("omoe", "mmoe", "cgc", "ml_mmoe", "ple"),
    "uses": ("asymmetric",),
    "width": ("asymmetric", "customized", "omoe", "mmoe", "cgc", "cross_stitch", "ml_mmoe", "ple"),
}
"""The kinds of sharing that read a setting."""


class SharingConfig(Section):
    """What lies between the encoder and the heads, and how much of it is a task's own (`pretrain.sharing`)."""

    kind: Literal[
        "hard", "asymmetric", "customized", "omoe", "mmoe", "cgc", "cross_stitch", "ml_mmoe", "ple"
    ] = "hard"  # fmt: skip
    place: Literal["top", "inside"] = "top"
    """On top of the encoder, or experts in each of its last layers, which are then the levels of ml_mmoe and ple."""
    layers: int = Field(1, ge=1)
    """How many of the last layers, two or more for ml_mmoe and ple; read where place=inside."""
    width: int | None = Field(None, ge=1)
    """Of the inner layer of an expert or a bottom; None: as wide as the encoder's states."""
    experts: int = Field(4, ge=2)
    """Of all tasks together: omoe, mmoe, ml_mmoe."""
    task_experts: int = Field(1, ge=1)
    """Of each task: cgc, ple."""
    shared_experts: int = Field(1, ge=1)
    """Of all tasks: cgc, ple."""
    levels: int = Field(2, ge=1)
    """Of cross_stitch, ml_mmoe and ple; read where place=top."""
    row_lr: float = Field(10.0, gt=0, allow_inf_nan=False)
    """cross_stitch: learning rate of its rows α, in learning rates of everything else. AdamW moves a number by its rate
    whatever its gradient, so 10 is plenty; Misra et al. have 100 to 1000 with SGD."""
    per_channel: bool = False
    """cross_stitch: a row α for every channel of the states, not one for all."""
    gate_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the experts that a gate leaves out in training, token by token, so that it does not come to rely on one
    (Zhao et al. 2019: 0.1). Of those that have gates."""
    uses: dict[Family, list[Family]] = {}
    """Of asymmetric: whose bottoms a family reads beside its own, such as `{semantic-aware: [word-aware]}`."""
    penalty: PenaltyConfig = PenaltyConfig()

    @model_validator(mode="after")
    def kind_fits(self) -> "SharingConfig":
        for name, kinds in READ_BY.items():
            if self.kind not in kinds and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"kind={self.kind} does not read {name}={getattr(self, name)}. Leave it out, or take one of: "
                    f"{', '.join(kinds)}."
                )
        for family, others in self.uses.items():
            if family in others or len(set(others)) < len(others):
                raise ValueError(
                    f"uses: {family} reads its own bottom anyway, and others once. Got: {', '.join(others)}."
                )
        if self.penalty.kind != "none" and self.kind not in OF_ONES_OWN:
            raise ValueError(
                f"penalty.kind={self.penalty.kind} is about weights that tasks have of their own, and kind={self.kind} "
                f"has none of one shape. Take one of: {', '.join(OF_ONES_OWN)}."
            )
        return self

    @model_validator(mode="after")
    def place_fits(self) -> "SharingConfig":
        if self.place == "top":
            if self.layers > 1:
                raise ValueError(f"layers={self.layers} is read where place=inside. Leave it out, or set place=inside.")
            if self.kind in SINGLE_LEVEL and self.levels == 1:
                raise ValueError(f"{self.kind} with levels=1 is {SINGLE_LEVEL[self.kind]}. Set kind, or raise levels.")
            return self
        if self.levels != type(self).model_fields["levels"].default:
            raise ValueError(f"levels={self.levels} is read where place=top. Leave it out: inside, layers are levels.")
        other = {"mmoe": "ml_mmoe"}.get(self.kind) if self.layers > 1 else SINGLE_LEVEL.get(self.kind)
        if other is not None:
            raise ValueError(f"{self.kind} inside with layers={self.layers} is {other}. Set kind, or change layers.")
        return self

    def fit(self, layers: int) -> None:
        """Raises ValueError where an encoder of so many layers has too few of them."""
        if self.layers > layers:
            raise ValueError(f"sharing.layers={self.layers}: the encoder has {layers} layers. Take at most as many.")


class ScheduleConfig(Section):
    kind: str = "sequential"
    """One of pretrain.schedule.SCHEDULES."""
    over: Literal["families", "tasks"] = "families"
    """What a stage adds: a family of tasks, or one task."""
    steps_per_task: int = Field(50_000, ge=1)
    """Optimizer steps each task gets in total, whichever schedule spends them."""

    @field_validator("kind")
    @classmethod
    def known(cls, kind: str) -> str:
        return one_of(kind, SCHEDULES, "schedule")


class GrowthConfig(Section):
    """How a stage begins: with small batches, short sequences, or both, which grow evenly to full size."""

    steps: int = Field(ge=1)
    """Steps until batches and sequences are full."""
    batch_size: int | None = Field(None, ge=1)
    """Instances of the first step; batches grow by multiples of it. None: full batches."""
    max_length: int | None = Field(None, ge=16)
    """Tokens of the first step's instances; longer ones lose their end. None: full length."""


class TrainConfig(Section):
    batch_size: int = Field(32, ge=1)
    """Instances in one step, over all ranks together."""
    micro_batch_size: int = Field(32, ge=1)
    """Instances that one rank computes at once, one more where ranks have unequal shares; the rest is accumulated."""
    companions: list[str] = ["knowledge_masking", "capitalization", "token_document"]
    """Token-level tasks that, where active in the stage, share the forward pass of a sentence-level step."""
    lr: float = Field(1e-4, gt=0)
    """Peak learning rate."""
    decay: Literal["noam", "linear"] = "noam"
    warmup_steps: int = Field(4_000, ge=0)
    """Warm-up, in steps, of every stage or of the run."""
    lr_spans: Literal["stage", "run"] = "stage"
    """Warm-up and decay begin anew with every stage (ERNIE 2.0), or go through the whole run once."""
    weight_decay: float = Field(0.01, ge=0)
    """Of the encoder's matrices; heads, embeddings of tasks, biases and norms have none."""
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = Field(1.0, ge=0)
    """Largest global gradient norm; 0 switches clipping off."""
    moments: Literal["carry", "reset"] = "carry"
    """The optimizer's moments at the border of two stages: carried by parameter name, or reset."""
    growth: dict[int, GrowthConfig] = {}
    """By the number of a stage, such as `{1: {steps: 2000, max_length: 128}}`."""
    zero_stage: int = Field(0, ge=0, le=3)
    """DeepSpeed's ZeRO: 1 shares the moments among the ranks, 2 the gradients too, 3 the weights too."""
    offload: bool = False
    """Keep moments, and the weights that AdamW steps, in host memory: less GPU memory, a slower step. Needs ZeRO."""
    communication: Literal["fp32", "bf16"] = "fp32"
    """How gradients travel between ranks: bf16 halves the volume, and rounds what is added up."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 on GPU, fp32 on CPU."""
    compile: bool = False
    """torch.compile of the encoder's layers, once for all lengths: half a minute at the start of every stage."""
    activation_checkpointing: bool = False
    """Keep only what goes from layer to layer, compute the rest again on the way back: less memory, a third slower."""
    readers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Processes of each rank that read batches ahead; 0: a thread does. auto: 4 on GPU, 0 on CPU."""
    max_skipped: int = Field(20, ge=0)
    """A step whose gradient is not finite is skipped; more of them in a run than this end it."""
    spike: float | None = Field(None, gt=0)
    """Skip a step whose gradient norm lies this many standard deviations above the mean of its task's last steps."""
    spike_window: int = Field(100, ge=10)
    """The steps of a task that make this mean; with fewer, none is a spike."""
    checkpoint_every: int = Field(1_000, ge=1)
    """Steps between checkpoints inside a stage."""
    keep_last: int = Field(2, ge=1)
    """Checkpoints of the stage in progress that are kept; the newest whole one is where it goes on."""
    keep_every: int | None = Field(None, ge=1)
    """Checkpoints at multiples of this step are kept for good, after the stage too."""

    @model_validator(mode="after")
    def zero_fits(self) -> "TrainConfig":
        if self.offload and not self.zero_stage:
            raise ValueError(
                "offload=true needs zero_stage=1 or more: without ZeRO there is one copy of the weights, on the GPU"
            )
        if self.communication == "bf16" and self.zero_stage == 3:
            raise ValueError(
                "communication=bf16 needs zero_stage=2 or less: under ZeRO 3 weights travel too and would be rounded"
            )
        return self


BALANCING: dict[str, set[str]] = {
    "fixed": {"weights"},
    "uncertainty": {"lr"},
    "dwa": {"window", "temperature"},
    "dtp": {"probe_every", "smoothing", "gamma"},
    "gradnorm": {"probe_every", "alpha", "lr"},
    "upgrad": {"probe_every"},
    "mgda": {"probe_every"},
    "pcgrad": {"probe_every"},
    "cagrad": {"probe_every", "c"},
}
"""Ways to weigh the losses of tasks against each other, and the settings that each reads."""


class BalancingConfig(Section):
    kind: str = "fixed"
    """One of BALANCING; docs/multi_task.md says what each does."""
    weights: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}
    """fixed: factors of the tasks' losses, such as `{capitalization: 0.5}`; a task that is not named has 1."""
    window: int = Field(200, ge=1)
    """dwa: steps over which losses are averaged, and after which tasks are weighed anew."""
    temperature: float = Field(2.0, gt=0, allow_inf_nan=False)
    """dwa: the higher, the more even the weights."""
    probe_every: int = Field(100, ge=1)
    """Steps between probes: a batch of every task at the same weights, beside its feed."""
    smoothing: float = Field(0.5, gt=0, le=1)
    """dtp: the share of the newest probe in the moving mean of a task's skill."""
    gamma: float = Field(1.0, ge=0, le=10)
    """dtp: the higher, the less weight for tasks that are nearly learnt."""
    alpha: float = Field(1.5, ge=0, allow_inf_nan=False)
    """gradnorm: the higher, the more gradient for tasks that learn slower than the others."""
    c: float = Field(0.5, ge=0, lt=1)
    """cagrad: how far from the mean gradient, in parts of its length."""
    lr: float = Field(0.025, gt=0, le=1)
    """uncertainty, gradnorm: learning rate of the weights' logarithms, without warm-up or decay."""

    @field_validator("kind")
    @classmethod
    def known(cls, kind: str) -> str:
        return one_of(kind, BALANCING, "balancing")

    @model_validator(mode="after")
    def all_is_read(self) -> "BalancingConfig":
        for name, field in type(self).model_fields.items():
            if name not in ("kind", *BALANCING[self.kind]) and getattr(self, name) != field.default:
                readers = ", ".join(kind for kind, read in BALANCING.items() if name in read)
                raise ValueError(f"{name}={getattr(self, name)} is not read by kind={self.kind}, but by {readers}.")
        return self

    @property
    def probes(self) -> bool:
        return "probe_every" in BALANCING[self.kind]


class EvaluateConfig(Section):
    instances: int = Field(512, ge=1)
    """Validation instances per task."""
    every_tokens: int | None = Field(None, ge=1)
    """Tokens between evaluations of every task inside a stage. None: only after each stage."""


class LogConfig(Section):
    every: int = Field(10, ge=1)
    """Steps between records in metrics.jsonl and on screen."""
    wandb: Literal["online", "offline", "off"] = "off"
    project: str = "cumul"
    group: str | None = None
    """Of the run in wandb; a comparison gives it its own name."""


class LaunchConfig(Section):
    restarts: int = Field(0, ge=0)
    """How often a run that lost ranks starts again by itself, without a new checkpoint in between."""
    timeout: int = Field(300, ge=5)
    """Seconds after which ranks that others wait for count as lost."""
    first_timeout: int = Field(900, ge=5)
    """The same before the first step of a stage and after its last: what is slow there is no fault."""


class Config(Section):
    name: str = Field("demo", pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$")
    """The run lies in runs/<name>/."""
    seed: int = Field(0, ge=0)
    tasks: list[str] = list(TASKS)
    """In the order in which the curriculum adds them."""
    corpus: CorpusConfig = CorpusConfig()
    model: ModelConfig = ModelConfig()
    distill: DistillConfig | None = None
    """Train a student instead of a model of its own."""
    sharing: SharingConfig = SharingConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()
    balancing: BalancingConfig = BalancingConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    log: LogConfig = LogConfig()
    launch: LaunchConfig = LaunchConfig()

    @model_validator(mode="after")
    def tasks_fit(self) -> "Config":
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks must name each task once, got {self.tasks}")
        for name in self.tasks:
            spec = TASKS[one_of(name, TASKS, "task")]
            if self.corpus.language not in spec.languages:
                raise ValueError(
                    f"task {name} does not exist in language {self.corpus.language!r}. "
                    "Drop it: list the others in `tasks`."
                )
            if spec.needs_uncased and self.corpus.tokenizer == "train" and not self.corpus.lowercase:
                raise ValueError(
                    f"task {name} needs an uncased tokenizer, else the input shows the label. "
                    "Set corpus.lowercase=true, or drop the task."
                )
        refuse_unread(self.corpus, self.tasks)
        if self.model.prior is not None and self.corpus.tokenizer == "train":
            raise ValueError(
                f"model.prior={self.model.prior} knows the ids of its own tokenizer, not those of a trained one. "
                f"Set corpus.tokenizer={self.model.prior}."
            )
        self.refuse_undistilled()
        count = len(self.stages()) if self.train.growth else 0
        for number, growth in self.train.growth.items():
            if not 1 <= number <= count:
                raise ValueError(f"train.growth: stage {number} does not exist: this schedule has stages 1 to {count}.")
            if growth.batch_size is not None and self.train.batch_size % growth.batch_size:
                raise ValueError(
                    f"train.growth: stage {number} begins with batches of {growth.batch_size}, of which "
                    f"train.batch_size={self.train.batch_size} is no multiple."
                )
            if growth.max_length is not None and growth.max_length > self.corpus.max_length:
                raise ValueError(
                    f"train.growth: stage {number} begins with sequences of {growth.max_length} tokens, "
                    f"corpus.max_length is {self.corpus.max_length}."
                )
        for name in self.train.companions:
            if TASKS[one_of(name, TASKS, "task")].target is None:
                raise ValueError(
                    f"train.companions: {name} is a sentence-level task; only token-level tasks ride along."
                )
        return self

    def refuse_undistilled(self) -> None:
        """Raises ValueError where a setting contradicts `distill`."""
        if self.distill is None:
            return
        if self.tasks != ["knowledge_masking"]:
            raise ValueError(f"distill compares masked words alone, tasks={self.tasks}. Set tasks=[knowledge_masking].")
        for name in ("prior", "embedding", "share_layers"):
            if getattr(self.model, name) not in (None, False):
                raise ValueError(
                    f"model.{name}={getattr(self.model, name)} contradicts distill: the student begins with layers of "
                    f"{self.distill.teacher}. Leave model.{name} out."
                )
        for name, section in (("sharing", self.sharing), ("balancing", self.balancing)):
            if section != type(section)():
                raise ValueError(f"{name} is between tasks, and distill has one. Leave {name} out.")

    def refuse_unexportable(self) -> None:
        """Raises ValueError where no model of transformers can hold what is trained."""
        if self.sharing.place == "inside" and self.sharing.kind == "ple":
            raise ValueError(
                "sharing.kind=ple with place=inside: its last layers have several streams, which no model of "
                "transformers has. To export take omoe, mmoe, ml_mmoe or cgc inside, or place=top."
            )
        if self.sharing.place == "inside" and self.model.share_layers:
            raise ValueError(
                "model.share_layers=true with sharing.place=inside: experts stand beside some of the layers that share "
                "their weights, so they cannot become part of them. To export set share_layers=false, or place=top."
            )

    def origin(self) -> tuple[str, str | None]:
        """The setting that names the weights to begin with, and its value; None: from scratch."""
        if self.distill is not None:
            return "distill.teacher", self.distill.teacher
        return "model.prior", self.model.prior

    @model_validator(mode="after")
    def sharing_fits(self) -> "Config":
        sharing, families = self.sharing, families_of(self.tasks)
        if self.model.prior is None:
            sharing.fit(self.model.layers)
        if sharing.kind == "cross_stitch" and len(families) < 2:
            raise ValueError(
                f"sharing.kind=cross_stitch has a bottom per family, and all tasks are {families[0]}. "
                "Add a task of another family, or take another kind."
            )
        for family, others in sharing.uses.items():
            for name in (family, *others):
                if name not in families:
                    raise ValueError(
                        f"sharing.uses: no task is {name}. The families of `tasks` are {', '.join(families)}."
                    )
        if sharing.penalty.kind != "none" and self.train.zero_stage == 3:
            raise ValueError(
                f"sharing.penalty.kind={sharing.penalty.kind} needs train.zero_stage=2 or less: it reads the weights "
                "of all tasks at once, and under ZeRO 3 no rank has them."
            )
        return self

    @model_validator(mode="after")
    def balancing_fits(self) -> "Config":
        for name in self.balancing.weights:
            if one_of(name, TASKS, "task") not in self.tasks:
                raise ValueError(f"balancing.weights: {name} is not in `tasks`. Add it there, or drop its weight.")
        if self.balancing.probes and self.train.zero_stage == 3:
            raise ValueError(
                f"balancing.kind={self.balancing.kind} probes the model between steps, and under train.zero_stage=3 no "
                "rank has it whole. Set train.zero_stage=2, or balancing.kind=fixed, uncertainty or dwa."
            )
        return self

    def folder(self) -> Path:
        return Path("runs") / self.name

    def stages(self) -> list[Stage]:
        """What the schedule makes of the tasks. Raises ValueError where the budget is too small for it."""
        return SCHEDULES[self.schedule.kind](self.groups(), self.schedule.steps_per_task)

    def groups(self) -> list[list[str]]:
        """What the schedule adds stage by stage."""
        if self.schedule.over == "tasks":
            return [[task] for task in self.tasks]
        return [[task for task in self.tasks if TASKS[task].family == family] for family in families_of(self.tasks)]


def one_of(name: str, known: Iterable[str], what: str) -> str:
    """`name`, or a ValueError that suggests the near one."""
    known = list(known)
    if name in known:
        return name
    near = get_close_matches(name, known, n=1)
    raise ValueError(
        f"unknown {what} {name!r}." + (f" Did you mean {near[0]}?" if near else f" Known: {', '.join(known)}.")
    )


class Plain(yaml.SafeLoader):
    """YAML in which `off`, `no` and `on` are words, not truth values; what is true or false pydantic decides."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":bool")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read YAML and apply `section.key=value`. Raises ValueError in one line, naming the setting and the fix."""
    return validated(read_tree(path, overrides), Config)


def read_tree(path: Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """YAML with `section.key=value` applied. Raises ValueError where it is not that."""
    tree: dict[str, Any] = {}
    if path is not None:
        if not path.is_file():
            raise ValueError(f"no configuration file {path}")
        try:
            tree = yaml.load(path.read_text(encoding="utf-8"), Plain) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
        if not isinstance(tree, dict):
            raise ValueError(f"{path} must hold `section: {{key: value}}`, got {type(tree).__name__}")
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ValueError(f"override {override!r} is not section.key=value")
        *sections, last = key.split(".")
        branch = tree
        for section in sections:
            branch = branch.setdefault(section, {})
            if not isinstance(branch, dict):
                raise ValueError(f"override {override!r}: {section} is no section")
        try:
            branch[last] = yaml.load(value, Plain)
        except yaml.YAMLError:
            raise ValueError(f"override {override!r}: {value!r} is not a YAML value. Quote what is text.") from None
    return tree


Sections = TypeVar("Sections", bound=Section)


def validated(tree: dict[str, Any], model: type[Sections]) -> Sections:
    """Raises ValueError in one line, naming the setting and the fix."""
    refuse_unknown(tree, model, "")
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        given = "" if isinstance(first["input"], dict) else f" (got {first['input']!r})"
        raise ValueError(f"{where + ': ' if where else ''}{message}{given}") from None


def refuse_unknown(tree: Mapping[str, Any], model: type[BaseModel], where: str) -> None:
    for key, value in tree.items():
        one_of(f"{where}{key}", [f"{where}{name}" for name in model.model_fields], "setting")
        kind = model.model_fields[key].annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if not isinstance(value, dict):
                raise ValueError(f"{where}{key} is a section: write {where}{key}.KEY=value")
            refuse_unknown(value, kind, f"{where}{key}.")


def resolved(config: Config) -> dict[str, Any]:
    """Every setting, as plain data. Sizes that prior weights decide are left out."""
    sizes = {"layers", "hidden", "heads", "intermediate", "activation", "embedding", "share_layers"}
    return config.model_dump(mode="json", exclude={"model": sizes} if config.origin()[1] is not None else None)


def dump_config(config: Config) -> str:
    return yaml.safe_dump(resolved(config), sort_keys=False, allow_unicode=True)
