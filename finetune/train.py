"""Fine-tuning of one checkpoint on one task from one seed, by transformers' Trainer."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from finetune import heads
from finetune.checkpoint import load_tokenizer, quiet
from finetune.declare import SHAPES, Split, Task
from finetune.heads import Collate, Feature, Model
from finetune.metrics import METRICS
from finetune.read import Rows, classes_of, read_split
from pretrain.report import clock

PREDICT_ROWS = 64
"""Examples predicted at once."""


class TaskData(NamedTuple):
    """The rows of a task, read once for all seeds and checkpoints."""

    name: str
    task: Task
    classes: list[str]
    splits: dict[Split, Rows]

    @property
    def reported(self) -> Split:
        """Where the score comes from: test where there is one, else dev, by which the epoch was chosen as well."""
        return "test" if "test" in self.splits else "dev"

    def metrics(self) -> list[str]:
        """Those that fit the kind, and the classes."""
        return [name for name in SHAPES[self.task.kind].metrics if name != "f1" or len(self.classes) == 2]

    def labels(self, split: Split) -> list[Any]:
        """As the metrics take them: classes by number."""
        number = {name: index for index, name in enumerate(self.classes)}
        by_number = self.task.kind in ("single", "pair")
        return [number[item.label] if by_number else item.label for item in self.splits[split].examples]

    def chance(self, split: Split) -> float:
        """The metric of who always says the same: the most frequent class, no entity, one score."""
        labels = self.labels(split)
        guesses: list[Any]
        if self.task.kind in ("single", "pair"):
            guesses = [Counter(labels).most_common(1)[0][0]] * len(labels)
        elif self.task.kind == "similarity":
            guesses = [0.0] * len(labels)
        else:
            nothing = "O" if self.task.kind == "tokens" else 0.0
            guesses = [[nothing] * len(label) for label in labels]
        return METRICS[self.task.metric](labels, guesses)


def read_task(name: str, task: Task, data: Path | None) -> TaskData:
    """Raises ValueError where a split cannot be had, or its classes are not those of train."""
    train = read_split(name, task, "train", data, task.classes)
    classes = classes_of(name, task, train)
    place = task.files if data is not None else task.hub
    others: tuple[Split, ...] = ("dev", "test") if place is not None and place.test else ("dev",)
    known = classes if task.kind in ("single", "pair") else None
    splits: dict[Split, Rows] = {"train": train}
    for split in others:
        splits[split] = read_split(name, task, split, data, known)
    return TaskData(name, task, classes, splits)


class Trained(NamedTuple):
    model: Model
    """Of the best epoch."""
    tokenizer: PreTrainedTokenizerBase
    predictions: list[Any]
    """Of the reported split."""
    epochs: list[float]
    """The metric on dev after each epoch."""
    best: int
    """The first of the best epochs, from 1."""
    new: list[str]
    """Parameters that the checkpoint had not."""


class Prepared(NamedTuple):
    """A checkpoint under the head of one task, and the task's examples as it takes them."""

    model: Model
    tokenizer: PreTrainedTokenizerBase
    features: dict[Split, list[Feature]]
    collate: Collate
    new: list[str]


def prepare(data: TaskData, folder: Path, seed: int) -> Prepared:
    """What is new in the model is drawn from `seed`, whatever was drawn before."""
    task, classes = data.task, data.classes
    tokenizer = load_tokenizer(folder)
    set_seed(seed)
    model, new = heads.model_of(task, classes, folder)
    length = min(task.max_length, tokenizer.model_max_length, heads.encoder_of(model).config.max_position_embeddings)
    features = {
        split: heads.encode(task, rows.examples, classes, tokenizer, length) for split, rows in data.splits.items()
    }
    return Prepared(model, tokenizer, features, Collate(task, tokenizer), new)


