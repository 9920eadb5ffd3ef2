import gzip
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest
import zstandard
from rich.console import Console
from written import NAMES, SMALL, THINGS, TOPICS, VERBS, english, write_jsonl

from corpus_tools.build import build_corpus, ensure_corpus
from corpus_tools.clicks import MOST, SUMMARY, ClickLog, Query, label
from corpus_tools.config import CorpusConfig
from corpus_tools.shards import SPLITS, Instances, read_manifest
from corpus_tools.show import show
from corpus_tools.stats import stats
from corpus_tools.tokenizer import load_tokenizer
from pretrain.config import Config
from pretrain.tasks.spec import Pool, Settings

STRONG, WEAK, RANDOM = range(3)
HEADER = "query\ttitle\tshown\tclicked"
TASKS = ["knowledge_masking", "ir_relevance"]
POOL = Pool((), Settings(), 0)


def written_log(count: int = 150) -> list[str]:
    """Rows of queries about a thing, each with titles that are clicked and others that are not, some rows twice."""
    rng = Random("clicks")
    rows = []
    for number in range(count):
        query = f"{rng.choice(VERBS)} {rng.choice(THINGS)} {number}"
        for place in range(rng.randint(1, 12)):
            title = f"{rng.choice(NAMES)} and the {rng.choice(TOPICS)} of {rng.choice(NAMES)}".lower()
            rows += [f"{query}\t{title}\t{rng.randint(1, 9)}\t{int(rng.random() < 0.4)}"] * rng.randint(1, 2)
            rows += [f"{query}\t{title}\t3\t0"] * (place % 2)
    rng.shuffle(rows)
    return rows


ROWS = written_log()


def write(path: Path, rows: list[str], header: str = HEADER) -> str:
    path.write_text("\n".join([header, *rows]) + "\n", "utf-8")
    return str(path)


def read(path: Path, *rows: str, header: str = HEADER) -> ClickLog:
    return ClickLog([write(path, list(rows), header)], 1_000_000)


def truth(rows: list[str]) -> dict[str, dict[str, int]]:
    """Clicks in all, by query and title."""
    clicks: dict[str, Counter] = {}
    for query, title, _, clicked in (row.split("\t") for row in rows):
        clicks.setdefault(query, Counter())[title] += int(clicked)
    return clicks


@pytest.fixture
def queries(tmp_path) -> list[Query]:
    return list(read(tmp_path / "log.tsv", *ROWS).items())


def test_rows_are_summed_up_before_they_are_labelled(tmp_path):
    rows = ["sea\tTides\t5\t0", "sea\tTides\t1\t1", "sea\tTides\t9\t0", "Sea \tTIDES\t1\t0", "sea\tBoats\t1\t0"]
    log = read(tmp_path / "log.tsv", *rows)
    assert list(log.items()) == [Query("sea", ("Tides",), ("Boats",))]
    assert log.counts() == {"in": 5, "used": 5, "refused": {}, "queries": 1, "clicked": 1, "skipped": 1, "unseen": 0}


def test_every_label_means_what_it_says(queries):
    clicks = truth(ROWS)
    made = list(label(queries, POOL))
    for (query, title), kind in made:
        assert (title in clicks[query]) == (kind != RANDOM)
        assert (clicks[query][title] > 0) == (kind == STRONG)
    assert len(made) > 300


def test_every_query_has_as_many_instances_of_each_class(queries):
    made = list(label(queries, POOL))
    for query in queries:
        kinds = Counter(kind for (text, _), kind in made if text == query.text)
        number = min(len(query.clicked), len(query.skipped))
        assert [kinds[kind] for kind in range(3)] == [number] * 3
    for first in range(3):  # nor does the place tell the class
        kinds = Counter(kind for _, kind in made[first::3])
        assert min(kinds[kind] for kind in range(3)) > len(made) / 15


def test_the_title_alone_does_not_tell_a_random_one(queries):
    """Random titles occur as the others do: none is there only to be random."""
    made = list(label(queries, POOL))
    others = {title for (_, title), kind in made if kind != RANDOM}
    assert {title for (_, title), kind in made if kind == RANDOM} <= others


def test_a_frequent_query_has_a_bounded_number_of_instances():
    titles = [f"title {number}" for number in range(100)]
    queries = [Query("all", tuple(titles[:50]), tuple(titles[50:])), Query("one", ("clicked",), ("skipped",))]
    made = Counter((query, kind) for (query, _), kind in label(queries, POOL))
    assert made == {(text, kind): number for text, number in (("all", MOST), ("one", 1)) for kind in range(3)}


