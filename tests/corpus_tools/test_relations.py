import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from corpus_tools.config import CorpusConfig, settings_of
from corpus_tools.document import held_out
from corpus_tools.labels import LABELLED, labels_from, predicts
from corpus_tools.relations import SUMMARY, Pair, Relations, joined, label
from pretrain.tasks.discourse_relation import SPEC
from pretrain.tasks.spec import Pool, Settings

DATA = Path(os.environ.get("CUMUL_DATA", Path(__file__).parents[3] / "shared" / "data"))
RELS = "doc\tunit1_toks\tunit2_toks\tunit1_txt\tunit2_txt\ts1_toks\ts2_toks\tunit1_sent\tunit2_sent\tdir\torig_label"
RELS += "\tlabel"


def rels(doc: str, first: str, second: str, label: str, direction: str = "1<2") -> str:
    sentence = f"{first} {second}"
    return "\t".join([doc, "1-3", "4-9", first, second, "1-9", "1-9", sentence, sentence, direction, "fine", label])


def write(path: Path, *rows: str) -> str:
    path.write_text("\n".join(rows) + "\n", "utf-8")
    return str(path)


def read(file: str, share: float = 0.2) -> Relations:
    return Relations([file], 1_000, share)


def discovery(path: Path, count: int = 60) -> str:
    """Pairs of three markers, as the files of Discovery hold them."""
    labels = ["as_a_result,", "[no-conn]", "but"]
    rows = [
        f"The  river {n}  rose  .\tThe  bridge  fell  ,  it  is n't  there  .\t{labels[n % 3]}" for n in range(count)
    ]
    return write(path, "sentence1\tsentence2\tlabel", *rows)


def test_the_format_of_discovery(tmp_path):
    found = read(discovery(tmp_path / "pairs.tsv"))
    assert found.labels == ("[no-conn]", "as_a_result,", "but")
    pair = next(pair for pair in found.items() if "river 1 " in pair.first)
    assert pair == Pair("The river 1 rose.", "The bridge fell, it isn't there.", "[no-conn]", "")
    assert found.counts() == {"in": 60, "used": 60, "refused": {}, "classes": 3, "few": {}}


def test_relation_files_of_disrpt(tmp_path):
    rows = [
        rels("a", "我们 看到 了 <*> 不同 传播 行动 。", "-LSB- 1 -RSB- 研究 背景", "organization", "1>2"),
        rels("b", "The data <*> is large , ( and new ) .", "so it is n't clean", "cause"),
    ]
    found = read(write(tmp_path / "zho.rels", RELS, *rows), share=1e-9)
    assert sorted(found.items()) == [
        Pair("The data is large, (and new).", "so it isn't clean", "cause", "b"),
        Pair("我们看到了不同传播行动。", "[1] 研究背景", "organization", "a"),
    ]


def test_csv_and_jsonl_with_other_names(tmp_path):
    first = write(tmp_path / "a.csv", "label,sentence2,sentence1", '"but","Then, ""no"".",Yes.', 'so,"b c",a')
    records = [{"text_a": "Yes.", "text_b": 'Then, "no".', "label": "but", "dir": "1>2", "doc": None}]
    records.append({"text_a": "a", "text_b": "b c", "label": "so"})
    second = write(tmp_path / "b.jsonl", *map(json.dumps, records))
    assert list(read(first, 1e-9).items()) == list(read(second, 1e-9).items())
    assert {pair.label: pair.second for pair in read(first, 1e-9).items()} == {"but": 'Then, "no".', "so": "b c"}


def test_the_label_of_an_instance_is_its_place_in_the_frozen_list(tmp_path):
    found = read(discovery(tmp_path / "pairs.tsv"))
    settings = Settings(relations=found.labels)
    assert SPEC.labels(settings) == list(found.labels) == sorted(found.labels)
    items = list(found.items())
    made = list(label(items, Pool((), settings, 0)))
    assert [found.labels[kind] for _, kind in made] == [pair.label for pair in items]
    assert [texts for texts, _ in made] == [(pair.first, pair.second) for pair in items]


def test_a_finished_corpus_tells_its_classes():
    tasks = {SPEC.name: {"labels": ["but", "so"], "labels_from": "relations"}}
    made = {"tasks": tasks, "config": CorpusConfig(relations=["pairs.tsv"], max_length=99).model_dump(mode="json")}
    assert settings_of(made) == Settings(max_length=99, relations=("but", "so"))
    assert SPEC.labels(settings_of(made)) == ["but", "so"] and predicts(SPEC, made) == SUMMARY
    mined = {"tasks": {SPEC.name: {"labels": ["no marker", "but"]}}, "config": CorpusConfig().model_dump(mode="json")}
    assert settings_of(mined) == CorpusConfig().settings() and predicts(SPEC, mined) == SPEC.summary


def test_items_are_read_and_come_back_from_json(tmp_path):
    config = CorpusConfig(relations=[discovery(tmp_path / "pairs.tsv")], validation_share=0.2)
    kind = LABELLED["relations"]
    items = list(kind.read(config).items())
    assert kind.items(json.loads(json.dumps(items))) == items
    assert labels_from(SPEC.name, config) == "relations" and labels_from(SPEC.name, CorpusConfig()) == "markers"
    assert sum(pair.size for pair in items) == kind.read(config).size()


