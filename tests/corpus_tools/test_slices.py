import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from corpus_tools import readers, slices
from corpus_tools.document import Document, Refused
from corpus_tools.readers import WHOLE, Share, read
from corpus_tools.slices import find_slices, plan, share_out

MB = 1_000_000


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(slices, "MOST_READ", 10_000)
    monkeypatch.setattr(slices, "LEAST_READ", 5_000)
    monkeypatch.setattr(readers, "BLOCK", 500)


def records(number: int) -> list[dict]:
    return [{"id": f"doc {n}", "text": f"Text number {n}. " * (n % 7 + 1)} for n in range(number)]


def write(path: Path, number: int) -> Path:
    lines = [json.dumps(record) for record in records(number)]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records(number)), path, row_group_size=20)
    elif path.suffix == ".txt":
        path.write_text("\n\n".join(record["text"] for record in records(number)) + "\nlast line")
    elif path.suffix == ".zst":
        path.write_bytes(zstandard.compress("\n".join(lines).encode()))
    else:
        path.write_text("\n".join([*lines[: number // 2], "no JSON", *lines[number // 2 :]]))
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst", "a.txt", "a.parquet"])
def test_the_parts_of_a_large_file_hold_each_document_once(tmp_path, name):
    path = write(tmp_path / name, 500)
    whole = list(read(f"{path}", name, {}, MB))
    parts = [list(read(f"{path}", name, {}, MB, Share(part, 5))) for part in range(5)]
    assert all(parts)
    together = [item for part in parts for item in part]
    assert len(together) == len(whole) > 499
    assert sorted(map(repr, together)) == sorted(map(repr, whole))
    assert max(map(len, parts)) < 2 * min(map(len, parts))


def test_large_files_are_shared_out_and_small_ones_read_together(tmp_path):
    large = write(tmp_path / "large.jsonl", 1500)
    for number in range(40):
        write(tmp_path / f"small{number:02}.jsonl", 5)
    tasks = plan([f"{tmp_path}"])
    sizes = [sum(slice.text_bytes() for slice in task) for task in tasks]
    assert len(tasks) > 8 and max(sizes) < 2 * sum(sizes) / len(sizes)
    assert sum(slice.source == f"{large}" for task in tasks for slice in task) == round(large.stat().st_size / 10_000)
    assert max(len(task) for task in tasks) > 5
    whole = [slice._replace(share=WHOLE) for task in tasks for slice in task]
    assert list(dict.fromkeys(whole)) == list(find_slices([f"{tmp_path}"]))


def test_little_text_keeps_eight_workers_busy_but_is_not_cut_finely():
    sizes = [share_out(size, 100, 10) for size in (0, 14, 40, 80, 400, 900, 10_000)]
    assert sizes == [1, 1, 4, 8, 8, 9, 100]


def test_every_document_of_all_tasks_is_read_once(tmp_path):
    for number, name in enumerate(["a.jsonl", "b.jsonl.zst", "c.parquet"]):
        write(tmp_path / name, 300 + number)
    found = [
        item
        for task in plan([f"{tmp_path}"])
        for slice in task
        for item in read(slice.source, slice.name, {}, MB, slice.share)
    ]
    documents = [item for item in found if isinstance(item, Document)]
    assert len(documents) == 300 + 301 + 302
    assert [item.reason for item in found if isinstance(item, Refused)] == ["not JSON"]


def test_a_link_to_nothing_is_named(tmp_path):
    write(tmp_path / "a.jsonl", 3)
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "gone.jsonl")
    with pytest.raises(ValueError, match=r"b\.jsonl cannot be read"):
        for slice in find_slices([f"{tmp_path}"]):
            list(read(slice.source, slice.name, {}, MB, slice.share))
