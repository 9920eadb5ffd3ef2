"""Labels that a user brings, from the files to the shards."""

import json

import pytest
from written import SMALL, english, write_jsonl

from corpus_tools.build import build_corpus, ensure_corpus
from corpus_tools.config import CorpusConfig, settings_of
from corpus_tools.document import held_out
from corpus_tools.shards import SPLITS, Instances, read_manifest
from corpus_tools.tokenizer import load_tokenizer
from pretrain.tasks import TASKS

TASK = {"grades": "ir_relevance", "relations": "discourse_relation"}
CLASSES = {"grades": ["strong", "weak", "random"], "relations": ["because", "however,", "so"]}


def rows(kind: str) -> list[dict]:
    """The text of every row tells its class."""
    if kind == "grades":
        return [
            {"query": f"the question number{n % 20}", "title": f"title{n} of grade{n % 3}", "grade": n % 3}
            for n in range(120)
        ]
    return [
        {"sentence1": f"they walked to place{n}", "sentence2": f"it was {label.strip(',')} there", "label": label}
        for n in range(40)
        for label in CLASSES["relations"]
    ]


@pytest.fixture(params=TASK)
def kind(request) -> str:
    return request.param


def configured(folder, kind: str, **settings) -> CorpusConfig:
    sources = [write_jsonl(folder / "docs.jsonl", [english(f"doc {n}") for n in range(30)])]
    labelled = write_jsonl(folder / "rows.jsonl", [*rows(kind), {"label": "no text"}])
    return CorpusConfig(**{**SMALL, "vocab_size": 800, "sources": sources, kind: [labelled], **settings})


def test_the_labels_of_the_rows_are_those_of_the_instances(folder, kind):
    config = configured(folder, kind)
    manifest = build_corpus(config, ["knowledge_masking", TASK[kind]], 1)
    row = manifest["tasks"][TASK[kind]]
    assert row["labels_from"] == kind and row["labels"] == CLASSES[kind]
    counted = manifest[kind]
    assert counted["in"] == 121 and counted["used"] == 120 and sum(counted["refused"].values()) == 1
    tokenizer = load_tokenizer(f"{config.folder() / 'tokenizer.json'}")
    found = 0
    for split in SPLITS:
        instances = Instances(config.folder(), split, TASK[kind])
        assert len(instances) == row[split] > 0
        for segments, label in instances:
            first, second = (tokenizer.decode(segment.ids.tolist()) for segment in segments)
            text = f"{first} {second}".replace(" ", "")
            if kind == "grades":
                assert f"grade{2 - label}" in text
            else:
                assert CLASSES[kind][label].strip(",") in second.split()
                assert held_out(f"{first}\n{second}", config.validation_share) == (split == "validation")
            found += 1
    assert found == 120
    refused = [json.loads(line) for line in (config.folder() / "refused.jsonl").read_text().splitlines()]
    assert any("rows.jsonl:121" in refusal["where"] for refusal in refused)


def test_what_training_needs_to_know_is_in_the_manifest(folder, kind):
    config = configured(folder, kind)
    corpus = ensure_corpus(config, [TASK[kind]], 1)
    labels = TASKS[TASK[kind]].labels
    assert labels is not None
    assert list(labels(settings_of(read_manifest(corpus)))) == CLASSES[kind]


def test_rows_that_changed_are_read_again(folder, kind):
    config = configured(folder, kind, min_tokens=10_000)
    with pytest.raises(ValueError, match="0 train"):
        build_corpus(config, [TASK[kind]], 1)
    assert (config.folder() / "building" / "readings.json").exists()
    write_jsonl(folder / "rows.jsonl", rows(kind)[:90])
    with pytest.raises(ValueError, match="0 train"):
        build_corpus(config, [TASK[kind]], 1)
    readings = json.loads((config.folder() / "building" / "readings.json").read_text())
    assert readings[1][kind]["in"] == 90