def test_queries_without_a_stranger_and_of_one_kind_have_no_instance():
    assert list(label([Query("a", ("x",), ("y",)), Query("b", ("y",), ("x",))], POOL)) == []
    assert list(label([Query("a", ("x",), ()), Query("b", (), ("y",)), Query("c", ("v",), ())], POOL)) == []


def test_the_order_of_rows_changes_nothing(tmp_path, queries):
    assert list(read(tmp_path / "turned.tsv", *ROWS[::-1]).items()) == queries
    assert list(label(queries, POOL)) == list(label(queries, Pool((), Settings(), 0)))
    assert list(label(queries, POOL)) != list(label(queries, Pool((), Settings(), 1)))


def test_columns_in_any_order_and_quotes_of_csv(tmp_path):
    rows = ['0,"Tides, and ""how"" they turn",x,sea,4', "1,Boats,x,sea,4"]
    log = read(tmp_path / "log.csv", *rows, header="clicked,title,other,query,shown")
    assert list(log.items()) == [Query("sea", ("Boats",), ('Tides, and "how" they turn',))]


def test_quotes_in_tsv_are_text_and_line_ends_may_be_those_of_windows(tmp_path):
    path = tmp_path / "log.tsv"
    path.write_bytes(b'\xef\xbb\xbfquery\ttitle\tshown\tclicked\r\nsea\t"Tides\t4\t1\r\n\r\nsea\tBoats\t4\t0\r\n')
    log = ClickLog([str(path)], 1_000)
    assert list(log.items()) == [Query("sea", ('"Tides',), ("Boats",))]


def test_compressed_parts_of_one_log(tmp_path):
    text = "\n".join([HEADER, "sea\tTides\t4\t1"]).encode()
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(text))
    (tmp_path / "b.tsv.zst").write_bytes(zstandard.compress(text.replace(b"Tides", b"Boats")))
    log = ClickLog([str(tmp_path / "*.tsv.*")], 1_000)
    assert list(log.items()) == [Query("sea", ("Boats", "Tides"), ())]


REFUSED = {
    "sea\tTides\t4": "more or fewer fields than the header",
    "sea\tTides\t4\t1\t": "more or fewer fields than the header",
    " \tTides\t4\t1": "no word in query",
    "sea\t\u200b\t4\t1": "no word in title",
    "sea\tTides\t-1\t1": "shown is not a count",
    "sea\tTides\t\t1": "shown is not a count",
    "sea\tTides\t4\t0.5": "clicked is not a count",
    "sea\tTides\t0\t0": "neither shown nor clicked",
    "sea\tTi\0des\t4\t1": "NUL byte",
    "sea\t" + "Tides " * 200 + "\t4\t1": "too large",
}


def test_rows_that_cannot_be_used_are_counted_with_file_and_line(tmp_path):
    good = ["sea\tTides\t4\t1", "sea\tBoats\t0\t1"]
    path = tmp_path / "log.tsv"
    log = ClickLog([write(path, [*REFUSED, *good])], 1_000)
    assert [(refusal.where, refusal.reason) for refusal in log.refused] == [
        (f"{path}:{line}", reason) for line, reason in enumerate(REFUSED.values(), 2)
    ]
    counts = log.counts()
    assert counts["in"] == counts["used"] + sum(counts["refused"].values()) == 12
    assert counts["refused"] == Counter(REFUSED.values())
    assert list(log.items()) == [Query("sea", ("Boats", "Tides"), ())]


def test_bytes_and_quotes_that_end_nowhere_spoil_only_their_row(tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(b'query,title,shown,clicked\nsea,"Tides,4,1\nsea,\xff,4,1\nsea,Boats,4,1\n')
    log = ClickLog([str(path)], 1_000)
    assert [refusal.reason for refusal in log.refused] == ["not CSV", "invalid UTF-8"]
    assert list(log.items()) == [Query("sea", ("Boats",), ())]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("log.tsv", b"query\ttitle\tviews\tclicked\n", r"log\.tsv:1 has no column 'shown'.*: query, title, views, cli"),
        ("log.tsv", b"query,title,shown,clicked\n", r"log\.tsv:1 has no column 'query'.*: query,title,shown,clicked"),
        ("log.csv", b"query,title,query,shown,clicked\n", "has 2 columns 'query'"),
        ("log.csv", b"", "has no column 'query'"),
        ("log.csv", b"\xff\xfeq\0u\0", "the header cannot be read: NUL byte"),
        ("log.tsv.gz", gzip.compress(HEADER.encode(), mtime=0)[:-9], r"log\.tsv\.gz is truncated after 0 rows"),
        ("log.txt", HEADER.encode(), r"corpus\.clicks: .*log\.txt is not a click log.*\.tsv or \.csv"),
    ],
)
def test_a_file_that_is_no_click_log_is_one_line(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=says) as error:
        ClickLog([str(tmp_path / name)], 1_000)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"corpus\.clicks: \S+none\*\.tsv does not exist"):
        ClickLog([str(tmp_path / "none*.tsv")], 1_000)


