"""Tiny encoders with random weights, and easy tasks that they can learn."""

import json
import random
from pathlib import Path

import torch
from transformers import BertConfig, BertForMaskedLM, BertModel, BertTokenizer, ErnieConfig, ErnieModel

GOOD, BAD = ["good", "fine", "nice"], ["bad", "poor", "sad"]
OTHER = ["the", "film", "was", "a", "plot", "it", "one", "two"]
WORDS = [*GOOD, *BAD, *OTHER]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]


def checkpoint(folder: Path, kind: str = "bert", **settings) -> str:
    """Writes an encoder of 2 layers × 32: `bert`, `ernie`, or `masked_lm`."""
    torch.manual_seed(0)
    shape = {
        "vocab_size": len(VOCAB), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 64, "max_position_embeddings": 64, "initializer_range": 0.1, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    } | settings  # fmt: skip
    models = {"bert": BertModel, "ernie": ErnieModel, "masked_lm": BertForMaskedLM}
    config = ErnieConfig(**shape, use_task_id=True) if kind == "ernie" else BertConfig(**shape)
    models[kind](config).save_pretrained(folder)
    BertTokenizer(vocab={token: index for index, token in enumerate(VOCAB)}).save_pretrained(folder)
    return str(folder)


def jsonl(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def sentence(rng: random.Random, *words: str) -> str:
    chosen = [*rng.choices(OTHER, k=rng.randint(1, 5)), *words]
    rng.shuffle(chosen)
    return " ".join(chosen)


def row(kind: str, rng: random.Random) -> list[dict]:
    """Rows of one example of a task that the presence of a word decides."""
    good = rng.random() < 0.5
    word = rng.choice(GOOD if good else BAD)
    if kind == "single":
        return [{"a": sentence(rng, word), "label": int(good)}]
    if kind == "pair":
        return [{"a": sentence(rng), "b": sentence(rng, word), "label": "yes" if good else "no"}]
    if kind == "similarity":
        count = rng.randint(0, 5)
        words = [*["good"] * count, *["bad"] * (5 - count)]
        return [{"a": sentence(rng), "b": sentence(rng, *words), "label": count}]
    if kind == "tokens":
        tokens = rng.choices(WORDS, k=rng.randint(3, 8))
        tags = ["B-POS" if token in GOOD else "B-NEG" if token in BAD else "O" for token in tokens]
        return [{"a": tokens, "label": tags}]
    query = f"{sentence(rng)} {rng.choice(OTHER)} {rng.choice(OTHER)}"
    texts = [(sentence(rng, rng.choice(BAD)), 0) for _ in range(3)] + [(sentence(rng, rng.choice(GOOD)), 2)]
    return [{"a": query, "b": text, "label": grade} for text, grade in texts]


def task(kind: str, data: Path, train: int = 160, test: int = 60, **settings) -> dict:
    """Writes the rows of an easy task and returns its declaration."""
    rng = random.Random(7)
    for split, count in {"train": train, "dev": test, "test": test}.items():
        jsonl(data / kind / f"{split}.jsonl", [line for _ in range(count) for line in row(kind, rng)])
    tree = {
        "kind": kind,
        "text": ["a"] if kind in ("single", "tokens") else ["a", "b"],
        "files": {split: f"{kind}/{split}.jsonl" for split in ("train", "dev", "test")},
        "epochs": 5, "lr": 3e-3, "batch_size": 16, "max_length": 32,
    }  # fmt: skip
    if kind == "similarity":
        tree["range"] = [0, 5]
    return tree | settings
