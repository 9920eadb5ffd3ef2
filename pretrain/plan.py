"""What a run will take, before anything runs: stages, tokens, parameters, operations and memory, by formula.

Imports no torch. Tokens are an upper bound: every instance is counted at full length. Memory of weights, gradients and
moments is exact up to padding; that of activations is an estimate for a transformer that keeps all it needs for the way
back (Korthikanti et al. 2022, section 4), in 32-bit numbers; bf16 on GPU needs about half of it.
"""

from collections.abc import Mapping, Sequence
from math import log10
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from corpus_tools.checkpoint import read_config, read_files
from corpus_tools.shards import read_manifest
from corpus_tools.tokenizer import load_tokenizer
from pretrain.config import Config
from pretrain.deepspeed_config import in_bf16
from pretrain.scale import NUMBER, TOKEN, Cluster, pace, passes
from pretrain.schedule import Stage
from pretrain.sharing.size import layers_again, shared_parameters, shared_work
from pretrain.tasks import TASKS, discourse_relation, knowledge_masking
from pretrain.tasks.spec import Head

POSITIONS = 512
"""Position embeddings of an encoder from scratch, where sequences are not longer."""


class Sizes(NamedTuple):
    """What decides the size of an encoder."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    intermediate: int
    positions: int
    types: int
    tasks: int
    embedding: int | None = None
    """Width of the embeddings; None: hidden."""
    shared: bool = False
    """One set of weights serves all layers."""

    @property
    def narrow(self) -> int:
        return self.embedding or self.hidden

    @property
    def layer(self) -> int:
        """Weights of a layer."""
        attention = 4 * (self.hidden * self.hidden + self.hidden)
        forward = 2 * self.hidden * self.intermediate + self.intermediate + self.hidden
        norms = 2 * 2 * self.hidden
        return attention + forward + norms

    @property
    def projection(self) -> int:
        """Weights between the embeddings and the first layer."""
        return 0 if self.narrow == self.hidden else (self.narrow + 1) * self.hidden


class Parameters(NamedTuple):
    embeddings: int
    layers: int
    pooler: int
    heads: int
    sharing: int = 0

    @property
    def encoder(self) -> int:
        return self.embeddings + self.layers + self.pooler

    @property
    def total(self) -> int:
        return self.encoder + self.heads + self.sharing


class Memory(NamedTuple):
    """Bytes of one rank."""

    weights: float
    gradients: float
    moments: float
    activations: float


def parameters(sizes: Sizes, classes: Mapping[str, int | None]) -> Parameters:
    """Weights of the encoder and of the heads; `classes` of each task, None for masked LM."""
    hidden, narrow = sizes.hidden, sizes.narrow
    tables = sizes.vocabulary + sizes.positions + sizes.types + sizes.tasks
    masked_lm = hidden * narrow + 3 * narrow + sizes.vocabulary
    return Parameters(
        embeddings=tables * narrow + 2 * narrow + sizes.projection,
        layers=sizes.layer * (1 if sizes.shared else sizes.layers),
        pooler=hidden * hidden + hidden,
        heads=sum(masked_lm if n is None else hidden * n + n for n in classes.values()),
    )


def with_sharing(config: Config, sizes: Sizes, count: Parameters) -> Parameters:
    return count._replace(sharing=shared_parameters(config.sharing, config.tasks, sizes.hidden))


def stage_tokens(stage: Stage, batch_size: int, max_length: int) -> int:
    return sum(stage.steps.values()) * batch_size * max_length


def operations(sizes: Sizes, tokens: int, length: int, predicted: float = 0) -> float:
    """Floating-point operations of training on `tokens` in sequences of `length`, `predicted` of them by masked LM.

    6 × (weights of the layers) per token: 2 forward, 4 backward. Attention adds 12 × layers × length × hidden per
    token, masked LM 6 × embedding × (hidden + vocabulary) per prediction. Shared weights are counted in every layer.
    """
    weights = sizes.layers * sizes.layer + sizes.projection
    attention = 12 * sizes.layers * length * sizes.hidden
    return (6 * weights + attention) * tokens + 6 * sizes.narrow * (sizes.hidden + sizes.vocabulary) * predicted


def memory(sizes: Sizes, total: int, zero: int, ranks: int, sequences: int, length: int, masked: float) -> Memory:
    """Per rank, with `total` parameters, under a ZeRO stage; `masked` is the share of tokens that masked LM predicts.

    ZeRO 1 shares moments, and adds each rank's share of a second copy of the weights; 2 shares gradients too, 3 weights
    too, but for the layer at work.
    """
    number = 4
    copies = total / ranks if zero else 0
    tokens = sequences * length
    layer = 17 * tokens * sizes.hidden + 2.5 * sizes.heads * length * tokens
    logits = 2 * masked * tokens * sizes.vocabulary
    return Memory(
        weights=number * (copies + (total / ranks if zero == 3 else total)),
        gradients=number * total / (ranks if zero >= 2 else 1),
        moments=2 * number * total / (ranks if zero else 1),
        activations=number * (sizes.layers * layer + logits),
    )


def read_sizes(config: Config) -> Sizes:
    """From the config.json of the prior weights or of the teacher, or from the settings of an encoder from scratch."""
    if config.distill is not None:
        teacher = written_sizes(config)
        return teacher._replace(layers=len(config.distill.taken(teacher.layers)))
    if config.model.prior is not None:
        return written_sizes(config)
    model = config.model
    inner, positions = model.intermediate or 4 * model.hidden, max(POSITIONS, config.corpus.max_length)
    return Sizes(
        read_vocabulary(config), model.hidden, model.layers, model.heads, inner, positions,
        config.corpus.max_segments, len(TASKS), model.embedding, model.share_layers,
    )  # fmt: skip


def written_sizes(config: Config) -> Sizes:
    """Those of the prior weights, or of the teacher."""
    setting, source = config.origin()
    assert source is not None
    prior = read_config(source, read_files(source, ["config.json"], setting), setting)
    return Sizes(
        prior["vocab_size"],
        prior["hidden_size"],
        prior["num_hidden_layers"],
        prior["num_attention_heads"],
        prior["intermediate_size"],
        prior["max_position_embeddings"],
        max(config.corpus.max_segments, prior.get("type_vocab_size", 2)),
        len(TASKS),
    )


def read_vocabulary(config: Config) -> int:
    """Number of ids: of the built corpus, else of the tokenizer to be trained (at most), or of the adopted one."""
    corpus, source = config.corpus.folder(), config.corpus.tokenizer
    if (corpus / "manifest.json").exists():
        return read_manifest(corpus)["tokenizer"]["vocab_size"]
    if source == "train":
        return config.corpus.vocab_size
    return load_tokenizer(source).get_vocab_size()


def plan(config: Config, ranks: int = 1, cluster: Cluster | None = None) -> RenderableType:
    """Everything above, as a person reads it; of a cluster also traffic, time and storage."""
    sizes = read_sizes(config)
    stages = config.stages()
    settings = config.corpus.settings()
    classes, unknown = count_classes(config)
    count = with_sharing(config, sizes, parameters(sizes, classes))
    model = Table.grid(padding=(0, 2))
    origin = f"continues from {config.model.prior}" if config.model.prior else "from scratch"
    if config.distill is not None:
        origin = f"student of {config.distill.teacher} with {written_sizes(config).layers} layers"
    layers = f"{sizes.layers} layers" + (" of the same weights" if sizes.shared else "")
    shape = f"{layers} × {sizes.hidden}, {sizes.heads} heads, {sizes.vocabulary:,} ids, {origin}"
    model.add_row("encoder", f"{human(count.encoder)} parameters: {shape}")
    model.add_row("heads", f"{human(count.heads)} parameters for {len(classes)} tasks")
    if count.sharing:
        kind, place = config.sharing.kind, "inside the encoder" if config.sharing.place == "inside" else "on top of it"
        model.add_row("sharing", f"{human(count.sharing)} parameters: {kind} {place}")
    for task in unknown:
        model.add_row("", f"without {task}: its classes are those of its files, known once the corpus is built")
    a_step = f"{config.train.batch_size} instances of up to {settings.max_length} tokens"
    model.add_row("schedule", f"{config.schedule.kind} over {config.schedule.over}; a step is {a_step}")
    tables = [model, stage_table(config, stages, sizes), memory_table(config, sizes, count.total, ranks, cluster)]
    if cluster is not None:
        tables += [pace_table(config, sizes, count.total, cluster), storage_table(config, count.total, cluster)]
    return Group(*(part for table in tables for part in (table, Text())))


def count_classes(config: Config) -> tuple[dict[str, int | None], list[str]]:
    """Classes of every task, None for masked LM; and the tasks whose classes only the built corpus knows."""
    corpus = config.corpus.folder()
    built = read_manifest(corpus)["tasks"] if (corpus / "manifest.json").exists() else {}
    settings, classes, unknown = config.corpus.settings(), dict[str, int | None](), list[str]()
    for task in config.tasks:
        labels = TASKS[task].labels
        if task in built:
            classes[task] = built[task]["labels"] and len(built[task]["labels"])
        elif task == discourse_relation.NAME and config.corpus.relations:
            unknown.append(task)
        else:
            classes[task] = None if labels is None else len(labels(settings))
    return classes, unknown


def stage_table(config: Config, stages: list[Stage], sizes: Sizes) -> Table:
    table = make_table("optimizer steps")
    table.add_column("task", no_wrap=True)
    for number in range(1, len(stages) + 1):
        table.add_column(f"stage {number}", justify="right")
    table.add_column("all", justify="right")
    for task in config.tasks:
        steps = [stage.steps.get(task, 0) for stage in stages]
        table.add_row(task, *(f"{n:,}" if n else "–" for n in steps), f"{sum(steps):,}")
    table.add_section()
    batch, length = config.train.batch_size, config.corpus.max_length
    steps = [sum(stage.steps.values()) for stage in stages]
    tokens = [stage_tokens(stage, batch, length) for stage in stages]
    work = [stage_operations(config, stage, sizes) for stage in stages]
    table.add_row("steps", *(f"{n:,}" for n in steps), f"{sum(steps):,}", style="bold")
    table.add_row("tokens, at most", *map(human, tokens), human(sum(tokens)))
    table.add_row("FLOP, at most", *map(human, work), human(sum(work)))
    return table


def stage_operations(config: Config, stage: Stage, sizes: Sizes) -> float:
    length = config.corpus.max_length
    return training_operations(config, [stage], sizes, stage_tokens(stage, config.train.batch_size, length), length)


def training_operations(config: Config, stages: Sequence[Stage], sizes: Sizes, tokens: int, length: int) -> float:
    """Of these stages on so many tokens in sequences of such a length, sharing and a teacher included."""
    if config.distill is not None:  # every token is predicted, and by the teacher too, a third of training it
        teacher = operations(written_sizes(config), tokens, length, tokens) / 3
        return operations(sizes, tokens, length, tokens) + teacher
    total, slots = sum(stage.total for stage in stages), dict.fromkeys(config.tasks, 0.0)
    for stage in stages:
        for task, steps in predicted_steps(config, stage).items():
            slots[task] += steps / total * tokens * targets_a_token(config, task, length)
    predicted = sum(number for task, number in slots.items() if TASKS[task].head is Head.MASKED_LM)
    layers = sizes.layers + layers_again(config.sharing, config.tasks)
    # sharing is computed at every token inside the encoder, on top of it where something is predicted
    shared = tokens if config.sharing.place == "inside" else sum(slots.values())
    weights = shared_work(config.sharing, config.tasks, sizes.hidden)
    return operations(sizes._replace(layers=layers), tokens, length, predicted) + 6 * weights * shared


def targets_a_token(config: Config, task: str, length: int) -> float:
    """At most, in sequences of such a length."""
    if TASKS[task].target is None:
        return 1 / length
    return config.corpus.mask_share if TASKS[task].head is Head.MASKED_LM else 1.0


def predicted_steps(config: Config, stage: Stage) -> dict[str, int]:
    """Steps of a stage in which each task has targets: its own, and those of sentence-level tasks beside it."""
    accompanied = sum(steps for task, steps in stage.steps.items() if TASKS[task].target is None)
    return {task: steps + accompanied * (task in config.train.companions) for task, steps in stage.steps.items()}


def memory_table(config: Config, sizes: Sizes, total: int, ranks: int, cluster: Cluster | None) -> Table:
    bf16 = in_bf16(config.train, gpu=cluster is not None)
    estimate = "activations: an estimate" + (", in bf16" if bf16 else "")
    table = make_table(f"memory per rank (ranks: {ranks}), in 32-bit numbers; {estimate}")
    for name in ("", *Memory._fields, "all"):
        table.add_column(name, justify="right" if name else "left")
    for zero in range(4):
        parts = memory_of(config, sizes, total, zero, ranks)
        if bf16:
            parts = parts._replace(activations=parts.activations / 2)
        table.add_row(zero_name(config, zero), *(f"{human(part)}B" for part in (*parts, sum(parts))))
    return table


def zero_name(config: Config, zero: int) -> str:
    return f"ZeRO {zero}" + (" ◂" if zero == config.train.zero_stage else "")


def pace_table(config: Config, sizes: Sizes, total: int, cluster: Cluster) -> Table:
    train, stages = config.train, config.stages()
    steps = sum(stage.total for stage in stages)
    work = sum(stage_operations(config, stage, sizes) for stage in stages) / steps
    tokens = train.batch_size * config.corpus.max_length
    micro_batches = passes(train.batch_size, train.micro_batch_size, cluster.ranks)
    table = make_table(
        f"a step on {cluster.nodes} nodes × {cluster.gpus} GPUs of {human(cluster.peak)}FLOP/s, {cluster.mfu:.0%} of "
        f"it reached, {human(cluster.network)}B/s between nodes; micro-batches per GPU: {micro_batches}"
    )
    for name in ("", "sent per node", "sending", "computing", "step", "tokens/s", f"{steps:,} steps", "GPU-hours"):
        table.add_column(name, justify="right" if name else "left", no_wrap=not name)
    for zero in range(4):
        step = pace(cluster, work, total, zero, micro_batches, 2 if train.communication == "bf16" else NUMBER)
        hours = steps * step.seconds / 3600
        table.add_row(
            zero_name(config, zero), f"{human(step.sent)}B", *map(span, (step.sending, step.computing, step.seconds)),
            human(tokens / step.seconds), span(3600 * hours), f"{hours * cluster.ranks:,.0f}",
        )  # fmt: skip
    return table


def storage_table(config: Config, total: int, cluster: Cluster) -> Table:
    corpus = config.corpus.folder()
    size = checkpoint_bytes(total)
    tokens = sum(stage_tokens(stage, config.train.batch_size, config.corpus.max_length) for stage in config.stages())
    built = "known once it is built; some 0.8 bytes per byte of English text"
    if (corpus / "manifest.json").exists():
        built = f"{human(sum(path.stat().st_size for path in corpus.rglob('*') if path.is_file()))}B"
    table = Table.grid(padding=(0, 2))
    table.add_row(
        "checkpoint", f"{human(size)}B, {span(size / cluster.disk)} at {human(cluster.disk)}B/s, beside training"
    )
    table.add_row("all checkpoints", f"{human(checkpoints_bytes(config))}B on disk at most, without train.keep_every")
    table.add_row("corpus", f"{built}, whole on every node or on a shared disk")
    table.add_row("read in training", f"{human(tokens * TOKEN / cluster.nodes)}B by each node, at most")
    return table


def span(seconds: float) -> str:
    """3.21 ms, 1.23 s, 4.5 h."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def planned_memory(config: Config, ranks: int) -> float:
    """Bytes of one rank, all parts together."""
    classes, _ = count_classes(config)
    sizes = read_sizes(config)
    count = with_sharing(config, sizes, parameters(sizes, classes))
    return sum(memory_of(config, sizes, count.total, config.train.zero_stage, ranks))


