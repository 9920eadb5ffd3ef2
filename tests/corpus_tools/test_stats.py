import json

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner

from corpus_tools.shards import SPLITS, Instances, read_manifest
from corpus_tools.stats import collect, compact, stats
from launch.cli import app
from pretrain.tasks.spec import (
    CAPITALISED,
    CASED,
    ENTITY,
    LEVEL,
    PHRASE,
    RECURRENCE_KNOWN,
    RECURS,
    UNIT_START,
    WORD_START,
)


def printed(corpus, width: int = 200) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(stats(corpus))
    return capture.get()


def test_every_task_has_a_row_with_its_counts(english_corpus):
    text = printed(english_corpus)
    lines = [line.split() for line in text.splitlines()]
    for task, row in read_manifest(english_corpus)["tasks"].items():
        assert [task, f"{row['train']:,}", f"{row['validation']:,}"] in [line[:3] for line in lines]
    for name in ("adjacent", "same document", "different documents"):
        (line,) = (line for line in text.splitlines() if line.strip().startswith(f"{name} "))
        assert line.split()[-2:] == ["33.3%", "33.3%"] and "██████████" in line
    assert "30 in = 30 used + 0 refused" in text


@pytest.mark.parametrize("corpus", ["english_corpus", "chinese_corpus"])
def test_80_columns_hold_it_and_nothing_is_cut_off(request, corpus):
    text = printed(request.getfixturevalue(corpus), width=80)
    assert max(map(cell_len, text.splitlines())) <= 80
    assert "…" not in text


def flags_of(corpus, split: str = "train") -> tuple[np.ndarray, np.ndarray]:
    """The ids and annotations of all documents, one instance after another."""
    tokens = [segments[0] for segments, _ in Instances(corpus, split, "knowledge_masking")]
    return np.concatenate([t.ids for t in tokens]), np.concatenate([t.annotations for t in tokens])


def test_the_text_is_counted_as_its_instances_have_it(english_corpus):
    found = collect(english_corpus)
    _, flags = flags_of(english_corpus)
    words = flags[(flags & WORD_START) > 0]
    cased = words[(words & CASED) > 0]
    known = words[(words & RECURRENCE_KNOWN) > 0]
    text = found["text"]
    assert (text["words"], text["words_with_case"]) == (len(words), len(cased))
    assert text["capitalised"] == pytest.approx(np.mean((cased & CAPITALISED) > 0), abs=1e-6)
    assert text["recurring"] == pytest.approx(np.mean((known & RECURS) > 0), abs=1e-6)
    for name, level in (("phrase", PHRASE), ("entity", ENTITY)):
        here = flags[(flags & LEVEL) == level]
        units = np.count_nonzero(here & UNIT_START)
        assert text["units"][name]["units"] == units
        assert text["units"][name]["share_of_tokens"] == pytest.approx(len(here) / len(flags), abs=1e-6)
        if units:
            assert text["units"][name]["mean_tokens"] == pytest.approx(len(here) / units, abs=1e-6)
    shares = [unit["share_of_tokens"] for unit in text["units"].values()] + [text["never_masked"]]
    assert sum(shares) == pytest.approx(1, abs=1e-5)


def test_the_majority_of_train_is_measured_on_validation(english_corpus):
    found = collect(english_corpus)["tasks"]
    for task, row in read_manifest(english_corpus)["tasks"].items():
        if row["labels"] is None:
            continue
        train, validation = (np.array(row["label_counts"][split]) for split in SPLITS)
        best = train.argmax()
        assert found[task]["majority"]["label"] == row["labels"][best]
        assert found[task]["majority"]["accuracy"]["validation"] == pytest.approx(
            validation[best] / validation.sum(), abs=1e-6
        )
    maskable = {}
    for split in SPLITS:
        ids, flags = flags_of(english_corpus, split)
        maskable[split] = np.bincount(ids[(flags & LEVEL) > 0], minlength=500)
    share = maskable["validation"][maskable["train"].argmax()] / maskable["validation"].sum()
    assert found["knowledge_masking"]["majority"]["accuracy"]["validation"] == pytest.approx(share, abs=1e-6)


def test_markers_are_ranked(english_corpus):
    row = read_manifest(english_corpus)["tasks"]["discourse_relation"]
    counts = dict(zip(row["labels"], row["label_counts"]["train"], strict=True))
    found = collect(english_corpus)["discourse"]
    assert found["without"] == pytest.approx(counts.pop("no marker") / sum(row["label_counts"]["train"]), abs=1e-6)
    assert found["markers"] == {marker: count for marker, count in counts.items() if count}
    assert list(found["markers"].values()) == sorted(found["markers"].values(), reverse=True)


def refusing(corpus, folder) -> None:
    """The corpus again, as if some documents had been refused."""
    text = (corpus / "manifest.json").read_text()
    (folder / "manifest.json").write_text(
        text.replace('"refused": {}', '"refused": {"invalid UTF-8": 2, "no text": 7}')
    )
    for split in SPLITS:
        (folder / split).symlink_to(corpus / split)


def test_refusals_are_listed_by_reason_with_their_shares(tmp_path, english_corpus):
    refusing(english_corpus, tmp_path)
    lines = [line.split() for line in printed(tmp_path).splitlines()]
    assert lines.index(["no", "text", "7", "23.3%"]) + 1 == lines.index(["invalid", "UTF-8", "2", "6.7%"])
    assert collect(tmp_path)["refused_share"] == {"documents": {"invalid UTF-8": 0.066667, "no text": 0.233333}}


def test_json_is_one_object_with_the_same(english_corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(english_corpus.parent.parent)
    config = tmp_path / "en.yaml"
    config.write_text("{name: en, corpus: {name: en}}")
    done = CliRunner().invoke(app, ["corpus", "stats", str(config), "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout) == json.loads(json.dumps(collect(english_corpus)))


def test_large_numbers_are_short():
    numbers = {7: "7", 999: "999", 1_000: "1.0 k", 528_000: "528 k", 999_999: "1.0 M", 2_511_321: "2.5 M"}
    assert [compact(number) for number in numbers] == list(numbers.values())


def test_a_corpus_that_is_not_built(tmp_path):
    with pytest.raises(ValueError, match="no finished corpus"):
        stats(tmp_path)
