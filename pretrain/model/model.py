"""The encoder and the heads that its tasks declare.

The encoder is transformers' `ErnieModel`: BERT plus an embedding of the task, added to every token (ERNIE 2.0, section
4.1). Each task's row of that embedding is a parameter of its own, so that a task that rests can rest entirely. ALBERT's
two savings (Lan et al. 2020, section 3.1), narrow embeddings and shared layers, are in the encoder's shape where set.
"""

from collections.abc import Mapping, Sequence, Set
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import ErnieConfig, ErnieModel
from transformers.activations import ACT2FN
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.ernie.modeling_ernie import ErnieEmbeddings, ErnieLayer

from pretrain.balancing.uncertainty import LogVariances
from pretrain.config import ModelConfig, PenaltyConfig
from pretrain.data.batch import Batch, Layout
from pretrain.model.attention import one_by_one
from pretrain.model.dropout import replace_dropout
from pretrain.model.prior import Prior, fit_types
from pretrain.sharing.hard import Hard
from pretrain.sharing.inside import Beside, Inside
from pretrain.sharing.parts import drawn_from
from pretrain.sharing.penalty import penalty
from pretrain.tasks import TASKS
from pretrain.tasks.spec import Head

TASK_IDS = {task: number for number, task in enumerate(TASKS)}
"""The row of each task in an exported checkpoint's task-type embedding."""


def ernie_config(ours: ModelConfig, prior: Prior | None, vocab_size: int, length: int, num_types: int) -> ErnieConfig:
    """The encoder's shape: that of the prior weights where there are some, else as configured."""
    if prior is None:
        shape: dict = {
            "vocab_size": vocab_size,
            "hidden_size": ours.hidden,
            "num_hidden_layers": ours.layers,
            "num_attention_heads": ours.heads,
            "intermediate_size": ours.intermediate or 4 * ours.hidden,
            "hidden_act": ours.activation,
            "max_position_embeddings": max(512, length),
        }
        if ours.embedding is not None:
            shape["embedding_size"] = ours.embedding
        if ours.share_layers:
            shape["share_layers"] = True
    else:
        shape = dict(prior.config)
    return ErnieConfig(
        **shape | {"type_vocab_size": max(num_types, shape.get("type_vocab_size", 0))},
        use_task_id=True,
        task_type_vocab_size=len(TASK_IDS),
        hidden_dropout_prob=ours.dropout,
        attention_probs_dropout_prob=ours.attention_dropout,
    )


def embedding_width(config: ErnieConfig) -> int:
    return getattr(config, "embedding_size", config.hidden_size)


def shares_layers(config: ErnieConfig) -> bool:
    return getattr(config, "share_layers", False)


class TaskEmbeddings(nn.Module):
    """Task-type embeddings, one parameter per task; a task that is not trained yet has the starting row."""

    start: Tensor

    def __init__(self, start: Tensor, tasks: Sequence[str]):
        super().__init__()
        self.register_buffer("start", start)
        self.rows = nn.ParameterDict({task: nn.Parameter(start.clone()) for task in tasks})

    def table(self) -> Tensor:
        return torch.stack([self.rows.get(task, self.start) for task in TASK_IDS])

    def forward(self, task_type_ids: Tensor) -> Tensor:
        return functional.embedding(task_type_ids, self.table())


class MaskedLMHead(nn.Module):
    """Transform, LayerNorm, then the tied word embedding plus a bias (as in BERT)."""

    def __init__(self, config: ErnieConfig):
        super().__init__()
        width = embedding_width(config)
        self.dense = nn.Linear(config.hidden_size, width)
        self.activation = ACT2FN[config.hidden_act]
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        return functional.linear(self.transform(hidden), embedding, self.bias)

    def transform(self, hidden: Tensor) -> Tensor:
        return self.norm(self.activation(self.dense(hidden)))

    def fused_loss(self, hidden: Tensor, embedding: Tensor, labels: Tensor) -> Tensor:
        """Summed cross-entropy without the logits of all words at once. On CPU it measured 1.6 times slower."""
        kind = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else hidden.dtype
        return functional.linear_cross_entropy(
            self.transform(hidden).to(kind),
            embedding.to(kind),
            labels,
            linear_bias=self.bias.to(kind),
            reduction="sum",
            options=nn.LinearCrossEntropyOptions(),
        )


