"""Carries out docs/adding_a_task.md: the files that it shows, its test, a corpus and a training with the new task."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "adding_a_task.md").read_text("utf-8")
FILES = re.compile(r"^`(\S+\.py)`\n\n```(python|diff)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CONFIG = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[0]
TINY = """
corpus.vocab_size=300 corpus.max_length=32 corpus.validation_share=0.3 corpus.min_tokens=8 model.layers=1
model.hidden=16 model.heads=2 schedule.steps_per_task=3 train.batch_size=4 train.micro_batch_size=4 evaluate.instances=8
"""
COMMANDS = """
import sys
from launch.cli import app, run
for command in sys.argv[1:]:
    print(f"$ {command}", flush=True)
    run(lambda: app(command.split(), standalone_mode=False))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The packages with the page's files in them, a text, and the page's configuration."""
    copy = tmp_path_factory.mktemp("copy")
    for package in ("pretrain", "corpus_tools", "launch", "tests/tasks"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, kind, text in FILES.findall(PAGE):
        path = copy / name
        if kind == "python":
            assert not path.exists()
            path.write_text(text, "utf-8")
        else:
            lines = text.splitlines(keepends=True)
            before = "".join(line[1:] for line in lines if line[0] != "+")
            assert path.read_text("utf-8").count(before) == 1
            path.write_text(path.read_text("utf-8").replace(before, "".join(line[1:] for line in lines)), "utf-8")
    rng, words = Random(0), ("river", "stone", "light", "garden", "winter", "music", "paper", "silver", "ocean")
    sentences = [" ".join(rng.choices(words, k=6)).capitalize() + "." for _ in range(240)]
    (copy / "text").mkdir()
    (copy / "text" / "all.txt").write_text("\n\n".join(" ".join(sentences[i : i + 8]) for i in range(0, 240, 8)))
    (copy / "order.yaml").write_text(CONFIG)
    return copy


def python(copy: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    return subprocess.run(
        [sys.executable, *words], cwd=copy, env=environment, capture_output=True, text=True, timeout=300
    )


def test_it_is_one_module_one_line_and_one_test():
    shown = FILES.findall(PAGE)
    assert [kind for _, kind, _ in shown] == ["python", "diff", "python"]
    assert re.findall("^[+-].*", shown[1][2], re.MULTILINE) == ['+    "sentence_order",']
    assert Path(shown[0][0]).parent == Path("pretrain/tasks") and Path(shown[2][0]).parent == Path("tests/tasks")


def test_the_test_shown_passes_and_those_of_all_tasks_too(copy):
    tests = ["tests/tasks/test_sentence_order.py", "tests/tasks/test_registry.py"]
    done = python(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
    assert done.returncode == 0, done.stdout
    assert re.search(r"\b\d{2,} passed", done.stdout)


def test_the_task_is_built_trained_measured_and_exported(copy):
    tiny = " ".join(TINY.split())
    commands = [f"{verb} order.yaml {tiny}" for verb in ("corpus build", "corpus show", "train", "export")]
    done = python(copy, "-c", COMMANDS, *commands)
    assert done.returncode == 0, done.stderr
    assert "label: swapped" in done.stdout or "label: in order" in done.stdout
    records = [json.loads(line) for line in (copy / "runs/order/metrics.jsonl").read_text().splitlines()]
    assert {r["task"] for r in records if r["kind"] == "step"} == {"knowledge_masking", "sentence_order"}
    last = records[-1]
    assert (last["kind"], last["task"]) == ("evaluation", "sentence_order") and last["targets"] > 0
    exported = json.loads((copy / "runs/order/export/tasks.json").read_text())["sentence_order"]
    assert exported["labels"] == ["in order", "swapped"]


def test_a_corpus_older_than_the_task_is_refused_as_the_page_says(copy):
    tiny = " ".join(TINY.split()) + " corpus.name=old"
    done = python(
        copy,
        "-c",
        COMMANDS,
        f"corpus build order.yaml tasks=[knowledge_masking] {tiny}",
        f"corpus build order.yaml {tiny}",
    )
    assert done.returncode == 1
    (shown,) = re.findall("^    (error: .*)$", PAGE, re.MULTILINE)
    assert done.stderr.splitlines()[-1] == shown.replace("corpora/order", "corpora/old")
