import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from written import SMALL, english, write_jsonl

from corpus_tools.build import build_corpus, ensure_corpus
from corpus_tools.config import CorpusConfig
from corpus_tools.document import Document, Section
from corpus_tools.shards import SPLITS, Instances, map_tensors, read_manifest
from corpus_tools.steps import pools, split_of
from corpus_tools.tokenizer import load_tokenizer, vocabulary
from pretrain.tasks import TASKS
from pretrain.tasks.spec import (
    BASIC,
    CAPITALISED,
    ENTITY,
    LEVEL,
    PHRASE,
    RECURRENCE_KNOWN,
    RECURS,
    WORD_START,
    assemble,
)

FEW = ["knowledge_masking", "sentence_distance"]
MANY_SHARDS = {**SMALL, "shard_mb": 0.02}


def contents(corpus: Path) -> dict[str, bytes]:
    return {str(path.relative_to(corpus)): path.read_bytes() for path in sorted(corpus.rglob("*")) if path.is_file()}


def document_ids(corpus: Path, split: str) -> list[list[int]]:
    """The tokens of every document in a split, as the segments of knowledge masking."""
    return [segments[0].ids.tolist() for segments, _ in Instances(corpus, split, "knowledge_masking")]


def write_english(folder: Path, number: int = 30) -> list[str]:
    return [write_jsonl(folder / "docs.jsonl", [english(f"doc {n}") for n in range(number)])]


@pytest.fixture(params=["english_corpus", "chinese_corpus"])
def corpus(request) -> Path:
    return request.getfixturevalue(request.param)


def test_every_task_is_fed(corpus):
    manifest = read_manifest(corpus)
    assert len(manifest["tasks"]) == (7 if corpus.name == "en" else 6)
    for task, row in manifest["tasks"].items():
        for split in SPLITS:
            assert row[split] == len(Instances(corpus, split, task)) > 0
    assert not (corpus / "building").exists()


def test_no_sequence_is_longer_than_max_length(corpus):
    manifest = read_manifest(corpus)
    settings = CorpusConfig(**manifest["config"]).settings()
    words = vocabulary(load_tokenizer(f"{corpus / 'tokenizer.json'}"))
    longest = 0
    for task in manifest["tasks"]:
        spec = TASKS[task]
        for split in SPLITS:
            for segments, label in Instances(corpus, split, task):
                if spec.draw is not None:
                    segments, label = spec.draw(segments, label, np.random.default_rng(0), settings)
                assert all(len(segment.ids) for segment in segments)
                longest = max(longest, len(assemble(segments, words)[0].ids))
    assert settings.max_length - 8 < longest <= settings.max_length


def test_label_counts_are_those_of_the_instances(corpus):
    for task in ("sentence_distance", "discourse_relation", "ir_relevance"):
        row = read_manifest(corpus)["tasks"][task]
        labels = [label for _, label in Instances(corpus, "train", task)]
        assert np.bincount(labels, minlength=len(row["labels"])).tolist() == row["label_counts"]["train"]


def test_token_label_counts_are_those_of_the_targets(english_corpus):
    settings = CorpusConfig(**read_manifest(english_corpus)["config"]).settings()
    words = vocabulary(load_tokenizer(f"{english_corpus / 'tokenizer.json'}"))
    for task in ("capitalization", "token_document"):
        counts = np.zeros(2, np.int64)
        for segments, _ in Instances(english_corpus, "validation", task):
            sequence, _ = assemble(segments, words)
            counts += np.bincount(
                TASKS[task].target(sequence, np.random.default_rng(0), words, settings).labels, minlength=2
            )
        assert counts.tolist() == read_manifest(english_corpus)["tasks"][task]["label_counts"]["validation"]


def test_recurrence_is_counted_over_the_other_segments_of_the_document(folder):
    long = "Alpha " + " ".join(f"word{n} common" for n in range(25)) + "."
    texts = [f"{long}\nBeta common {' '.join(f'thing{n}' for n in range(25))} once.", "Only one short segment here."]
    records = [{"id": f"{n}", "text": texts[n % 2]} for n in range(40)]
    sources = [write_jsonl(folder / "docs.jsonl", records)]
    config = CorpusConfig(sources=sources, **{**SMALL, "min_tokens": 3})
    build_corpus(config, ["knowledge_masking"], workers=1)
    tokenizer = load_tokenizer(f"{config.folder() / 'tokenizer.json'}")
    known = set()
    for (segment,), _ in Instances(config.folder(), "train", "knowledge_masking"):
        pieces = [tokenizer.id_to_token(number) for number in segment.ids.tolist()]
        starts = {p: f for p, f in zip(pieces, segment.annotations.tolist(), strict=True) if f & WORD_START}
        if "common" in starts:
            known.add(bool(starts["common"] & RECURS))
            assert all(flag & RECURRENCE_KNOWN for piece, flag in starts.items() if piece.isalpha())
        elif "only" in starts:
            known.add("alone")
            assert not any(flag & RECURRENCE_KNOWN for flag in starts.values())
    assert known == {True, "alone"}


