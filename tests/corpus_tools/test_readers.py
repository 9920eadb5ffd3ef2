"""Reading: every format gives the same documents, and nothing that is found disappears."""

import gzip
import json
import os
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from corpus_tools.document import Document, Refused
from corpus_tools.readers import lines_of, read
from corpus_tools.slices import find_slices

MB = 1_000_000
RECORDS = [
    {"id": "a", "title": "Alpha", "text": "One.  Two.\n\nThree."},
    {"id": "b", "title": "Beta", "text": "雪山。\nVier."},
]


def reading(sources: list[Path | str], keys: dict[str, str], max_bytes: int):
    for slice in list(find_slices([str(source) for source in sources])):
        yield from read(slice.source, slice.name, keys, max_bytes, slice.share)


def read_all(*sources: Path | str, keys: dict[str, str] | None = None, max_bytes: int = MB):
    return list(reading(list(sources), keys or {}, max_bytes))


def texts(documents) -> list[tuple[str, ...]]:
    return [section.paragraphs for document in documents for section in document.sections]


def reasons(items) -> list[str]:
    return [item.reason for item in items if isinstance(item, Refused)]


def write(path: Path, content: str | bytes) -> Path:
    content = content.encode() if isinstance(content, str) else content
    codecs = {".gz": gzip.compress, ".zst": zstandard.compress}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(codecs[path.suffix](content) if path.suffix in codecs else content)
    return path


def jsonl(*records) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


# Formats


def test_text_has_a_document_between_blank_lines_and_a_paragraph_a_line(tmp_path):
    path = write(tmp_path / "a.txt", "\ufeff\nOne.\r\n \tTwo \u3000 words.\x07\r\n\r\n\n \nThree.")
    assert texts(read_all(path)) == [("One.", "Two words."), ("Three.",)]
    assert [(document.id, document.title) for document in read_all(path)] == [("a.txt#1", None), ("a.txt#2", None)]


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
def test_every_format_of_records_gives_the_same_documents(tmp_path, ending):
    path = tmp_path / f"docs.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(RECORDS), path)
    else:
        write(path, jsonl(*RECORDS))
    alpha, beta = read_all(path)
    assert (alpha.id, alpha.title, alpha.sections) == ("a", "Alpha", ((None, ("One. Two.", "Three.")),))
    assert (beta.id, beta.title, beta.sections) == ("b", "Beta", ((None, ("雪山。", "Vier.")),))


@pytest.mark.parametrize("ending", ["txt.gz", "txt.zst"])
def test_compressed_text_equals_plain(tmp_path, ending):
    content = "\n\n".join(f"Document {number} of many.\nSecond paragraph." for number in range(20_000))
    assert texts(read_all(write(tmp_path / f"a.{ending}", content))) == texts(
        read_all(write(tmp_path / "a.txt", content))
    )


def test_zstd_files_of_several_frames_are_read_to_the_end(tmp_path):
    path = tmp_path / "a.txt.zst"
    path.write_bytes(b"".join(zstandard.compress(f"Part {number}.\n\n".encode()) for number in range(5)))
    assert texts(read_all(path)) == [(f"Part {number}.",) for number in range(5)]


def test_keys_can_be_renamed_and_id_and_title_may_lack(tmp_path):
    path = write(tmp_path / "a.jsonl", jsonl({"body": "One."}, {"body": "Two.", "nr": 7, "headline": "T"}))
    first, second = read_all(path, keys={"text": "body", "id": "nr", "title": "headline"})
    assert (first.id, first.title) == ("a.jsonl#1", None)
    assert (second.id, second.title) == ("7", "T")


def test_datasets_reads_a_folder_of_files_and_a_saved_data_set(tmp_path):
    datasets = pytest.importorskip("datasets")
    write(tmp_path / "folder" / "train.jsonl", jsonl(*RECORDS))
    data = datasets.Dataset.from_list(RECORDS)
    data.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict(train=data.select([1]), test=data.select([0])).save_to_disk(tmp_path / "splits")
    expected = read_all(write(tmp_path / "docs.jsonl", jsonl(*RECORDS)))
    assert read_all(f"datasets:{tmp_path}/folder") == expected
    assert read_all(f"datasets:{tmp_path}/saved") == expected
    assert read_all(f"datasets:{tmp_path}/splits:test") == expected[:1]
    with pytest.raises(ValueError, match=r"datasets:.*splits:dev cannot be read"):
        read_all(f"datasets:{tmp_path}/splits:dev")
    with pytest.raises(ValueError, match=r"no key 'body'.*id, title, text.*corpus\.keys"):
        read_all(f"datasets:{tmp_path}/saved", keys={"text": "body"})


