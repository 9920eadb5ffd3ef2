"""Bad input as a user meets it: one line that says what to do and status 1, or a document refused and counted.

A port in use is in test_cli.py; what the readers refuse in detail is in corpus_tools/test_readers.py.
"""

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from corpus_tools.shards import read_manifest
from launch.cli import app, run

ROOT = Path(__file__).parent.parent
CONFIG = """
name: mine
tasks: [knowledge_masking, token_document]
corpus: {name: mine, sources: [good.txt], vocab_size: 300, max_length: 32, validation_share: 0.3, min_tokens: 8}
model: {layers: 1, hidden: 16, heads: 2}
schedule: {steps_per_task: 2}
train: {batch_size: 4, micro_batch_size: 4}
evaluate: {instances: 8}
"""
GOOD = [
    f"Rivers run to the sea, says text {n}. The mountain stays where it was. Anna Keller wrote it in {1900 + n}. "
    f"Many people have read it since then, and the sea is {n} miles away. Nobody has seen the mountain move."
    for n in range(30)
]
RECORDS = [json.dumps({"id": f"{n}", "text": text}) for n, text in enumerate(GOOD)]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    (tmp_path / "good.txt").write_text("\n\n".join(GOOD))
    (tmp_path / "mine.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cumul(capsys, *words: str) -> tuple[int, str]:
    """Exit status and stderr."""
    with pytest.raises(SystemExit) as end:
        run(lambda: app(list(words), prog_name="cumul"))
    return end.value.code or 0, capsys.readouterr().err


def test_bad_documents_are_counted_on_screen_and_in_the_manifest(place, capsys):
    """The good ones are used, whatever lies between them."""
    text = "\n\n".join(GOOD).encode()
    (place / "mixed").mkdir()
    (place / "mixed" / "a.txt").write_bytes(b"bad \xff bytes\n\nnul \0 byte\n\nWord\n\n" + text)
    (place / "mixed" / "b.jsonl").write_text("\n".join(["{no json", '{"id": "x"}', RECORDS[0], *RECORDS]))
    (place / "mixed" / "c.txt").write_text("word " * 2_000)
    (place / "mixed" / "d.txt").touch()
    (place / "mixed" / "e.png").write_bytes(b"\x89PNG")
    sources = ["corpus.sources=[mixed]", "corpus.max_document_mb=0.005"]
    status, stderr = cumul(capsys, "corpus", "build", "mine.yaml", *sources)
    assert status == 0
    reasons = {
        "NUL byte": 1, "duplicate id": 1, "empty file": 1, "fewer than 8 tokens": 1, "invalid UTF-8": 1,
        "no text key": 1, "not JSON": 1, "too large": 1, "unsupported extension": 1,
    }  # fmt: skip
    documents = read_manifest(Path("corpora/mine"))["documents"]
    assert documents["refused"] == reasons
    assert (documents["in"], documents["used"]) == (69, 60)
    assert f"69 in = 60 used + 9 refused ({', '.join(f'{reason}: 1' for reason in reasons)})" in stderr
    listed = Path(re.search(r"\S+refused\.jsonl", stderr)[0]).read_text().splitlines()
    places = {refusal["reason"]: refusal["where"] for refusal in map(json.loads, listed)}
    assert places.keys() == reasons.keys()
    for reason, where in {"invalid UTF-8": "a.txt:1", "not JSON": "b.jsonl:1", "too large": "c.txt:1"}.items():
        assert places[reason] == f"mixed/{where}"


@pytest.mark.parametrize(
    ("command", "settings", "named"),
    [
        ("train", ["model.prior=runs/none/export", "corpus.tokenizer=demo:minilm"], "model.prior=runs/none/export"),
        ("distill", ["distill={teacher: runs/none/export}", "tasks=[knowledge_masking]"], "distill.teacher="),
    ],
)
def test_missing_weights_are_missed_before_a_corpus_is_built(place, capsys, command, settings, named):
    status, stderr = cumul(capsys, command, "mine.yaml", *settings)
    assert status == 1 and stderr.startswith(f"error: {named}") and "no such directory" in stderr
    assert not Path("corpora").exists() and not Path("runs").exists()


def archive_cut_short(place: Path) -> None:
    data = gzip.compress("\n\n".join(GOOD).encode())
    (place / "cut.txt.gz").write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("write", "override", "says"),
    [
        (lambda place: (place / "no.txt").touch(), "corpus.sources=[no.txt]", "(empty file: 1; the first: no.txt)"),
        (lambda place: (place / "folder").mkdir(), "corpus.sources=[folder]", "folder holds no readable file"),
        (archive_cut_short, "corpus.sources=[cut.txt.gz]", "cut.txt.gz is truncated"),
        (
            lambda place: (place / "junk.jsonl").write_text("junk\njunk\n"),
            "corpus.sources=[junk.jsonl]",
            "2 found, 2 refused (not JSON: 2; the first: junk.jsonl:1)",
        ),
        (
            lambda place: (place / "body.jsonl").write_text("\n".join(RECORDS).replace('"text"', '"body"')),
            "corpus.sources=[body.jsonl]",
            "body.jsonl:1 has no key 'text', nor has any other record. It has: id, body.",
        ),
        (
            lambda place: (place / "one.jsonl").write_text(RECORDS[0]),
            "corpus.sources=[one.jsonl]",
            "1 train, 0 validation. Each needs 2: add documents.",
        ),
        (lambda place: None, "tasks=[token_document,ir_relevance]", "it needs documents with a title"),
        (lambda place: None, "tasks=[token_document,discourse_relation]", "it needs adjacent sentences joined by"),
        (
            lambda place: cumul_cased(),
            "tasks=[token_document,capitalization] corpus.tokenizer=corpora/cased",
            "corpus.tokenizer='corpora/cased' is cased",
        ),
        (lambda place: None, "tasks=[capitalization] corpus.lowercase=false", "Set corpus.lowercase=true"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_one_line_and_status_1(place, capsys, write, override, says):
    write(place)
    capsys.readouterr()
    status, stderr = cumul(capsys, "corpus", "build", "mine.yaml", *override.split())
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert status == 1
    assert says in errors[0] and errors == stderr.splitlines()[-1:]
    assert "Traceback" not in stderr
    assert not Path("corpora/mine/manifest.json").exists()


def cumul_cased() -> None:
    words = ["corpus", "build", "mine.yaml", "corpus.lowercase=false", "corpus.name=cased"]
    app(words, prog_name="cumul", standalone_mode=False)


SCRIPT = """
import sys
from pathlib import Path
from resource import RLIM_INFINITY, RLIMIT_FSIZE, setrlimit
from transformers import ErnieForMaskedLM
from launch.cli import app, run

def write(name, **sizes):
    sizes = {"vocab_size": 400, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, **sizes}
    ErnieForMaskedLM(ErnieForMaskedLM.config_class(**sizes, intermediate_size=64)).save_pretrained(name)

write("small", vocab_size=50)
write("other", hidden_size=32)
write("swapped")
Path("swapped/model.safetensors").write_bytes(Path("other/model.safetensors").read_bytes())
write("cut")
Path("cut/model.safetensors").write_bytes(Path("cut/model.safetensors").read_bytes()[:5000])
write("broken")
Path("broken/config.json").write_text("{no json")

for command in sys.argv[1:]:
    limit, *words = command.split()
    print(f"$ {command}", file=sys.stderr)
    setrlimit(RLIMIT_FSIZE, (int(limit) or RLIM_INFINITY, RLIM_INFINITY))
    try:
        run(lambda: app(words, prog_name="cumul", standalone_mode=False))
    except SystemExit as end:
        print(f"status {end.code}", file=sys.stderr)
"""
LIMIT = "20000"
"""Bytes that a file may have where a full disk is acted: a shard fits, weights do not."""
ADOPT = "train mine.yaml corpus.name=adopted corpus.tokenizer=corpora/mine"
COMMANDS = {
    "1000 corpus build mine.yaml": "cannot write corpora/mine/building/sketch/000000.npy.zst: [Errno 27]",
    "0 corpus build mine.yaml": None,
    "0 train mine.yaml model.prior=small": "not those of a trained one. Set corpus.tokenizer=small.",
    f"0 {ADOPT} model.prior=small": "entries, the embedding of model.prior=small only 50. Build the corpus with",
    f"0 {ADOPT} model.prior=other": "model.hidden=16, but model.prior=other has 32. Leave model.hidden out",
    f"0 {ADOPT} model.prior=swapped": "The checkpoint and its configuration do not belong together.",
    f"0 {ADOPT} model.prior=cut": "model.prior=cut: model.safetensors is damaged",
    f"0 {ADOPT} model.prior=broken": "model.prior=broken: config.json is damaged",
    f"{LIMIT} train mine.yaml": "cannot write runs/mine/stage1/model.safetensors: ",
    f"{LIMIT} train mine.yaml train.checkpoint_every=1": "cannot write runs/mine/stage1/checkpoints/step1.part/model",
    "0 train mine.yaml": None,
}
"""Bytes that a file may have (0: any number), command, and what is said; None where it succeeds."""


def test_checkpoints_that_do_not_fit_and_a_full_disk(place):
    """In one process, because starting torch takes seconds. With room again, the same command goes on."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *COMMANDS],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    said = dict(part.split("\n", 1) for part in done.stderr.split("$ ")[1:])
    assert list(said) == list(COMMANDS)
    for command, says in COMMANDS.items():
        if says is None:
            assert "error: " not in said[command]
            continue
        *_, error, status = said[command].splitlines()
        assert error.startswith("error: ") and says in error
        assert status == "status 1"
        if not command.startswith("0 "):
            assert error.endswith("What is finished is kept: make room and run again.")
    assert Path("runs/mine/stage1/state.json").exists()


def test_a_full_disk_in_a_worker_process_is_one_line(place):
    """Small files fit; shards are many, so that workers start."""
    limited = "from resource import *; setrlimit(RLIMIT_FSIZE, (4000, 4000))\nfrom launch.cli import main; main()"
    (place / "good.txt").write_text("\n\n".join(f"{text} " * 6 for text in GOOD))
    words = ["corpus", "build", "mine.yaml", "tasks=[knowledge_masking]", "corpus.shard_mb=0.008", "--workers", "2"]
    done = subprocess.run([sys.executable, "-c", limited, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    error = done.stderr.splitlines()[-1]
    assert re.match(r"error: cannot write (below )?corpora/mine/.*File too large.* make room and run again\.$", error)