def memory_of(config: Config, sizes: Sizes, total: int, zero: int, ranks: int) -> Memory:
    sequences = min(config.train.micro_batch_size, -(-config.train.batch_size // ranks))
    length, masked = config.corpus.max_length, config.corpus.mask_share
    if config.distill is None:
        return memory(sizes, total, zero, ranks, sequences, length, masked)
    parts = memory(sizes, total, zero, ranks, sequences, length, masked=2)  # all tokens, by student and teacher
    teacher = parameters(written_sizes(config), {knowledge_masking.NAME: None}).total
    return parts._replace(weights=parts.weights + NUMBER * teacher)


def checkpoint_bytes(total: int) -> int:
    """Of one checkpoint: weights and two moments in 32-bit numbers, whatever the precision of training."""
    return 3 * 4 * total


def checkpoints_bytes(config: Config) -> int:
    """On disk at most, without `train.keep_every`: the checkpoints kept, one being written, the finished stages."""
    (classes, _), sizes = count_classes(config), read_sizes(config)
    kept = config.train.keep_last + 1 + len(config.stages())
    return kept * checkpoint_bytes(with_sharing(config, sizes, parameters(sizes, classes)).total)


def bytes_to_write(config: Config) -> int:
    """What of them does not lie in the run folder yet."""
    there = [path for path in config.folder().glob("stage*/**/*") if path.is_file()]
    return max(0, checkpoints_bytes(config) - sum(path.stat().st_size for path in there))


def make_table(title: str) -> Table:
    return Table(box=None, pad_edge=False, header_style="bold", title=title, title_style="dim", title_justify="left")


def human(number: float) -> str:
    """Three figures and a unit: 22.7 M, 1.20 P."""
    if number < 1000:
        return f"{number:.0f}"
    power = min(int(log10(number * 1.0005)) // 3, 8)
    number /= 1000**power
    return f"{number:#.3g}".removesuffix(".") + f" {' kMGTPEZY'[power]}"