# Sources


def test_folders_and_globs_are_read_in_order_and_ids_do_not_depend_on_the_place(tmp_path):
    for place in ("here", "there"):
        for name in ("b/x.txt", "a/x.txt", "a/y.txt.gz", ".hidden/x.txt", "a/.x.txt"):
            write(tmp_path / place / name, f"Text of {name}.")
    ids = [document.id for document in read_all(tmp_path / "here")]
    assert ids == ["a/x.txt#1", "a/y.txt.gz#1", "b/x.txt#1"]
    assert [document.id for document in read_all(tmp_path / "there")] == ids
    assert [document.id for document in read_all(tmp_path / "here" / "*" / "x.*")] == ["a/x.txt#1", "b/x.txt#1"]
    assert [document.id for document in read_all(tmp_path / "here" / "**" / "y.*")] == ["y.txt.gz#1"]


def test_sources_that_are_not_there_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    table = write(tmp_path / "tables" / "a.csv", "a,b")
    for source, message in {
        tmp_path / "absent.txt": "absent.txt does not exist",
        tmp_path / "*.jsonl": r"\*\.jsonl does not exist.*glob",
        tmp_path / "empty": "empty holds no readable file.*jsonl",
        tmp_path / "tables": "tables holds no readable file",
        table: r"a\.csv has an unsupported extension.*parquet",
        write(tmp_path / "a.parquet.gz", "x"): r"a\.parquet\.gz has an unsupported extension",
        f"datasets:{tmp_path}/empty": "datasets:.*empty cannot be read",
        "demo:fr": "demo:fr.*demo:en",
    }.items():
        with pytest.raises(ValueError, match=message) as caught:
            read_all(source)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"corpus\.sources is empty"):
        read_all()


def test_a_missing_source_is_found_before_anything_is_read(tmp_path):
    source = write(tmp_path / "a.txt", "One.")
    with pytest.raises(ValueError, match="absent"):
        next(reading([source, tmp_path / "absent.txt"], {}, MB))


def test_files_of_another_kind_in_a_folder_are_counted(tmp_path):
    write(tmp_path / "a.txt", "One.")
    write(tmp_path / "b.csv", "a,b")
    assert read_all(tmp_path)[1] == Refused(str(tmp_path / "b.csv"), "unsupported extension")


# Bad input


