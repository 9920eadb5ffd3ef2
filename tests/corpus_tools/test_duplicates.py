from collections import Counter

import numpy as np
import pytest
from written import SMALL, chinese, english, write_jsonl

from corpus_tools import build
from corpus_tools.build import build_corpus, repeated_ids
from corpus_tools.chunks import write_ids
from corpus_tools.config import CorpusConfig
from corpus_tools.steps import ids_of

FEW = ["knowledge_masking"]
KINDS = {"en": english, "zh": chinese}


def refused(corpus: CorpusConfig, workers: int = 1) -> Counter:
    return Counter(build_corpus(corpus, FEW, workers)["documents"]["refused"])


@pytest.mark.parametrize("shard_mb", [4, 0.02])
def test_one_copy_of_a_text_stays(folder, shard_mb):
    """Under other ids, and so on both sides of the split and in other shards."""
    records = [english(f"doc {n}") for n in range(40)]
    copies = [{**record, "id": f"copy of {record['id']}"} for record in records[:15]]
    sources = [write_jsonl(folder / "docs.jsonl", records + copies)]
    settings = {**SMALL, "sources": sources, "shard_mb": shard_mb}
    assert refused(CorpusConfig(name="all", **settings)) == {}
    assert refused(CorpusConfig(name="exact", deduplicate="exact", **settings)) == {"duplicate text": 15}
    assert refused(CorpusConfig(name="near", deduplicate="minhash", **settings)) == {"nearly duplicate text": 15}


@pytest.mark.parametrize("language", KINDS)
def test_near_copies_are_found_and_others_kept(folder, language):
    records = [KINDS[language](f"doc {n}", paragraphs=12) for n in range(40)]
    others = {"en": " Another sentence.", "zh": "另一句话。"}
    copies = [{**record, "id": f"x{n}", "text": record["text"] + others[language]} for n, record in enumerate(records)]
    sources = [write_jsonl(folder / "docs.jsonl", records + copies[:20])]
    settings = {**SMALL, "sources": sources, "language": language}
    assert refused(CorpusConfig(name="exact", deduplicate="exact", **settings)) == {}
    near = refused(CorpusConfig(name="near", deduplicate="minhash", **settings))
    if language == "en":
        assert near == {"nearly duplicate text": 20}
    else:  # these documents are made of few phrases and are like each other
        assert near["nearly duplicate text"] >= 20


@pytest.mark.parametrize("at_once", [1 << 24, 7])
def test_the_first_of_documents_with_one_id_stays(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(build, "COMPARED_AT_ONCE", at_once)
    ids = np.random.default_rng(0).integers(0, 60, 100).tolist()
    paths = [tmp_path / f"{n}.jsonl.zst" for n in range(4)]
    for path, some in zip(paths, np.array_split(ids, [10, 10, 70]), strict=True):
        write_ids(ids_of(path), some.tolist())
    found = repeated_ids(paths)
    begins = [0, 10, 10, 70]
    places = {begins[rank] + place for rank, places in found.items() for place in places}
    assert places == {n for n in range(100) if ids[n] in ids[:n]}
