import pytest
from rich.console import Console

from corpus_tools.shards import read_manifest
from corpus_tools.stats import stats


def printed(corpus) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(stats(corpus))
    return capture.get()


def test_every_task_has_a_row_with_its_counts(english_corpus):
    text = printed(english_corpus)
    lines = [line.split() for line in text.splitlines()]
    for task, row in read_manifest(english_corpus)["tasks"].items():
        assert [task, f"{row['train']:,}", f"{row['validation']:,}"] in [line[:3] for line in lines]
    assert "sentence_distance adjacent (33%), same document (33%)," in " ".join(text.split())
    assert "30 in = 30 used + 0 refused" in text


def test_refusals_are_listed_by_reason(tmp_path, english_corpus):
    text = (english_corpus / "manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(
        text.replace('"refused": {}', '"refused": {"invalid UTF-8": 2, "no text": 7}')
    )
    for split in ("train", "validation"):
        (tmp_path / split).symlink_to(english_corpus / split)
    lines = [line.split() for line in printed(tmp_path).splitlines()]
    assert lines.index(["no", "text", "7"]) + 1 == lines.index(["invalid", "UTF-8", "2"])


def test_a_corpus_that_is_not_built(tmp_path):
    with pytest.raises(ValueError, match="no finished corpus"):
        stats(tmp_path)