def test_capitals_survive_the_uncased_tokenizer(english_corpus):
    tokenizer = load_tokenizer(f"{english_corpus / 'tokenizer.json'}")
    seen = set()
    for (segment,), _ in Instances(english_corpus, "train", "capitalization"):
        for number, flag in zip(segment.ids.tolist(), segment.annotations.tolist(), strict=True):
            seen.add((tokenizer.id_to_token(number), bool(flag & CAPITALISED)))
    assert {("lake", True), ("near", False)} <= seen
    assert ("lake", False) not in seen


def test_units_come_from_the_sources_that_the_configuration_names(folder):
    """Names take `Lake Vendis`, the lexicon `wooden boats`, and mining finds `narrow valleys`."""
    (folder / "terms.txt").write_text("wooden boats\t3\n\nof\n")
    settings = {**SMALL, "sources": write_english(folder, 60), "lexicons": ["terms.txt"]}
    found = {}
    for name, knowledge in (("all", None), ("names", ["names"])):
        config = CorpusConfig(
            name=name, **{**settings, "knowledge": knowledge, "lexicons": settings["lexicons"] if name == "all" else []}
        )
        manifest = build_corpus(config, ["knowledge_masking"], 1)
        tokenizer = load_tokenizer(f"{config.folder() / 'tokenizer.json'}")
        levels: dict[str, set[int]] = {"vendis": set(), "wooden": set(), "narrow": set()}
        for (segment,), _ in Instances(config.folder(), "train", "knowledge_masking"):
            for number, flag in zip(segment.ids.tolist(), segment.annotations.tolist(), strict=True):
                if (piece := tokenizer.id_to_token(number)) in levels:
                    levels[piece].add(flag & LEVEL)
        found[name] = levels
        assert (manifest.get("lexicons") or {}).get("used") == (1 if name == "all" else None)
    assert found["all"] == {"vendis": {ENTITY}, "wooden": {ENTITY}, "narrow": {PHRASE}}
    assert found["names"] == {"vendis": {ENTITY}, "wooden": {BASIC}, "narrow": {BASIC}}
    with pytest.raises(ValueError, match="no source 'name'"):
        build_corpus(CorpusConfig(**{**settings, "knowledge": ["name"]}), ["knowledge_masking"], 1)


def test_workers_and_repetition_change_no_byte(folder):
    sources = write_english(folder, 60)
    made = []
    for name, workers in (("one", 1), ("again", 1), ("two", 2)):
        config = CorpusConfig(name=name, sources=sources, seed=3, **MANY_SHARDS)
        build_corpus(config, list(TASKS), workers)
        found = contents(config.folder())
        manifest = json.loads(found.pop("manifest.json"))
        assert len(manifest["shards"]["train"]) > 3
        del manifest["config"]["name"], manifest["fingerprint"]
        made.append((found, manifest))
    assert made[0] == made[1] == made[2]


def test_another_seed_gives_other_instances(folder):
    sources = write_english(folder)
    first, second = (CorpusConfig(name=f"seed {seed}", seed=seed, sources=sources, **SMALL) for seed in range(2))
    build_corpus(first, FEW, 1)
    build_corpus(second, FEW, 1)
    train = "train/00000.safetensors"
    assert contents(first.folder())[train] != contents(second.folder())[train]


SCRIPT = """
import resource, sys
from corpus_tools.build import build_corpus
from corpus_tools.config import CorpusConfig
name, tasks, limit, settings = eval(sys.argv[1])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
build_corpus(CorpusConfig(name=name, **settings), tasks, 1)
"""


def start(name: str, settings: dict, limit: int = 0) -> subprocess.Popen:
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, repr((name, FEW, limit, settings))],
        env={**os.environ, "PYTHONPATH": str(root)},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_build_goes_on_where_it_stopped(folder):
    settings = {**MANY_SHARDS, "sources": write_english(folder, 60)}
    killed = CorpusConfig(name="killed", **settings)
    first = killed.folder() / "train" / "00000.safetensors"
    process = start("killed", settings)
    while not first.with_name("00001.safetensors").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed.folder() / "manifest.json").exists()
    written = first.stat().st_mtime_ns
    with pytest.raises(ValueError, match="no finished corpus"):
        read_manifest(killed.folder())

    ensure_corpus(killed, FEW, 1)
    whole = CorpusConfig(name="whole", **settings)
    build_corpus(whole, FEW, 1)
    assert first.stat().st_mtime_ns == written
    assert read_manifest(killed.folder())["shards"] == read_manifest(whole.folder())["shards"]
    assert contents(killed.folder()).keys() == contents(whole.folder()).keys()


