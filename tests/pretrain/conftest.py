"""A corpus written by hand, small enough to train on in seconds: real shards, no reader, no tokenizer training."""

import json
from itertools import pairwise

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from corpus_tools.config import CorpusConfig
from corpus_tools.shards import write_manifest, write_shard
from corpus_tools.tokenizer import fingerprint
from pretrain.config import Config
from pretrain.tasks import TASKS
from pretrain.tasks.spec import (
    BASIC,
    CAPITALISED,
    CASED,
    RECURRENCE_KNOWN,
    RECURS,
    UNIT_START,
    WORD_START,
    Instance,
    Run,
    Tokens,
)

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [f"w{n}" for n in range(95)]
TASK_NAMES = ["knowledge_masking", "capitalization", "sentence_reordering", "sentence_distance"]


def word_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece({word: n for n, word in enumerate(SPECIALS + WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(SPECIALS)
    return tokenizer


def write_corpus(config: CorpusConfig, documents: int = 40) -> None:
    """Documents of ten sentences; a word's number says how late in the document it stands, so tasks can be learnt."""
    folder, settings = config.folder(), config.settings()
    folder.mkdir(parents=True)
    tokenizer = word_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    flags = BASIC | UNIT_START | WORD_START | CASED | RECURRENCE_KNOWN
    manifest: dict = {
        "config": config.model_dump(mode="json"),
        "shards": {},
        "tasks": {},
        "documents": {"used": documents},
        "tokens": {"train": documents * 60},
    }
    for split, number in (("train", 0), ("validation", 1)):
        rng = np.random.default_rng(number)
        sentences = [
            [rng.integers(5 + 9 * place, 5 + 9 * place + 9, rng.integers(3, 9)) for place in range(10)]
            for _ in range(documents)
        ]
        ids = np.concatenate([sentence for document in sentences for sentence in document])
        annotations = np.full(len(ids), flags, np.uint8)
        annotations[ids % 3 == 0] |= CAPITALISED
        annotations[ids % 2 == 0] |= RECURS
        ends = np.cumsum([0] + [len(sentence) for document in sentences for sentence in document]).tolist()
        runs = [[Run(*ends[10 * d + s : 10 * d + s + 2]) for s in range(10)] for d in range(documents)]
        whole = [Instance((Run(document[0].start, document[4].stop),)) for document in runs]
        instances = {
            "knowledge_masking": whole,
            "capitalization": whole,
            "sentence_reordering": [Instance(tuple(document[:6])) for document in runs],
            "sentence_distance": [
                pair
                for a, b in pairwise(runs)
                for pair in (
                    Instance((a[0], a[1]), 0),
                    Instance((a[0], a[7]), 1),
                    Instance((a[0], b[1]), 2),
                )
            ],
        }
        write_shard(folder / split / "00000.safetensors", Tokens(ids, annotations), instances, {})
        counts = {task: len(made) for task, made in instances.items()}
        manifest["shards"][split] = [{"file": "00000.safetensors", "sha256": f"{folder}", "instances": counts}]
        for task, made in instances.items():
            labels = TASKS[task].labels
            entry = manifest["tasks"].setdefault(task, {"labels": list(labels(settings)) if labels else None})
            entry[split] = len(made)
    manifest["tokenizer"] = {
        "fingerprint": fingerprint(tokenizer), "vocab_size": tokenizer.get_vocab_size(), "uncased": True,
    }  # fmt: skip
    manifest["fingerprint"] = "made by hand"
    write_manifest(folder, manifest)


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Config:
    """A configuration whose corpus is built, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return make_tiny()


def make_tiny() -> Config:
    """Two layers, four tasks, two stages; the corpus is written below the working folder."""
    config = Config.model_validate({
        "name": "tiny",
        "tasks": TASK_NAMES,
        "corpus": {"name": "tiny", "max_length": 64},
        "model": {"layers": 2, "hidden": 32, "heads": 2, "dropout": 0.0, "attention_dropout": 0.0},
        "schedule": {"steps_per_task": 6},
        "train": {"batch_size": 8, "micro_batch_size": 8, "lr": 1e-3, "warmup_steps": 4, "checkpoint_every": 5},
        "log": {"every": 1},
    })  # fmt: skip
    write_corpus(config.corpus)
    return config


def records(config: Config, kind: str) -> list[dict]:
    lines = (config.folder() / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]
