"""What is particular to a kind of task: its head, how an example is encoded, its loss, what its outputs predict.

Apart from the training itself, so that tasks with different heads can share an encoder.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from finetune.checkpoint import load_model
from finetune.declare import Task
from finetune.read import Example
from finetune.san import AnswerNetwork

IGNORED = -100
"""The label of a piece that nothing is learnt from."""
BESIDE = ("labels", "first", "parts")
"""What a feature holds that is no input of the encoder."""
Feature = dict[str, Any]
Model = PreTrainedModel | AnswerNetwork


def model_of(task: Task, classes: Sequence[str], folder: Path) -> tuple[Model, list[str]]:
    """The checkpoint's encoder under the task's head, and which parameters are new. Raises ValueError as load_model."""
    auto = AutoModelForSequenceClassification if pools(task) else AutoModelForTokenClassification
    model, new = load_model(auto, folder, num_labels=len(classes) or 1)
    if task.san is None:
        return model, new
    network = AnswerNetwork(encoder_of(model), len(classes), task.san)
    return network, sorted(head_of(network))


def pools(task: Task) -> bool:
    """Whether the head looks at the whole sequence, by the encoder's pooler where it has one; else at every token."""
    return task.kind != "tokens" and task.san is None


def head_of(model: Model) -> dict[str, torch.Tensor]:
    """The weights that are not the encoder's."""
    inside = f"{model.base_model_prefix}."
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(inside)}


def encoder_of(model: Model) -> PreTrainedModel:
    return getattr(model, model.base_model_prefix)


def share_encoder(models: Sequence[Model]) -> PreTrainedModel:
    """Put all heads on one encoder: that of the first that pools, since some heads need it, or else the first."""
    encoders = [encoder_of(model) for model in models]
    encoder = next((one for one in encoders if getattr(one, "pooler", None) is not None), encoders[0])
    for model in models:
        setattr(model, model.base_model_prefix, encoder)
    return encoder


def encode(
    task: Task, examples: Sequence[Example], classes: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int
) -> list[Feature]:
    """Every example as ids, cut to `length`, and `labels`; a query as several runs of ids (a list of lists); for the
    answer network also `parts`: which text a token is of."""
    number = {name: index for index, name in enumerate(classes)}
    if task.kind == "tokens":
        encoded = [
            tokenizer(list(item.texts), is_split_into_words=True, truncation=True, max_length=length)
            for item in examples
        ]
        return [
            dict(one) | tagged(one.word_ids(), [number.get(tag, IGNORED) for tag in item.label])
            for one, item in zip(encoded, examples, strict=True)
        ]
    if task.kind == "ranking":
        return [
            dict(tokenizer([item.texts[0]] * len(item.label), list(item.texts[1:]), truncation=True, max_length=length))
            | {"labels": list(item.label)}
            for item in examples
        ]
    batch = tokenizer(
        *map(list, zip(*(item.texts for item in examples), strict=True)), truncation=True, max_length=length
    )
    if task.kind == "similarity":
        low, high = task.range or (0, 1)
        labels = [(item.label - low) / (high - low) for item in examples]
    else:
        labels = [number[item.label] for item in examples]
    features = [
        {name: values[index] for name, values in batch.items()} | {"labels": label}
        for index, label in enumerate(labels)
    ]
    if task.san is not None:
        for index, feature in enumerate(features):
            feature["parts"] = [0 if text is None else text + 1 for text in batch.sequence_ids(index)]
    return features


def tagged(words: Sequence[int | None], labels: Sequence[int]) -> Feature:
    """`first`: where each token's first piece is, None where it has none; `labels`: of the first pieces alone."""
    first: list[int | None] = [None] * len(labels)
    pieces = [IGNORED] * len(words)
    for place, word in reversed(list(enumerate(words))):
        if word is not None:
            first[word] = place
    for begin, label in zip(first, labels, strict=True):
        if begin is not None:
            pieces[begin] = label
    return {"labels": pieces, "first": first}


