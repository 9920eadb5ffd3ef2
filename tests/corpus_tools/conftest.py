"""Corpora that several tests read."""

from pathlib import Path

import pytest
from written import SMALL, chinese, english, write_jsonl

from corpus_tools.build import build_corpus
from corpus_tools.config import CorpusConfig
from pretrain.tasks import TASKS


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Configurations name folders relative to the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def english_corpus(tmp_path_factory) -> Path:
    """A finished corpus of 30 English documents with all seven tasks; not to be changed."""
    folder = tmp_path_factory.mktemp("english")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        sources = [write_jsonl(folder / "docs.jsonl", [english(f"doc {n}") for n in range(30)])]
        build_corpus(CorpusConfig(name="en", sources=sources, **SMALL), list(TASKS), workers=1)
    return folder / "corpora" / "en"


@pytest.fixture(scope="session")
def chinese_corpus(tmp_path_factory) -> Path:
    """The same in Chinese, without capitalization."""
    folder = tmp_path_factory.mktemp("chinese")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        sources = [write_jsonl(folder / "docs.jsonl", [chinese(f"doc {n}") for n in range(30)])]
        tasks = [name for name, spec in TASKS.items() if "zh" in spec.languages]
        build_corpus(CorpusConfig(name="zh", sources=sources, language="zh", **SMALL), tasks, workers=1)
    return folder / "corpora" / "zh"