# Examined titles

PLACED = "query\ttitle\tshown\tclicked\tposition"


def examined(path: Path, *rows: str, header: str = PLACED) -> ClickLog:
    return ClickLog([write(path, list(rows), header)], 1_000_000, examined_only=True)


def test_only_titles_above_the_last_click_were_examined(tmp_path):
    page = ["sea\tOne\t1\t0\t1", "sea\tTwo\t1\t1\t2", "sea\tThree\t1\t0\t3", "sea\tFour\t1\t1\t4"]
    page += ["sea\tFive\t1\t0\t5", "moon\tSix\t1\t0\t1"]
    log = examined(tmp_path / "log.tsv", *page)
    assert sorted(log.items()) == [
        Query("moon", (), (), ("Six",)),
        Query("sea", ("Four", "Two"), ("One", "Three"), ("Five",)),
    ]
    assert {key: log.counts()[key] for key in ("clicked", "skipped", "unseen")} == dict(clicked=2, skipped=2, unseen=2)
    all_rows = ClickLog([write(tmp_path / "all.tsv", page, PLACED)], 1_000)
    assert next(query for query in all_rows.items() if query.text == "sea").skipped == ("Five", "One", "Three")


def test_a_click_counts_on_its_own_page_alone(tmp_path):
    header = f"session\t{PLACED}"
    rows = ["1\tsea\tTop\t1\t0\t1", "2\tSea\tLow\t1\t1\t9", "2\tmoon\tTop\t1\t0\t1"]
    found = {query.text: query for query in examined(tmp_path / "log.tsv", *rows, header=header).items()}
    assert found["sea"] == Query("sea", ("Low",), (), ("Top",)) and found["moon"].unseen == ("Top",)
    without = examined(tmp_path / "one.tsv", *(row.split("\t", 1)[1] for row in rows))
    assert next(query for query in without.items() if query.text == "sea").skipped == ("Top",)


def test_a_title_that_was_examined_once_was_examined(tmp_path):
    header = f"session\t{PLACED}"
    rows = ["1\tsea\tA\t1\t0\t3", "1\tsea\tB\t1\t1\t2", "2\tsea\tA\t1\t0\t1", "2\tsea\tC\t1\t1\t2"]
    rows += ["1\tsea\tC\t1\t0\t1"]
    for number, order in enumerate((rows, rows[::-1])):  # rows of a page need not stand together
        log = examined(tmp_path / f"{number}.tsv", *order, header=header)
        assert list(log.items()) == [Query("sea", ("B", "C"), ("A",))]


def test_a_title_that_was_shown_is_never_random_though_nobody_saw_it():
    titles = [f"title {number}" for number in range(40)]
    queries = [
        Query("one", tuple(titles[:4]), tuple(titles[4:8]), tuple(titles[20:])),
        Query("two", tuple(titles[20:23]), tuple(titles[23:26]), tuple(titles[:4])),
        Query("six", tuple(titles[8:12]), tuple(titles[12:16])),
    ]
    for seed in range(20):
        for (text, title), kind in label(queries, Pool((), Settings(), seed)):
            query = next(query for query in queries if query.text == text)
            assert title not in query.unseen
            assert (kind == RANDOM) == (title not in query.clicked + query.skipped)


def test_a_log_without_positions_cannot_tell_what_was_examined(tmp_path):
    with pytest.raises(ValueError, match=r"has no column 'position'\. .*\(corpus\.examined_only\) names query"):
        examined(tmp_path / "log.tsv", *ROWS, header=HEADER)


@pytest.mark.parametrize("position", ["0", "-1", "first", ""])
def test_a_row_without_a_place_is_refused(tmp_path, position):
    rows = [f"sea\tTides\t1\t1\t{position}", "sea\tBoats\t1\t0\t1"]
    log = examined(tmp_path / "log.tsv", *rows)
    assert [refusal.reason for refusal in log.refused] == ["position is not 1 or more"]
    assert list(log.items()) == [Query("sea", (), (), ("Boats",))]