def test_what_is_joined_reads_as_one_writes():
    assert joined("he did n't say ( or so ) : it 's 5 % of $ 9 , is n't it ?") == (
        "he didn't say (or so): it's 5% of $9, isn't it?"
    )
    assert joined("老龄化 对 言语 的 影响 ， 见 BERT 模型 。") == "老龄化对言语的影响，见 BERT 模型。"
    assert joined("Costs .5 of a .net app, e.g. this.") == "Costs .5 of a .net app, e.g. this."


def test_all_pairs_of_a_document_are_held_out_together(tmp_path):
    rows = [rels(f"doc {n % 9}", f"first {n}", f"second {n}", "ab"[n % 2]) for n in range(90)]
    found = read(write(tmp_path / "x.rels", RELS, *rows))
    assert {pair.id for pair in found.items()} == {f"doc {n}" for n in range(9)}
    alone = read(discovery(tmp_path / "pairs.tsv"))
    assert len({pair.id for pair in alone.items()}) == 60


def test_a_class_that_is_in_validation_alone_is_dropped_with_its_pairs(tmp_path):
    docs = [f"doc {n}" for n in range(40)]
    outside = [doc for doc in docs if held_out(doc, 0.3)]
    assert 2 <= len(outside) <= 30
    rows = [rels(doc, f"first {doc}", "second", "ab"[n % 2]) for n, doc in enumerate(docs)]
    rows += [rels(doc, f"other {doc}", "second", "rare") for doc in outside[:2]]
    found = read(write(tmp_path / "x.rels", RELS, *rows), 0.3)
    assert found.labels == ("a", "b") and "rare" not in {pair.label for pair in found.items()}
    assert found.counts()["refused"] == {"its class is in validation alone": 2}
    assert found.counts()["in"] == found.counts()["used"] + 2 == 42
    assert read(str(tmp_path / "x.rels"), 1e-9).labels == ("a", "b", "rare")


def test_a_class_of_few_pairs_stays_and_is_named(tmp_path):
    rows = [rels(f"d{n}", f"first {n}", "second", "common") for n in range(20)] + [rels("d1", "x", "y", "rare")]
    found = read(write(tmp_path / "x.rels", RELS, *rows), 1e-9)
    assert found.counts()["few"] == {"rare": 1} and "rare" in found.labels


def test_the_order_of_rows_changes_nothing_and_duplicates_count_once(tmp_path):
    rows = [rels(f"d{n % 5}", f"first {n % 40}", "second", "abc"[n % 3]) for n in range(300)]
    one = read(write(tmp_path / "one.rels", RELS, *rows))
    random.Random(0).shuffle(rows)
    two = read(write(tmp_path / "two.rels", RELS, *rows))
    assert list(one.items()) == list(two.items()) and one.counts() == two.counts()
    assert one.counts()["used"] == 120 and one.counts()["refused"] == {"duplicate pair": 180}


def test_rows_that_cannot_be_used_are_counted_with_file_and_line(tmp_path):
    bad = {
        "a\tb": "more or fewer fields than the header",
        "…\tb\tc": "no word in sentence1",
        "a\t_ _\tc": "no word in sentence2",
        "a\tb\t ": "no label",
        "a\tb\0\tc": "NUL byte",
    }
    file = write(tmp_path / "x.tsv", "sentence1\tsentence2\tlabel", *bad, "a\tb\tc", "a\tb\td")
    found = read(file, 1e-9)
    assert [(refusal.where, refusal.reason) for refusal in found.refused] == [
        (f"{file}:{line}", reason) for line, reason in enumerate(bad.values(), 2)
    ]
    assert sorted(pair.label for pair in found.items()) == ["c", "d"]
    assert found.counts()["in"] == 7


@pytest.mark.parametrize(
    ("name", "header", "says"),
    [
        ("x.tsv", "sentence1\tsentence2\tmarker", r"x\.tsv:1 has no column 'label'"),
        (
            "x.rels",
            "doc\tunit1_txt\tlabel",
            r"no column 'sentence2'.* sentence2 or text_b or unit2_txt, label; this one",
        ),
        ("x.txt", "", r"corpus\.relations: .*x\.txt is not a file of marked pairs"),
    ],
)
def test_a_file_without_pairs_is_one_line(tmp_path, name, header, says):
    with pytest.raises(ValueError, match=says) as error:
        read(write(tmp_path / name, header, "a\tb\tc"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["disrpt_eng_dep_scidtb", "disrpt_zho_rst_gcdt"])
def test_a_treebank(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"no {name} in {DATA}: set CUMUL_DATA")
    found = Relations([str(DATA / name / "*.jsonl.zst")], 100_000, 0.1)
    counts = found.counts()
    assert counts["in"] == counts["used"] + sum(counts["refused"].values()) and counts["used"] > 0.99 * counts["in"]
    assert 20 < counts["classes"] < 40
    splits = Counter(held_out(pair.id, 0.1) for pair in found.items())
    assert 0.04 < splits[True] / counts["used"] < 0.2
    assert not any("<*>" in pair.first or "  " in pair.first for pair in found.items())