class Model(nn.Module):
    """Encoder, what the tasks share on top of it, heads. `labels` gives the classes of every task with a head here."""

    loss_weights: Mapping[str, float] = {}
    """Of the losses that do not count once. What is no task's is summed over all tokens."""

    def __init__(
        self,
        config: ErnieConfig,
        labels: Mapping[str, Sequence[str] | None],
        seed: int,
        sharing: nn.Module | None = None,
        penalty: PenaltyConfig | None = None,
    ):
        super().__init__()
        self.config, self.penalty = config, penalty or PenaltyConfig()
        width = embedding_width(config)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.encoder = ErnieModel(config)
            self.projection = self.narrow_embeddings() if width != config.hidden_size else None
        if shares_layers(config):
            self.encoder.encoder.layer = self.encoder.encoder.layer[:1]
        self.encoder.set_attn_implementation(one_by_one.__name__)
        self.encoder.embeddings.task_type_embeddings = TaskEmbeddings(torch.zeros(width), list(labels))  # type: ignore[assignment]
        self.heads = nn.ModuleDict()
        for task, classes in labels.items():
            with drawn_from(f"{seed}/{task}"):
                self.heads[task] = build_head(task, classes, config)
        self.sharing = sharing or Hard()
        self.log_variances: LogVariances | None = None
        """Where uncertainty weighs the tasks."""
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.last_layer = last_layer
        replace_dropout(self)

    def narrow_embeddings(self) -> nn.Linear:
        """Make the embeddings as narrow as the shape says; returns what makes them as wide as the layers."""
        width = embedding_width(self.config)
        narrow = ErnieEmbeddings(ErnieConfig(**self.config.to_dict() | {"hidden_size": width}))
        projection = nn.Linear(width, self.config.hidden_size)
        for part in (narrow, projection):
            part.apply(self.encoder._init_weights)
        self.encoder.embeddings = narrow
        return projection

    def prepare(self, twice: bool, compiled: bool) -> None:
        """`twice`: keep only what goes between layers, and compute the rest again on the way back."""
        if twice:
            self.encoder.activation_checkpointing_enable()
        if compiled:
            for layer in dict.fromkeys(self.layers[:-1]):
                layer.compile(dynamic=True)
            self.last_layer = torch.compile(last_layer, dynamic=True)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of every task in the batch, summed over its targets."""
        hidden = self.encode(batch)
        losses = {
            task: self.loss(task, self.sharing(task, hidden[where]), labels)
            for task, (where, labels) in batch.targets.items()
        }
        return losses if self.log_variances is None else self.log_variances(losses, batch.counts)

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Logits of every task in the batch, shape (targets, classes)."""
        hidden = self.encode(batch)
        return {task: self.read(task, self.sharing(task, hidden[where])) for task, (where, _) in batch.targets.items()}

    def regularise(self, awake: Set[str]) -> Tensor | None:
        """What regularised sharing adds to the loss of a step that trains these groups; None: nothing."""
        return penalty(self.sharing, self.penalty, awake)

    def encode(self, batch: Batch) -> Tensor:
        """Hidden states of the slots that the batch reads, shape (reads, hidden)."""
        ids = batch.ids[None]
        hidden = self.encoder.embeddings(
            input_ids=ids,
            token_type_ids=batch.types[None],
            position_ids=batch.positions[None],
            task_type_ids=torch.full_like(ids, TASK_IDS[batch.task]),
        )
        if self.projection is not None:
            hidden = self.projection(hidden)
        *layers, last = self.layers
        inside = self.sharing.beside(batch.task) if isinstance(self.sharing, Inside) else []
        plain = len(layers) + 1 - len(inside)
        for layer in layers[:plain]:
            hidden = layer(hidden, layout=batch.layout, queries=batch.layout)
        for layer, beside in zip(layers[plain:], inside, strict=False):
            hidden = expert_layer(layer, hidden, slice(None), batch.layout, batch.layout, beside)
        read = self.last_layer if not inside else partial(expert_layer, beside=inside[-1])
        return read(last, hidden, batch.read, batch.layout, batch.read_layout)[0]

    def loss(self, task: str, hidden: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of one task, summed over its targets, from the hidden states there."""
        if TASKS[task].head is Head.MASKED_LM and hidden.is_cuda:
            head = cast(MaskedLMHead, self.heads[task])
            return head.fused_loss(hidden, self.encoder.embeddings.word_embeddings.weight, labels)
        return functional.cross_entropy(self.read(task, hidden).float(), labels, reduction="sum")

    def read(self, task: str, hidden: Tensor) -> Tensor:
        """Logits of one task from the hidden states at its targets."""
        head = self.heads[task]
        if TASKS[task].head is Head.MASKED_LM:
            return head(hidden, self.encoder.embeddings.word_embeddings.weight)
        if TASKS[task].head is Head.SEQUENCE:
            pooler = self.encoder.pooler
            assert pooler is not None
            hidden = pooler.activation(pooler.dense(hidden))
        return head(self.dropout(hidden))

    @property
    def layers(self) -> list[ErnieLayer]:
        """In the order in which they are computed; where weights are shared, one layer as often as there are layers."""
        own = cast(list[ErnieLayer], list(self.encoder.encoder.layer))
        return own * (self.config.num_hidden_layers // len(own))

    @property
    def last_shared(self) -> nn.Parameter:
        """The last matrix of the encoder, which all tasks share whatever lies on top of it or beside it."""
        return cast(nn.Parameter, self.layers[-1].output.dense.weight)

    @property
    def task_embeddings(self) -> TaskEmbeddings:
        return cast(TaskEmbeddings, self.encoder.embeddings.task_type_embeddings)


def last_layer(layer: ErnieLayer, hidden: Tensor, read: Tensor, layout: Layout, queries: Layout) -> Tensor:
    """What a layer of the encoder gives at the slots that are read: nothing of the last one is computed for others."""
    attended = attention(layer, hidden, read, layout, queries)
    return layer.output(layer.intermediate(attended), attended)


def expert_layer(
    layer: ErnieLayer, streams: Tensor, read: Tensor | slice, layout: Layout, queries: Layout, beside: Beside
) -> Tensor:
    """The same of a layer with experts `beside` its feed-forward part, from streams (streams, slots, hidden)."""
    attended = torch.cat([attention(layer, stream, read, layout, queries) for stream in streams.split(1)])
    entering, added = beside(attended, queries)
    return layer.output(layer.intermediate(entering), added)


def attention(layer: ErnieLayer, hidden: Tensor, read: Tensor | slice, layout: Layout, queries: Layout) -> Tensor:
    """What the first half of a layer gives at the slots that are read."""
    inner = layer.attention.self
    attend = ALL_ATTENTION_FUNCTIONS[inner.config._attn_implementation]
    entering = hidden[:, read]
    parts = inner.query(entering), inner.key(hidden), inner.value(hidden)
    query, key, value = (part.unflatten(-1, (-1, inner.attention_head_size)).transpose(1, 2) for part in parts)
    dropout = inner.dropout.p if layer.training else 0.0
    mixed, _ = attend(inner, query, key, value, None, inner.scaling, dropout, layout, queries)
    return layer.attention.output(mixed.flatten(2), entering)


def build_head(task: str, classes: Sequence[str] | None, config: ErnieConfig) -> nn.Module:
    if TASKS[task].head is Head.MASKED_LM:
        head: nn.Module = MaskedLMHead(config)
    else:
        assert classes is not None
        head = nn.Linear(config.hidden_size, len(classes))
    for name, parameter in head.named_parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=config.initializer_range)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    return head


MASKED_LM_NAMES = {
    "cls.predictions.transform.dense.weight": "dense.weight",
    "cls.predictions.transform.dense.bias": "dense.bias",
    "cls.predictions.transform.LayerNorm.weight": "norm.weight",
    "cls.predictions.transform.LayerNorm.bias": "norm.bias",
    "cls.predictions.bias": "bias",
}


def load_prior(model: Model, prior: Prior) -> tuple[list[str], list[str]]:
    """Copy prior weights into the model; returns (what is new in the model, what of the checkpoint has no place).

    The task embeddings of a checkpoint start every task from its row 0, the one that fine-tuning uses by default; a
    checkpoint without them leaves zeros, so either way the hidden states are those of the checkpoint.
    """
    tensors = {f"encoder.{name}": tensor for name, tensor in prior.tensors.items() if not name.startswith("cls.")}
    types = "encoder.embeddings.token_type_embeddings.weight"
    if types in tensors:
        tensors[types] = fit_types(tensors[types], model.config.type_vocab_size)
    tasks = model.task_embeddings
    known = tensors.pop("encoder.embeddings.task_type_embeddings.weight", None)
    if known is not None:
        tasks.start.copy_(known[0])
        tensors |= {f"encoder.embeddings.task_type_embeddings.rows.{task}": known[0] for task in tasks.rows}
    for name, ours in MASKED_LM_NAMES.items():
        head = next((task for task in model.heads if TASKS[task].head is Head.MASKED_LM), None)
        if head is not None and name in prior.tensors:
            tensors[f"heads.{head}.{ours}"] = prior.tensors[name]
    place = dict(model.named_parameters())
    optional = (
        "encoder.pooler.", "encoder.embeddings.task_type_embeddings.", "heads.", "sharing.", "log_variances.",
    )  # fmt: skip
    if missing := [name for name in place if name not in tensors and not name.startswith(optional)]:
        raise ValueError(
            f"prior weights: {len(missing)} parameters of the encoder are not in the checkpoint, {missing[0]} for one. "
            f"It holds such as {next(iter(prior.tensors), 'nothing that belongs to a BERT encoder')}."
        )
    for name in tensors.keys() & place.keys():
        if tensors[name].shape != place[name].shape:
            raise ValueError(
                f"prior weights: {name} has shape {tuple(tensors[name].shape)}, its config.json says "
                f"{tuple(place[name].shape)}. The checkpoint and its configuration do not belong together."
            )
        place[name].data.copy_(tensors[name])
    new = place.keys() - tensors.keys()
    unused = tensors.keys() - place.keys() - {"encoder.embeddings.position_ids"}
    return sorted(new), sorted(unused)