# A corpus


def build(folder: Path, name: str, rows: list[str] = ROWS, workers: int = 1, tasks=TASKS, **settings) -> Path:
    write_jsonl(folder / "docs.jsonl", [english(f"doc {number}") for number in range(20)])
    write(folder / "log.tsv", rows)
    config = CorpusConfig(name=name, sources=["docs.jsonl"], clicks=["log.tsv"], **{**SMALL, **settings})
    build_corpus(config, tasks, workers)
    return config.folder()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A corpus of documents without relevance and of several shards of clicks; not to be changed."""
    folder = tmp_path_factory.mktemp("clicks")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        bad = ["sea\tTides\t4\tmany"]
        return folder / build(folder, "clicks", [*ROWS, *bad], vocab_size=1_000, shard_mb=0.008)


def pairs(corpus: Path, split: str) -> list[tuple[str, str, int]]:
    """The instances of relevance, decoded."""
    tokenizer = load_tokenizer(f"{corpus / 'tokenizer.json'}")
    found = []
    for (query, title), kind in Instances(corpus, split, "ir_relevance"):
        found.append((*(tokenizer.decode(segment.ids.tolist()) for segment in (query, title)), kind))
    return found


def test_the_corpus_holds_query_and_title_with_the_label_of_the_log(corpus):
    clicks = truth(ROWS)
    for split in SPLITS:
        made = pairs(corpus, split)
        for query, title, kind in made:
            assert kind == (RANDOM if title not in clicks[query] else STRONG if clicks[query][title] else WEAK)
        counts = Counter(kind for *_, kind in made)
        row = read_manifest(corpus)["tasks"]["ir_relevance"]
        assert row["label_counts"][split] == [counts[kind] for kind in range(3)] == [row[split] // 3] * 3
        assert row[split] == len(made) > 0


def test_no_query_is_in_both_splits(corpus):
    train, held_out = ({query for query, _, _ in pairs(corpus, split)} for split in SPLITS)
    assert train and held_out and not train & held_out


def test_documents_and_clicks_lie_in_shards_of_their_own(corpus):
    manifest = read_manifest(corpus)
    files = [shard["file"] for shard in manifest["shards"]["train"]]
    assert sum(file.startswith("clicks") for file in files) > 2
    assert len(Instances(corpus, "train", "knowledge_masking")) == manifest["tasks"]["knowledge_masking"]["train"] > 0
    assert manifest["documents"]["used"] == 20


def test_rows_are_accounted_for_and_the_origin_of_the_labels_named(corpus):
    manifest = read_manifest(corpus)
    assert manifest["tasks"]["ir_relevance"]["labels_from"] == "clicks"
    rows = manifest["clicks"]
    assert (rows["in"], rows["used"], rows["refused"]) == (len(ROWS) + 1, len(ROWS), {"clicked is not a count": 1})
    assert rows["clicked"] + rows["skipped"] == sum(map(len, truth(ROWS).values()))
    refused = [json.loads(line) for line in (corpus / "refused.jsonl").read_text().splitlines()]
    assert refused == [{"where": f"log.tsv:{len(ROWS) + 2}", "reason": "clicked is not a count"}]
    for text in (printed(stats(corpus)), printed(show(corpus, "ir_relevance"))):
        assert "clicked after a query" in text and "pseudo" not in text
    account = f"{len(ROWS) + 1:,} in = {len(ROWS):,} used + 1 refused (clicked is not a count: 1)"
    assert account in printed(stats(corpus))


def printed(thing) -> str:
    console = Console(width=300)
    with console.capture() as capture:
        console.print(thing)
    return capture.get()


def test_without_a_log_the_labels_are_named_pseudo(english_corpus):
    manifest = read_manifest(english_corpus)
    assert manifest["tasks"]["ir_relevance"]["labels_from"] == "pseudo" and "clicks" not in manifest
    for text in (printed(stats(english_corpus)), printed(show(english_corpus, "ir_relevance"))):
        assert "(pseudo-labels)" in text


def test_workers_change_no_byte(folder):
    one, two = (build(folder, f"workers {workers}", workers=workers, shard_mb=0.008) for workers in (1, 2))
    assert read_manifest(one)["shards"] == read_manifest(two)["shards"]
    assert len(read_manifest(one)["shards"]["train"]) > 5


def test_long_titles_are_cut_and_the_query_is_kept(folder):
    long = [row.replace(" and the ", " and the " + "old walls of stone towers " * 20) for row in ROWS]
    corpus = build(folder, "long", long)
    queries = {query.split()[-1] for query, _, _ in pairs(corpus, "train")}
    assert len(queries) > 50 and all(map(str.isdecimal, queries))
    lengths = [sum(len(segment.ids) for segment in segments) for segments, _ in Instances(corpus, "train", TASKS[1])]
    assert max(lengths) == SMALL["max_length"] - 3


def test_another_log_makes_other_shards_and_is_refused_for_a_finished_corpus(folder):
    first = build(folder, "log")
    config = CorpusConfig(**read_manifest(first)["config"])
    assert ensure_corpus(config, TASKS) == first
    with pytest.raises(ValueError, match=r"built with corpus\.clicks=\['log\.tsv'\], now it is \[\]"):
        ensure_corpus(config.model_copy(update={"clicks": []}), TASKS)
    before = read_manifest(first)
    after = read_manifest(build(folder, "log", ROWS[: len(ROWS) // 2]))
    assert before["shards"]["train"][0] == after["shards"]["train"][0]
    assert before["shards"]["train"][-1]["sha256"] != after["shards"]["train"][-1]["sha256"]


def test_a_corpus_from_before_a_setting_existed_had_its_default(folder, english_corpus):
    (folder / "corpora").mkdir()
    (folder / "corpora" / "en").symlink_to(english_corpus)
    manifest = read_manifest(english_corpus)
    copy = folder / "corpora" / "old"
    copy.mkdir()
    config = {**manifest["config"], "name": "old"}
    del config["clicks"]
    (copy / "manifest.json").write_text(json.dumps({**manifest, "config": config}))
    assert ensure_corpus(CorpusConfig(**config), TASKS).name == "old"


@pytest.mark.slow
def test_a_model_is_trained_on_clicks_and_its_card_says_so(folder):
    build(folder, "clicks")
    config = {
        "name": "run", "tasks": TASKS, "schedule": {"steps_per_task": 3},
        "corpus": {**SMALL, "name": "clicks", "sources": ["docs.jsonl"], "clicks": ["log.tsv"]},
        "model": {"layers": 1, "hidden": 16, "heads": 2}, "train": {"batch_size": 8, "micro_batch_size": 8},
    }  # fmt: skip
    (folder / "run.yaml").write_text(json.dumps(config))
    for command in ("train", "export"):
        words = [sys.executable, "-c", "from launch.cli import main; main()", command, "run.yaml"]
        subprocess.run(words, check=True, timeout=300)
    card = (folder / "runs" / "run" / "export" / "README.md").read_text()
    assert "`ir_relevance`: whether a title was clicked after a query" in card and "pseudo" not in card
    assert SUMMARY in (folder / "runs" / "run" / "export" / "tasks.json").read_text()


def test_a_log_that_cannot_feed_the_task(folder):
    rows = [row[: row.rindex("\t")] + "\t1" for row in ROWS]
    with pytest.raises(ValueError, match=r"no train and no validation instance \(it needs a click log in which"):
        build(folder, "clicked", rows)


def test_a_log_without_the_task_that_it_feeds(folder):
    with pytest.raises(ValueError, match=r"corpus\.clicks feeds ir_relevance alone\. Add it to `tasks`"):
        build(folder, "unasked", tasks=TASKS[:1])
    with pytest.raises(ValueError, match=r"corpus\.clicks feeds ir_relevance alone"):
        Config(tasks=TASKS[:1], corpus=CorpusConfig(clicks=["log.tsv"]))


@pytest.mark.parametrize(
    ("settings", "tasks", "says"),
    [
        (
            {"clicks": ["a.tsv"], "grades": ["b.tsv"]},
            TASKS,
            r"corpus\.clicks and corpus\.grades both label ir_relevance\.",
        ),
        ({"grades": ["b.tsv"]}, TASKS[:1], r"corpus\.grades feeds ir_relevance alone\. Add it to `tasks`"),
        ({"relations": ["b.tsv"]}, TASKS, r"corpus\.relations feeds discourse_relation alone"),
        ({"examined_only": True}, TASKS, r"corpus\.examined_only is about corpus\.clicks, which names no log"),
    ],
)
def test_labels_that_nothing_would_learn_from_are_refused(settings, tasks, says):
    with pytest.raises(ValueError, match=says):
        Config(tasks=tasks, corpus=CorpusConfig(**settings))