def train(
    data: TaskData,
    folder: Path,
    seed: int,
    say: Callable[[str], object],
    head: Mapping[str, torch.Tensor] | None = None,
) -> Trained:
    """Fine-tune, and keep the epoch that is best on dev. On a CPU the same seed gives the same scores.

    `head`: weights to begin with, as heads.head_of gives them; None: a new head.
    """
    task = data.task
    model, tokenizer, features, collate, new = prepare(data, folder, seed)
    if head is not None:
        model.load_state_dict(head, strict=False)
        new = [name for name in new if name not in head]
    watch = Watch(data, features["dev"], collate, seed, tokens_in(features["train"]), say)
    gpu = torch.cuda.is_available()
    with TemporaryDirectory(prefix="cumul-") as nowhere, quiet():
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=nowhere,
                num_train_epochs=task.epochs,
                per_device_train_batch_size=task.batch_size,
                learning_rate=task.lr,
                lr_scheduler_type="linear",
                warmup_steps=task.warmup,
                weight_decay=task.weight_decay,
                bf16=gpu,
                dataloader_pin_memory=gpu,
                train_sampling_strategy="group_by_length",
                remove_unused_columns=False,
                seed=seed,
                eval_strategy="no",
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            data_collator=collate,
            train_dataset=features["train"],  # type: ignore[arg-type]  # a list has what a Dataset needs
            compute_loss_func=lambda outputs, labels, num_items_in_batch: heads.loss(task, outputs.logits, labels),
            callbacks=[watch],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    model.load_state_dict(watch.weights)
    predictions = predict(model, data, features[data.reported], collate)
    return Trained(model, tokenizer, predictions, watch.scores, watch.best, new)


class Watch(TrainerCallback):
    """After each epoch: the metric on dev, a line for who waits, and the best weights so far, in memory."""

    def __init__(
        self, data: TaskData, dev: list[Feature], collate: Collate, seed: int, tokens: int, say: Callable[[str], object]
    ):
        self.data, self.dev, self.collate, self.seed, self.tokens, self.say = data, dev, collate, seed, tokens, say
        self.labels = data.labels("dev")
        self.scores: list[float] = []
        self.best = 0
        self.weights: dict[str, torch.Tensor] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        self.begun = time.monotonic()

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.epoch_begun = time.monotonic()

    def on_epoch_end(self, args, state, control, **kwargs):
        model = kwargs["model"]
        speed = self.tokens / (time.monotonic() - self.epoch_begun)
        task = self.data.task
        score = METRICS[task.metric](self.labels, predict(model, self.data, self.dev, self.collate))
        if not self.scores or score > max(self.scores):
            self.best = len(self.scores) + 1
            self.weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        self.scores.append(score)
        epoch = len(self.scores)
        left = (time.monotonic() - self.begun) / epoch * (task.epochs - epoch)
        self.say(
            f"{self.data.name}  seed {self.seed}  epoch {epoch}/{task.epochs}  dev {task.metric} {score:.3f}  "
            f"{speed:,.0f} tok/s  left {clock(left)}"
        )


@torch.no_grad()
def predict(
    model: Model, data: TaskData, features: Sequence[Feature], collate: Collate, batches: slice = slice(None)
) -> list[Any]:
    """In the order of `features`; batches hold those of like length. The generators of randomness stay untouched.

    `batches`: only these are predicted, None stands for the rest.
    """
    was_training = model.training
    model.eval()
    order = sorted(range(len(features)), key=lambda index: size_of(features[index]))
    size = PREDICT_ROWS if data.task.kind != "ranking" else max(1, data.task.batch_size)
    found: list[Any] = [None] * len(features)
    device = heads.encoder_of(model).device
    for begin in range(0, len(order), size)[batches]:
        chosen = order[begin : begin + size]
        rows = [features[index] for index in chosen]
        batch = {name: tensor.to(device) for name, tensor in collate(rows).items() if name != "labels"}
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(**batch).logits
        for index, prediction in zip(chosen, heads.decode(data.task, logits, rows, data.classes), strict=True):
            found[index] = prediction
    model.train(was_training)
    return found


def size_of(feature: Feature) -> int:
    """Tokens, of all texts where there are several."""
    ids = feature["input_ids"]
    return sum(map(len, ids)) if isinstance(ids[0], list) else len(ids)


def tokens_in(features: Sequence[Feature]) -> int:
    return sum(map(size_of, features))