def test_a_full_disk_is_one_line_and_keeps_what_is_finished(folder):
    settings = {**MANY_SHARDS, "sources": write_english(folder, 60), "knowledge": ["names"]}  # mining writes more
    whole = CorpusConfig(name="whole", **settings)
    build_corpus(whole, FEW, 1)
    files = contents(whole.folder())
    sizes = [len(files[name]) for name in sorted(files) if name.startswith("train/")]
    limit = max(sizes) - 1
    process = start("full", settings, limit)
    _, error = process.communicate()
    full = CorpusConfig(name="full", **settings)
    place = f"{full.folder()}/train/{sizes.index(max(sizes)):05}.safetensors"
    last = error.strip().splitlines()[-1]
    assert last.startswith(f"OSError: cannot write {place}: ") and "make room and run again" in last
    assert not (full.folder() / "manifest.json").exists()
    for name, data in contents(full.folder()).items():
        if name.endswith(".safetensors"):
            assert data == files[name]
    ensure_corpus(full, FEW, 1)
    assert read_manifest(full.folder())["shards"] == read_manifest(whole.folder())["shards"]


def test_shards_of_another_configuration_are_not_taken_for_finished(folder):
    sources = write_english(folder)
    old = CorpusConfig(sources=sources, **MANY_SHARDS)
    build_corpus(old, FEW, 1)
    new = CorpusConfig(sources=sources, **{**SMALL, "max_length": 48})
    build_corpus(new, FEW, 1)
    fresh = CorpusConfig(name="fresh", sources=sources, **{**SMALL, "max_length": 48})
    build_corpus(fresh, FEW, 1)
    assert contents(new.folder()).keys() == contents(fresh.folder()).keys()
    assert read_manifest(new.folder())["shards"] == read_manifest(fresh.folder())["shards"]


def test_a_finished_corpus_is_kept_and_another_configuration_refused(folder):
    sources = write_english(folder)
    config = CorpusConfig(sources=sources, **SMALL)
    corpus = ensure_corpus(config, FEW, 1)
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    assert ensure_corpus(config, FEW[:1], 1) == corpus
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == before
    with pytest.raises(ValueError, match=r"corpus\.max_length=64, now it is 32.*corpus\.name"):
        ensure_corpus(CorpusConfig(sources=sources, **{**SMALL, "max_length": 32}), FEW, 1)
    with pytest.raises(ValueError, match=r"corpus\.seed=0, now it is 1"):
        ensure_corpus(config.model_copy(update={"seed": 1}), FEW, 1)
    with pytest.raises(ValueError, match="built without token_document"):
        ensure_corpus(config, [*FEW, "token_document"], 1)


def test_every_document_is_used_or_refused_with_a_reason(folder, capsys):
    records = [english(f"doc {n}") for n in range(20)]
    records += [records[3], {"id": "short", "title": None, "text": "Word"}, {"id": "no text"}]
    sources = [write_jsonl(folder / "docs.jsonl", records)]
    documents = build_corpus(CorpusConfig(sources=sources, **SMALL), FEW, 1)["documents"]
    assert documents["in"] == 23 and documents["used"] == 20
    assert documents["train"] + documents["validation"] == 20
    assert documents["refused"]["duplicate id"] == 1
    assert documents["refused"]["fewer than 20 tokens"] == 1
    assert sum(documents["refused"].values()) == 3
    lines = (folder / "corpora" / "demo" / "refused.jsonl").read_text().splitlines()
    refused = [json.loads(line) for line in lines]
    assert {"where": "short", "reason": "fewer than 20 tokens"} in refused and len(refused) == 3
    assert "23 in = 20 used + 3 refused (duplicate id: 1" in capsys.readouterr().err


def test_a_shard_may_lose_all_its_documents(folder):
    records = [{"id": f"short {n}", "text": "Too short. " * 5} for n in range(60)] + [
        english(f"{n}") for n in range(30)
    ]
    config = CorpusConfig(sources=[write_jsonl(folder / "docs.jsonl", records)], **{**SMALL, "shard_mb": 0.001})
    manifest = build_corpus(config, list(TASKS)[:4], 1)
    assert manifest["shards"]["train"][0]["documents"] == 0
    assert manifest["documents"]["used"] == 30 and manifest["documents"]["refused"] == {"fewer than 20 tokens": 60}


