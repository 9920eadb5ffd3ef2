"""What goes wrong while a corpus is built: nothing is lost, nothing is there twice, and the message says where."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from written import SMALL, english, write_jsonl

from corpus_tools.build import ensure_corpus
from corpus_tools.config import CorpusConfig
from corpus_tools.shards import read_manifest
from pretrain.tasks import TASKS

SCRIPT = """
import resource, sys
from corpus_tools.build import ensure_corpus
from corpus_tools.config import CorpusConfig
from pretrain.tasks import TASKS
if __name__ == "__main__":
    settings, workers, limit = eval(sys.argv[1])
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        ensure_corpus(CorpusConfig(**settings), list(TASKS), workers)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
"""


class Started:
    """A build in a process of its own."""

    def __init__(self, folder: Path, settings: dict, workers: int = 2, limit: int = 0):
        script = folder / "build.py"
        script.write_text(SCRIPT)
        self.process = subprocess.Popen(
            [sys.executable, script, repr((settings, workers, limit))],
            env={**os.environ, "PYTHONPATH": f"{Path(__file__).parents[2]}"},
            stderr=subprocess.PIPE,
            text=True,
        )

    def workers(self) -> list[psutil.Process]:
        """The processes that build, not the one that multiprocessing starts to clean up."""
        try:
            below = psutil.Process(self.process.pid).children(recursive=True)
            return [child for child in below if "spawn_main" in " ".join(child.cmdline())]
        except psutil.NoSuchProcess:
            return []

    def end(self) -> tuple[int, str]:
        _, error = self.process.communicate(timeout=120)
        return self.process.returncode, error.strip().splitlines()[-1] if error.strip() else ""


def settings_of(folder: Path, name: str, number: int = 150) -> dict:
    sources = [write_jsonl(folder / "docs.jsonl", [english(f"doc {n}") for n in range(number)])]
    return {"name": name, "sources": sources, **SMALL, "shard_mb": 0.01}


def bytes_of(corpus: Path) -> dict[str, bytes]:
    """All files; of the manifest all but the name of the corpus, and the fingerprint, which covers it."""
    files = {f"{path.relative_to(corpus)}": path.read_bytes() for path in corpus.rglob("*") if path.is_file()}
    manifest = json.loads(files.pop("manifest.json"))
    del manifest["config"]["name"], manifest["fingerprint"]
    return files | {"manifest.json": json.dumps(manifest).encode()}


def check_kills(folder: Path, kills: int) -> None:
    whole = settings_of(folder, "whole")
    begun = time.monotonic()
    assert Started(folder, whole).end()[0] == 0
    lasts = time.monotonic() - begun
    rng = random.Random(kills)
    settings = settings_of(folder, "killed")
    corpus = CorpusConfig(**settings).folder()
    for _ in range(kills):
        started = Started(folder, settings)
        time.sleep(rng.uniform(0.2, 0.9) * lasts)
        workers = started.workers()
        if workers and rng.random() < 0.5:
            rng.choice(workers).kill()
            status, message = started.end()
            if status:
                assert message.startswith("error: a worker process was killed, often for want of memory. It was at one")
                assert "docs.jsonl" in message or "longest item is 'doc " in message
        else:
            started.process.send_signal(signal.SIGKILL)
            started.end()
        if (corpus / "manifest.json").exists():  # the next kills need something to do
            assert bytes_of(corpus) == bytes_of(CorpusConfig(**whole).folder())
            (corpus / "manifest.json").unlink()
    assert Started(folder, settings).end()[0] == 0
    assert bytes_of(corpus) == bytes_of(CorpusConfig(**whole).folder())
    documents = read_manifest(corpus)["documents"]
    assert documents["in"] == documents["used"] + sum(documents["refused"].values()) == 150


def test_a_build_that_is_killed_ends_with_the_bytes_of_one_that_is_not(folder):
    check_kills(folder, 3)


@pytest.mark.slow
def test_twenty_kills(folder):
    check_kills(folder, 20)


def test_no_worker_outlives_the_build(folder):
    started = Started(folder, settings_of(folder, "orphans", 200))
    while len(workers := started.workers()) < 2:
        assert started.process.poll() is None
        time.sleep(0.01)
    started.process.send_signal(signal.SIGKILL)
    started.end()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive


def test_a_full_disk_is_one_line_and_the_build_goes_on(folder):
    only_shards = {"knowledge": ["names"]}  # mining writes larger files
    whole = CorpusConfig(**settings_of(folder, "whole", 60), **only_shards)
    ensure_corpus(whole, list(TASKS), 1)
    sizes = {name: len(data) for name, data in bytes_of(whole.folder()).items() if name.endswith(".safetensors")}
    limit = sorted(sizes.values())[-3]
    settings = settings_of(folder, "full", 60) | only_shards
    status, message = Started(folder, settings, limit=limit).end()
    full = CorpusConfig(**settings)
    too_large = [name for name, size in sizes.items() if size > limit]
    assert status == 1
    assert any(message.startswith(f"error: cannot write {full.folder() / name}: ") for name in too_large)
    assert message.endswith("What is finished is kept: make room and run again.")
    ensure_corpus(full, list(TASKS), 1)
    assert bytes_of(full.folder()) == bytes_of(whole.folder())


MEMORY = """
import os, resource, sys
os.environ["TOKENIZERS_PARALLELISM"] = "false"
from corpus_tools.build import build_corpus
from corpus_tools.config import CorpusConfig
small, large = (CorpusConfig(**settings) for settings in eval(sys.argv[1]))
build_corpus(small, ["knowledge_masking", "sentence_distance"], 1)
with open("/proc/self/statm") as numbers:
    used = int(numbers.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000, used + 100_000_000))