class Collate:
    """Features to a batch, padded to its longest. A query's texts are rows; `labels` then are (queries, most texts),
    padded with NaN."""

    def __init__(self, task: Task, tokenizer: PreTrainedTokenizerBase):
        self.task, self.tokenizer = task, tokenizer

    def __call__(self, features: Sequence[Feature]) -> dict[str, torch.Tensor]:
        labels = [feature["labels"] for feature in features]
        runs = [{name: values for name, values in feature.items() if name not in BESIDE} for feature in features]
        if self.task.kind == "ranking":
            runs = [
                {name: values[index] for name, values in run.items()}
                for run in runs
                for index in range(len(run["input_ids"]))
            ]
        batch = dict(self.tokenizer.pad(runs, return_tensors="pt"))
        if self.task.kind == "tokens":
            batch["labels"] = padded(labels, IGNORED, batch["input_ids"].shape[1], torch.long)
        elif self.task.kind == "ranking":
            batch["labels"] = padded(labels, float("nan"), max(map(len, labels)), torch.float)
        else:
            batch["labels"] = torch.tensor(labels, dtype=torch.float if self.task.kind == "similarity" else torch.long)
        if self.task.san is not None:
            batch["parts"] = padded([f["parts"] for f in features], 0, batch["input_ids"].shape[1], torch.long)
        return batch


def padded(rows: Sequence[Sequence[float]], filler: float, width: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows], dtype=dtype)


def targets(task: Task, features: Sequence[Feature]) -> int:
    """What the loss is a mean over: examples, queries, or tokens that have a label."""
    if task.kind == "tokens":
        return sum(label != IGNORED for feature in features for label in feature["labels"])
    return len(features)


def unit(task: Task, features: Sequence[Feature]) -> float:
    """What its loss is divided by where tasks are learnt together: of a similarity, that of guessing the mean score.

    Scores lie between 0 and 1, so their squared errors are far below a cross-entropy, and in the moments that the tasks
    share they would hardly count.
    """
    if task.kind != "similarity":
        return 1.0
    return float(np.var([feature["labels"] for feature in features])) or 1.0


def loss(
    task: Task, logits: torch.Tensor, labels: torch.Tensor, reduction: Literal["mean", "sum"] = "mean"
) -> torch.Tensor:
    """Over the targets."""
    logits = logits.float()
    if task.kind == "similarity":
        return functional.mse_loss(logits[:, 0], labels, reduction=reduction)
    if task.kind == "ranking":
        found = listwise(logits[:, 0], labels)
        return found.mean() if reduction == "mean" else found.sum()
    flat = logits.flatten(0, -2), labels.flatten()
    return functional.cross_entropy(*flat, ignore_index=IGNORED, reduction=reduction)


def listwise(scores: torch.Tensor, grades: torch.Tensor) -> torch.Tensor:
    """Softmax over the texts of each query, against grade ÷ sum of grades: cross-entropy (ListNet, Cao et al. 2007).

    scores (texts of all queries,); grades (queries, most texts), NaN where there is no text -> (queries,).
    """
    there = ~grades.isnan()
    table = torch.full_like(grades, -torch.inf).masked_scatter(there, scores)
    target = grades.masked_fill(~there, 0)
    target = target / target.sum(1, keepdim=True)
    return -(target * table.log_softmax(1).masked_fill(~there, 0)).sum(1)


def decode(task: Task, logits: torch.Tensor, features: Sequence[Feature], classes: Sequence[str]) -> list[Any]:
    """What a batch predicts: classes by number, scores in the task's range, a tag for every token (O where it was cut
    off, or has no piece), or the scores of each query's texts."""
    logits = logits.float().cpu()
    if task.kind == "similarity":
        low, high = task.range or (0, 1)
        return (logits[:, 0].double() * (high - low) + low).tolist()
    if task.kind == "ranking":
        return [part.tolist() for part in logits[:, 0].split([len(feature["labels"]) for feature in features])]
    best = logits.argmax(-1).tolist()
    if task.kind == "tokens":
        return [
            ["O" if place is None else classes[row[place]] for place in feature["first"]]
            for row, feature in zip(best, features, strict=True)
        ]
    return best