def test_validation_documents_are_in_no_train_shard(folder):
    records = [{"id": f"{n}", "text": " ".join([f"document{n}"] * 30)} for n in range(40)]
    config = CorpusConfig(sources=[write_jsonl(folder / "docs.jsonl", records)], **SMALL)
    build_corpus(config, ["knowledge_masking"], 1)
    held_out = {tuple(ids) for ids in document_ids(config.folder(), "validation")}
    train = {tuple(ids) for ids in document_ids(config.folder(), "train")}
    assert len(held_out) + len(train) == 40
    documents = [Document(str(n), None, ()) for n in range(40)]
    assert len(held_out) == sum(split_of(document, 0.2) == "validation" for document in documents)


def test_titles_missing(folder):
    records = [{**english(f"doc {n}"), "title": None} for n in range(20)]
    config = CorpusConfig(sources=[write_jsonl(folder / "docs.jsonl", records)], **SMALL)
    with pytest.raises(ValueError, match=r"ir_relevance has no train.*title.*tasks=\[knowledge_masking\]"):
        build_corpus(config, ["knowledge_masking", "ir_relevance"], 1)
    assert not (config.folder() / "manifest.json").exists()


def test_text_without_capitals_cannot_teach_capitalization(folder):
    records = [{"id": f"{n}", "text": english(f"doc {n}")["text"].lower()} for n in range(20)]
    config = CorpusConfig(sources=[write_jsonl(folder / "docs.jsonl", records)], **SMALL)
    with pytest.raises(ValueError, match="capitalization has no train"):
        build_corpus(config, ["capitalization"], 1)


def test_cased_tokenizer_is_refused_where_the_input_would_show_the_label(folder):
    sources = write_english(folder)
    cased = CorpusConfig(name="cased", sources=sources, lowercase=False, **SMALL)
    build_corpus(cased, FEW, 1)
    adopted = CorpusConfig(name="adopted", sources=sources, tokenizer=f"{cased.folder() / 'tokenizer.json'}", **SMALL)
    with pytest.raises(ValueError, match="capitalization needs an uncased tokenizer"):
        build_corpus(adopted, ["capitalization"], 1)
    manifest = build_corpus(adopted, FEW, 1)
    assert manifest["tokenizer"]["fingerprint"] == read_manifest(cased.folder())["tokenizer"]["fingerprint"]
    assert manifest["tokenizer"]["uncased"] is False


def test_language_without_the_task(folder):
    with pytest.raises(ValueError, match="capitalization does not exist in language 'zh'"):
        build_corpus(CorpusConfig(language="zh"), ["capitalization"], 1)


def test_too_few_validation_documents(folder):
    config = CorpusConfig(sources=write_english(folder), **{**SMALL, "validation_share": 0.001})
    with pytest.raises(
        ValueError, match=r"0 validation\. Each needs 2: add documents, or raise corpus\.validation_share"
    ):
        build_corpus(config, FEW, 1)


def test_nothing_to_learn_from(folder):
    (folder / "bad.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ValueError, match="no document to train on"):
        build_corpus(CorpusConfig(sources=["bad.txt"], **SMALL), FEW, 1)


def test_a_small_last_pool_joins_the_one_before():
    def pool_sizes(number: int) -> list[int]:
        documents = (Document(f"{n}", None, (Section(None, ("x" * 100,)),)) for n in range(number))
        config = CorpusConfig(shard_mb=0.001, validation_share=1e-9)
        return [len(pool) for _, _, pool in pools(documents, config)]

    assert pool_sizes(30) == [10, 10, 10]
    assert pool_sizes(32) == [10, 10, 12]
    assert pool_sizes(35) == [10, 10, 10, 5]
    assert pool_sizes(1) == [1]


def test_disk_stays_below_four_bytes_a_token(folder):
    """With a quarter of a shard's text, and so a quarter of its cap of marker texts."""
    records = [english(f"doc {n}", paragraphs=4, marked=0.05) for n in range(400)]
    sources = [write_jsonl(folder / "docs.jsonl", records)]
    config = CorpusConfig(sources=sources, validation_share=0.05, marker_cap=200 // 4)
    manifest = build_corpus(config, list(TASKS), 1)
    shards = [config.folder() / split / shard["file"] for split in SPLITS for shard in manifest["shards"][split]]
    disk = sum(path.stat().st_size for path in shards)
    assert sum(manifest["tokens"].values()) > 100_000
    assert disk / sum(manifest["tokens"].values()) <= 4


def test_shards_hold_the_tokens_the_manifest_counts(corpus):
    manifest = read_manifest(corpus)
    for split in SPLITS:
        for shard in manifest["shards"][split]:
            path = corpus / split / shard["file"]
            tensors = map_tensors(path, shard["sha256"])
            assert len(tensors["ids"]) == len(tensors["annotations"]) >= shard["tokens"]
        assert sum(shard["tokens"] for shard in manifest["shards"][split]) == manifest["tokens"][split]
        assert sum(shard["documents"] for shard in manifest["shards"][split]) == manifest["documents"][split]