try:
    build_corpus(large, ["knowledge_masking", "sentence_distance"], 1)
except OSError as error:
    sys.exit(f"error: {error}")
"""


def test_where_memory_runs_out_is_named(folder):
    small = settings_of(folder, "small", 30)
    giant = {"id": "giant", "text": "\n".join([english("giant")["text"]] * 4000)}
    more = write_jsonl(folder / "more.jsonl", [giant, english("doc 500")])
    tokenizer = f"{CorpusConfig(**small).folder() / 'tokenizer.json'}"
    large = {
        **small,
        "name": "large",
        "tokenizer": tokenizer,
        "shard_mb": 4,
        "max_document_mb": 50,
        "sources": ["docs.jsonl", more],
    }
    (folder / "memory.py").write_text(MEMORY)
    ended = subprocess.run(
        [sys.executable, "memory.py", repr((small, large))],
        env={**os.environ, "PYTHONPATH": f"{Path(__file__).parents[2]}"},
        capture_output=True,
        text=True,
    )
    message = ended.stderr.strip().splitlines()[-1]
    assert message.startswith("error: out of memory at documents/train/") and "longest item is 'giant'" in message


def test_a_file_that_cannot_be_read_is_named_and_the_rest_kept(folder):
    settings = settings_of(folder, "broken")
    (folder / "more.jsonl").symlink_to(folder / "gone.jsonl")
    settings["sources"].append("more.jsonl")
    status, message = Started(folder, settings).end()
    assert status == 1 and message.startswith("error: more.jsonl cannot be read: ")
    (folder / "more.jsonl").unlink()
    (folder / "more.jsonl.gz").write_bytes(b"\x1f\x8b\x08")
    settings["sources"][-1] = "more.jsonl.gz"
    status, message = Started(folder, settings).end()
    assert (status, message) == (1, "error: more.jsonl.gz is truncated after 0 documents. Fetch it again.")
    (folder / "more.jsonl.gz").unlink()
    settings["sources"].pop()
    assert Started(folder, settings).end()[0] == 0


def hostile(rng: random.Random) -> str:
    """A line of JSONL that somebody somewhere has in a corpus."""
    parts = [
        rng.choice(["\\u0001\\u001b[31m control"] * 9 + ["\\u0000"]),
        rng.choice(["\\ud83d\\ude00 surrogates"] * 9 + ["\\ud800 lone surrogate \\udfff"]),
        "кириллица and ελληνικά mixed with 漢字 and English.",
        "שלום עולם \\u202e right to left \\u202c مرحبا بالعالم.",
        "👩‍👩‍👧‍👦🏳️‍🌈👍🏽 e\\u0301\\u0301\\u0301 Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢",
        "\u3000全角　空格\u3000。",
        " " * rng.choice([10, 1_000_000]),
        "One short sentence. " * rng.choice([1, 10_000]),
        "no sentence at all " * 50,
        "<html><body><p onclick='x()'>Text &amp; more</p></body></html>",
        "[CLS] [SEP] [MASK] [PAD] ##ing ▁ [unused1]",
        "a" * rng.choice([50, 5_000]),
        "\\n\\n\\r\\n\\t\\u0085\\u2028\\u2029",
        "However, However, However, But,",
        "虽然，但是，虽然但是。" * 20,
        '\\"quote \\\\ slash',
        "\\ufeff\\u200b\\u200d\\u2060",
        "﷽" * 100,
        "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ①②③ ﬁ ǅ İstanbul ßẞ",
    ]
    text = "".join(rng.choice(parts) + rng.choice([" ", "\\n", ""]) for _ in range(rng.randint(0, 6)))
    title = rng.choice(parts) if rng.random() < 0.5 else ""
    shape = rng.randrange(12)
    if shape == 0:
        return rng.choice(["", "{", "[1, 2]", "null", '"text"', '{"text": 3}', '{"title": "x"}', '{"text": null}'])
    identity = rng.choice([f'"{rng.randint(0, 900)}"', f"{rng.randint(0, 900)}", "null"] * 5 + ['"\\u0000"', "1.5"])
    return f'{{"id": {identity}, "title": "{title}", "text": "{text}"}}'


@pytest.mark.parametrize("language", ["en", "zh"])
def test_hostile_documents_are_used_or_refused_and_counted(folder, language):
    rng = random.Random(language)
    lines = [hostile(rng) for _ in range(500)]
    good = [json.dumps(english(f"doc {n}")) for n in range(40)]
    (folder / "docs.jsonl").write_text("\n".join(lines + good), "utf-8")
    tasks = ["knowledge_masking", "token_document", "sentence_reordering", "sentence_distance"]
    config = CorpusConfig(
        name=language, language=language, sources=["docs.jsonl"], **{**SMALL, "min_tokens": 1, "shard_mb": 1}
    )
    ensure_corpus(config, tasks, 1)
    documents = read_manifest(config.folder())["documents"]
    assert documents["in"] == sum(1 for line in lines if line.strip()) + 40
    assert documents["in"] == documents["used"] + sum(documents["refused"].values())
    assert documents["used"] > 200
    assert {"not JSON", "no text key", "duplicate id"} <= documents["refused"].keys()
    refused = (config.folder() / "refused.jsonl").read_text("utf-8").splitlines()
    assert len(refused) == sum(documents["refused"].values())
