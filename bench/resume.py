"""How long a resumed run takes to its first step, early and after a thousand million instances.

    python bench/resume.py [--english FILES] [--rounds 3]

A run of all seven tasks (4 layers × 256) is killed after the checkpoint of step 100. It goes on from there, and from
the same checkpoint with its position set to 10^9 instances. Measured from starting the process to the record of the
first step, which is on disk when the step is done; a run that starts afresh stands beside it. The turns alternate,
figures are medians. The last line is one JSON object.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from corpus import documents_of, tasks_of, write

from corpus_tools.build import build_corpus
from pretrain.config import Config, resolved
from pretrain.run import reading_of

EARLY = 100
FAR = 10**9
RUN, KEPT = Path("runs/bench"), Path("kept")
CHECKPOINT = RUN / "stage1" / "checkpoints" / f"step{EARLY}"
COMMAND = [sys.executable, "-c", "from launch.cli import main; main()", "train", "bench.yaml"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--english", default="demo:en", help="documents: a file, folder or glob")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    documents = list(documents_of(arguments.english))
    seconds: dict[str, list[float]] = {"fresh": [], "early": [], "far": []}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write(documents, "en", 2, 8000)
        config = configure()
        Path("bench.yaml").write_text(yaml.safe_dump(resolved(config)))
        build_corpus(config.corpus, config.tasks, 2, notify=lambda line: None)
        train_until(CHECKPOINT.exists)
        shutil.copytree(RUN, KEPT, ignore=shutil.ignore_patterns("metrics.jsonl"))
        step = FAR // config.train.batch_size
        for _ in range(arguments.rounds):
            shutil.rmtree(RUN)
            seconds["fresh"].append(train_until(lambda: first_step(0)))
            go_back()
            seconds["early"].append(train_until(lambda: first_step(EARLY)))
            go_back()
            move(config, step)
            seconds["far"].append(train_until(lambda: first_step(step)))
    for name, what in {"fresh": "no checkpoint", "early": f"step {EARLY}", "far": f"{FAR:.0e} instances"}.items():
        rounds = " ".join(f"{value:.2f}" for value in seconds[name])
        print(f"from {what:16} first step after {statistics.median(seconds[name]):5.2f} s  (rounds: {rounds})")
    print(json.dumps({f"{name}_seconds": round(statistics.median(values), 3) for name, values in seconds.items()}))


def configure() -> Config:
    batch = 16
    return Config.model_validate({
        "name": "bench",
        "tasks": tasks_of("en"),
        "corpus": {"name": "bench", "sources": ["en.jsonl"], "tokenizer": "en.json"},
        "schedule": {"kind": "joint", "steps_per_task": FAR // batch},
        "train": {"batch_size": batch, "micro_batch_size": batch, "checkpoint_every": EARLY},
        "log": {"every": 1},
    })  # fmt: skip


def go_back() -> None:
    shutil.rmtree(RUN)
    shutil.copytree(KEPT, RUN)


def move(config: Config, step: int) -> None:
    """Let the checkpoint say that it stands at a step of the stage."""
    path = CHECKPOINT / "state.json"
    about, reading = json.loads(path.read_text()), reading_of(config, 1)
    positions = {task: reading.before(task, step) for task in config.tasks}
    about["state"] |= {"step": step, "run_step": step, "positions": positions}
    path.write_text(json.dumps(about))


def first_step(before: int) -> bool:
    """Whether the record of the step after `before` is there."""
    path = RUN / "metrics.jsonl"
    return path.exists() and f'"run_step": {before + 1},' in path.read_text()


def train_until(done: Callable[[], bool]) -> float:
    """Train until `done`, then kill; seconds."""
    begun = time.perf_counter()
    with subprocess.Popen(COMMAND, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while not done():
            if process.poll() is not None:
                assert process.stderr is not None
                raise RuntimeError(process.stderr.read())
            time.sleep(0.01)
        seconds = time.perf_counter() - begun
        process.kill()
    return seconds


if __name__ == "__main__":
    main()
