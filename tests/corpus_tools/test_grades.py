import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from corpus_tools.grades import Grades, Judged, label
from pretrain.tasks.spec import Pool, Settings

STRONG, WEAK, RANDOM = range(3)
POOL = Pool((), Settings(), 0)
HEADER = "query\ttitle\tgrade"
ROWS = ["sea\tTides\t2", "sea\tBoats\t1", "sea\tStocks\t0", "moon\tStocks\t0", "moon\tOrbits\t2"]


def write(path: Path, rows: list[str], header: str = HEADER) -> str:
    path.write_text("\n".join([header, *rows]) + "\n", "utf-8")
    return str(path)


def read(path: Path, *rows: str) -> Grades:
    return Grades([write(path, list(rows))], 1_000)


def test_a_grade_is_a_class_and_the_best_grade_is_class_0(tmp_path):
    found = read(tmp_path / "set.tsv", *ROWS)
    assert sorted(found.items()) == [
        Judged("moon", ("Orbits",), (), ("Stocks",)),
        Judged("sea", ("Tides",), ("Boats",), ("Stocks",)),
    ]
    made = {texts: kind for texts, kind in label(list(found.items()), POOL)}
    assert made == {
        ("sea", "Tides"): STRONG,
        ("sea", "Boats"): WEAK,
        ("sea", "Stocks"): RANDOM,
        ("moon", "Stocks"): RANDOM,
        ("moon", "Orbits"): STRONG,
    }


def test_the_same_set_in_every_format_and_under_both_names(tmp_path):
    pairs = [row.split("\t") for row in ROWS]
    write(tmp_path / "set.tsv", ROWS)
    write(tmp_path / "set.csv", [f"{grade},x,{query},{title}" for query, title, grade in pairs], "grade,n,query,title")
    named = [json.dumps({"query": q, "title": t, "grade": int(g)}) for q, t, g in pairs]
    (tmp_path / "set.jsonl.gz").write_bytes(gzip.compress("\n".join(named).encode()))
    other = [json.dumps({"id": n, "label": g, "text_a": q, "text_b": t}) for n, (q, t, g) in enumerate(pairs)]
    (tmp_path / "other.jsonl").write_text("\n".join(other))
    files = [path for path in tmp_path.iterdir()]
    assert len({tuple(Grades([str(path)], 1_000).items()) for path in files}) == 1 and len(files) == 4


def test_the_most_frequent_grade_counts_and_of_two_the_lower(tmp_path):
    rows = ["sea\tTides\t2", "sea\ttides\t0", "Sea\tTides\t2", "sea\tBoats\t2", "sea\tBoats\t1", "sea\tStocks\t1"]
    found = read(tmp_path / "set.tsv", *rows)
    assert list(found.items()) == [Judged("sea", ("Tides",), ("Boats", "Stocks"), ())]
    assert found.counts() == {
        "in": 6, "used": 6, "refused": {}, "queries": 1, "strong": 1, "weak": 2, "random": 0, "judged differently": 2,
    }  # fmt: skip


def test_the_order_of_rows_changes_nothing(tmp_path):
    rows = [f"query {n % 7}\ttitle {n % 31}\t{n % 3}" for n in range(300)]
    one, two = read(tmp_path / "one.tsv", *rows), read(tmp_path / "two.tsv", *rows[::-1])
    assert list(one.items()) == list(two.items()) and one.counts() == two.counts()
    assert list(label(list(one.items()), POOL)) == list(label(list(two.items()), POOL))


REFUSED = {
    "sea\tTides\t3": "grade is not 0, 1 or 2",
    "sea\tTides\t-1": "grade is not 0, 1 or 2",
    "sea\tTides\t1.5": "grade is not 0, 1 or 2",
    "sea\tTides\t": "grade is not 0, 1 or 2",
    "sea\tTides": "more or fewer fields than the header",
    "…\tTides\t1": "no word in query",
    "sea\t \t1": "no word in title",
}


def test_rows_that_cannot_be_used_are_counted_with_file_and_line(tmp_path):
    found = read(tmp_path / "set.tsv", *REFUSED, *ROWS)
    assert [(refusal.where, refusal.reason) for refusal in found.refused] == [
        (f"{tmp_path / 'set.tsv'}:{line}", reason) for line, reason in enumerate(REFUSED.values(), 2)
    ]
    counts = found.counts()
    assert counts["in"] == counts["used"] + sum(counts["refused"].values()) == len(REFUSED) + len(ROWS)
    assert counts["refused"] == Counter(REFUSED.values())
    assert sorted(found.items()) == sorted(read(tmp_path / "good.tsv", *ROWS).items())


def test_records_that_cannot_be_used(tmp_path):
    records = [
        '{"query": "sea", "title": "Tides", "grade": 2}',
        '{"query": "sea", "title": "Tides"}',
        '{"query": "sea", "title": null, "grade": 1}',
        '{"query": "sea", "title": ["Tides"], "grade": 1}',
        '{"query": "sea", "title": "Tides", "grade": true}',
        '{"query": "sea", "title": "Ti\\u0000des", "grade": 1}',
        '{"query": "sea", "title": "Ti\\ud800des", "grade": 1}',
        '["sea"]',
        "sea",
    ]
    (tmp_path / "set.jsonl").write_text("\n".join(records))
    found = Grades([str(tmp_path / "set.jsonl")], 1_000)
    assert [refusal.reason for refusal in found.refused] == [
        "no grade", "no title", "title is neither text nor a whole number", "grade is neither text nor a whole number",
        "NUL byte", "invalid UTF-8", "not a JSON object", "not JSON",
    ]  # fmt: skip
    assert found.found == 9 and list(found.items()) == [Judged("sea", ("Tides",), (), ())]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        (
            "set.tsv",
            "query\ttitle\tscore\n",
            r"set\.tsv:1 has no column 'grade'.* grade or label; this one has: query",
        ),
        ("set.tsv", "query\ttitle\tgrade\tlabel\n", r"set\.tsv:1 has 2 columns 'grade'"),
        ("set.jsonl", '\n{"query": "sea", "label": 1}\n', r"set\.jsonl:2 has no column 'title'"),
        ("set.parquet", "", r"corpus\.grades: .*set\.parquet is not a graded set.* \.tsv, \.csv or \.jsonl"),
    ],
)
def test_a_file_that_is_no_graded_set_is_one_line(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=says) as error:
        Grades([str(tmp_path / name)], 1_000)
    assert "\n" not in str(error.value)