@pytest.mark.parametrize("ending", ["txt", "jsonl", "parquet", "txt.gz", "jsonl.zst"])
def test_an_empty_file_is_refused(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(b"")
    assert read_all(path) == [Refused(str(path), "empty file")]


@pytest.mark.parametrize("ending", ["txt", "jsonl", "txt.gz", "jsonl.zst"])
def test_a_file_of_white_space_is_refused(tmp_path, ending):
    assert reasons(read_all(write(tmp_path / f"a.{ending}", "\n \n\n"))) == ["empty file"]


@pytest.mark.parametrize("ending", ["txt.gz", "txt.zst", "jsonl.gz", "jsonl.zst"])
def test_a_truncated_archive_is_an_error_that_counts_what_was_read(tmp_path, ending):
    lines = [json.dumps({"text": os.urandom(50).hex()}) for _ in range(5_000)]
    path = write(tmp_path / f"a.{ending}", "\n\n".join(lines))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    read_so_far = []
    with pytest.raises(ValueError, match=r"a\.\S+ is truncated after \d+ documents\. Fetch it again") as caught:
        for item in reading([path], {}, MB):
            read_so_far.append(item)
    assert f"after {len(read_so_far)} documents" in str(caught.value)
    assert 0 < len(read_so_far) < 5_000
    assert all(isinstance(item, Document) for item in read_so_far)


@pytest.mark.parametrize("ending", ["txt.gz", "txt.zst", "parquet"])
def test_a_file_that_is_not_what_its_name_says_is_an_error(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(b"Plain text and no archive at all, of some length. " * 9)
    with pytest.raises(ValueError, match=r"a\.\S+ is damaged after 0 documents") as caught:
        read_all(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_parquet_file_is_an_error(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(RECORDS), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"a\.parquet is damaged"):
        read_all(path)


def test_bad_documents_of_a_text_file_are_refused_with_their_line(tmp_path):
    path = write(tmp_path / "a.txt", b"Good.\n\nBad \xff byte.\n\nSome\nNUL \0 byte.\n\n\x07\n\nGood too.\n")
    found = read_all(path)
    assert texts([found[0], found[-1]]) == [("Good.",), ("Good too.",)]
    assert found[1:-1] == [
        Refused(f"{path}:3", "invalid UTF-8"),
        Refused(f"{path}:5", "NUL byte"),
        Refused(f"{path}:8", "empty"),
    ]


BAD_LINES = {
    b"{": "not JSON",
    b"[" * 100_000: "not JSON",
    b'["text"]': "not a JSON object",
    b'{"id": "x"}': "no text key",
    b'{"text": null}': "text is not a string",
    b'{"text": " \\n\\u0007"}': "empty",
    b'{"text": "a \\u0000 b"}': "NUL byte",
    b'{"text": "a\0b"}': "NUL byte",
    b'{"text": "a \\ud800 b"}': "invalid UTF-8",
    b'{"text": "\xff"}': "invalid UTF-8",
    b'{"text": "a", "title": ["b"]}': "title is not a string",
    b'{"text": "a", "id": {}}': "id is not a string or a number",
}


@pytest.mark.parametrize("line", BAD_LINES, ids=lambda line: BAD_LINES[line].replace(" ", "-"))
def test_a_bad_line_is_refused_with_its_place(tmp_path, line):
    path = write(tmp_path / "a.jsonl", b'{"text": "Good."}\n\n' + line + b'\n{"text": "Good."}\n')
    first, refused, last = read_all(path)
    assert refused == Refused(f"{path}:3", BAD_LINES[line])
    assert isinstance(first, Document) and isinstance(last, Document)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_key_that_no_record_has_is_an_error(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    records = [{"id": "a", "body": "One."}, {"id": "b", "body": "Two."}]
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        write(path, "\n{\n" + jsonl(*records))
    where = r"a\.jsonl:3" if ending == "jsonl" else r"a\.parquet"
    with pytest.raises(ValueError, match=rf"{where} has no key 'text'.*id, body.*corpus\.keys\.text"):
        read_all(path)
    with pytest.raises(ValueError, match=rf"{where} has no key 'headlin'"):
        read_all(path, keys={"text": "body", "title": "headlin"})


def test_invalid_utf8_in_parquet_costs_one_row(tmp_path):
    texts = pa.array([b"Good.", b"\xff", b"Good too."], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    found = read_all(tmp_path / "a.parquet")
    assert [type(item) for item in found] == [Document, Refused, Document]
    assert found[1] == Refused(str(tmp_path / "a.parquet") + ":2", "invalid UTF-8")


@pytest.mark.parametrize("ending", ["txt", "jsonl", "jsonl.gz", "jsonl.zst"])
def test_a_large_line_is_refused_without_being_held(tmp_path, ending):
    good = "Good.\n\n" if ending == "txt" else '{"text": "Good."}\n'
    path = write(tmp_path / f"a.{ending}", good + '{"text": "' + "x" * 50 * MB + '"}\n\n' + good)
    tracemalloc.start()
    found = read_all(path, max_bytes=100_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [type(item) for item in found] == [Document, Refused, Document]
    assert reasons(found) == ["too large"]
    assert peak < (25 * MB if ending.endswith("zst") else 2 * MB)


def test_a_document_of_many_lines_can_be_too_large(tmp_path):
    path = write(tmp_path / "a.txt", "Good.\n\n" + "A line.\n" * 1_000 + "\nGood.")
    assert reasons(read_all(path, max_bytes=500)) == ["too large"]
    assert len(read_all(path, max_bytes=500)) == 3


def test_the_limit_is_reached_exactly(tmp_path):
    path = write(tmp_path / "a.txt", "12345\n\n123456\n")
    assert reasons(read_all(path, max_bytes=6)) == []
    assert reasons(read_all(path, max_bytes=5)) == ["too large"]


LINES = st.lists(
    st.sampled_from([*BAD_LINES, b'{"text": "Good."}', b"", b" ", b'{"text": "' + b"long " * 50 + b'"}']).filter(
        lambda line: len(line) < 1_000
    ),
    min_size=1,
    max_size=12,
)


@given(LINES)
def test_documents_in_are_documents_yielded_and_refused(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    path.write_bytes(b"\n".join([b'{"text": "Good."}', *lines]))
    found = read_all(path, max_bytes=200)
    assert len(found) == 1 + sum(1 for line in lines if line.strip())


@given(st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"")), max_size=8), st.integers(1, 50))
def test_lines_are_those_of_the_file_and_too_large_ones_are_known(tmp_path_factory, lines, limit):
    path = tmp_path_factory.mktemp("lines") / "a"
    path.write_bytes("\ufeff".encode() + b"\n".join([b"first", *lines, b"last"]))
    for (number, found), line in zip(lines_of(path, limit), [b"first", *lines, b"last"], strict=True):
        assert found == line if len(line) <= limit else limit < len(found) <= len(line), number
