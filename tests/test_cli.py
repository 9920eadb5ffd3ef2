import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest
from safetensors.numpy import load_file

from launch.cli import app, run

ROOT = Path(__file__).parent.parent
PAPER = str(ROOT / "configs/paper/base-en.yaml")
COMPARE = str(ROOT / "configs/compare/demo.yaml")

TINY = """
name: tiny
tasks: [knowledge_masking, sentence_distance]
corpus: {name: tiny, sources: [text.txt], vocab_size: 300, max_length: 32, validation_share: 0.3, min_tokens: 8}
model: {layers: 1, hidden: 16, heads: 2}
schedule: {steps_per_task: 8}
train: {batch_size: 4, micro_batch_size: 2, warmup_steps: 2, companions: [knowledge_masking]}
evaluate: {instances: 16}
log: {every: 1}
"""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A working directory with a text and a configuration."""
    rng, words = Random(0), ("river", "stone", "light", "garden", "winter", "music", "paper", "silver", "ocean")

    def paragraph() -> str:
        return " ".join(" ".join(rng.choices(words, k=8)).capitalize() + "." for _ in range(4))

    (tmp_path / "text.txt").write_text("\n\n".join(f"{paragraph()}\n{paragraph()}" for _ in range(40)))
    (tmp_path / "tiny.yaml").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cumul(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=300)


def command(*words: str) -> list[str]:
    return [sys.executable, "-c", "from launch.cli import main; main()", *words]


def fails(capsys, *words: str) -> tuple[int, str]:
    """Exit status and stderr of a command that does not succeed."""
    with pytest.raises(SystemExit) as end:
        run(lambda: app(list(words), prog_name="cumul"))
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [["--help"], ["plan", PAPER], ["results", PAPER], ["compare", COMPARE, "--list"], ["compare", COMPARE, "--report"]],
)
def test_what_trains_nothing_imports_no_torch(words, tmp_path):
    code = (
        "import sys\nfrom launch.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'deepspeed', 'datasets', 'wandb'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code, *words], check=True, cwd=tmp_path, capture_output=True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "tiny.yaml", "train.batchsize=3"], "Did you mean train.batch_size?"),
        (["plan", "nowhere.yaml"], "nowhere.yaml"),
        (["train", "tiny.yaml", "--stage", "3"], "stage 3 does not exist"),
        (["train", "tiny.yaml", "--stage", "2"], "make stage1 CONFIG=tiny.yaml"),
        (["results", "tiny.yaml"], "Train it: cumul train"),
        (["corpus", "show", "tiny.yaml", "--task", "sentence_distanc"], "Did you mean sentence_distance?"),
        (["corpus", "build", "tiny.yaml", "corpus.sources=[nothing.txt]"], "nothing.txt"),
    ],
)
def test_a_mistake_is_one_line_and_status_1(place, capsys, words, says):
    status, stderr = fails(capsys, *words)
    assert status == 1
    assert stderr.startswith("error: ") and stderr.count("\n") == 1
    assert says in stderr


@pytest.mark.parametrize(
    "words", [["trian"], ["train"], ["train", "tiny.yaml", "--stages", "1"], ["plan", "a", "--processes", "0"]]
)
def test_wrong_usage_is_status_2(place, capsys, words):
    assert fails(capsys, *words)[0] == 2


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_port_in_use_is_named_before_anything_runs(place, capsys, processes):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        status, stderr = fails(capsys, "train", "tiny.yaml", "--processes", processes, "--master-port", port)
    assert status == 1
    assert port in stderr and "--master-port" in stderr and stderr.count("\n") == 1
    assert not (place / "runs").exists()


def test_train_then_look_at_it(place):
    first = cumul("train", "tiny.yaml")
    assert first.returncode == 0, first.stderr
    assert "run: runs/tiny" in first.stdout and "Traceback" not in first.stderr
    table = cumul("results", "tiny.yaml").stdout
    assert "sentence_distance" in table and "–" in table
    again = cumul("train", "tiny.yaml")
    assert again.returncode == 0 and "nothing left to train" in again.stdout
    changed = cumul("train", "tiny.yaml", "train.lr=5e-4")
    assert changed.returncode == 1 and "train.lr was 0.0001" in changed.stderr


def test_doctor_says_what_is_missing_then_that_all_is_well(place):
    missing = cumul("doctor", "tiny.yaml")
    assert missing.returncode == 1 and "no corpus. Build it: cumul corpus build" in missing.stderr
    assert cumul("corpus", "build", "tiny.yaml").returncode == 0
    well = cumul("doctor", "tiny.yaml", "--processes", "2")
    assert well.returncode == 0, well.stderr
    assert "all is well" in well.stdout and "GB/s" in well.stdout and not well.stderr


@pytest.mark.slow
def test_ctrl_c_saves_and_another_number_of_ranks_goes_on(place):
    """Interrupt two ranks in stage 1, finish with one: every step is in the metrics once."""
    overrides = ["schedule.steps_per_task=600", "log.every=1"]
    metrics = place / "runs/tiny/metrics.jsonl"
    ranks = subprocess.Popen(
        command("train", "tiny.yaml", *overrides, "--processes", "2"),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )  # fmt: skip
    until = time.monotonic() + 200
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 20):
        assert ranks.poll() is None and time.monotonic() < until
        time.sleep(0.2)
    os.kill(ranks.pid, signal.SIGINT)
    said, _ = ranks.communicate(timeout=100)
    assert ranks.returncode == 130
    again = f"cumul train tiny.yaml {' '.join(overrides)} --processes=2"
    assert f"stopped and saved. To go on: {again}" in said and "Traceback" not in said
    assert (place / "runs/tiny/stage1/checkpoints/latest.json").exists()
    rest = cumul("train", "tiny.yaml", *overrides)
    assert rest.returncode == 0, rest.stderr
    steps = [
        record["run_step"] for record in map(json.loads, metrics.read_text().splitlines()) if record["kind"] == "step"
    ]
    assert steps == list(range(1, 1201))
    assert cumul("export", "tiny.yaml", *overrides).returncode == 0
    assert load_file(place / "runs/tiny/export/model.safetensors")


@pytest.mark.slow
def test_a_second_start_leaves_the_run_alone_and_the_file_stop_ends_it(place):
    """The file asks as Ctrl-C does: nothing was lost, so nothing starts again."""
    typed = ["tiny.yaml", "schedule.steps_per_task=20000", "log.every=5", "launch.restarts=2", "--processes", "2"]
    metrics, screen = place / "runs/tiny/metrics.jsonl", place / "screen"  # a pipe that nobody reads would stop them
    with screen.open("w") as out:
        ranks = subprocess.Popen(command("train", *typed), stdout=out, stderr=subprocess.STDOUT)
    until = time.monotonic() + 200
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 20):
        assert ranks.poll() is None and time.monotonic() < until
        time.sleep(0.2)
    for other in (["train", *typed], ["train", *typed[:-2]], ["doctor", *typed]):
        refused = cumul(*other)
        assert refused.returncode == 1 and "being trained by another process" in refused.stderr
    before, until = len(metrics.read_text().splitlines()), time.monotonic() + 60
    while len(metrics.read_text().splitlines()) <= before:
        assert ranks.poll() is None and time.monotonic() < until
        time.sleep(0.2)
    (place / "runs/tiny/stop").touch()
    assert ranks.wait(timeout=100) == 130
    said = screen.read_text()
    assert "stopped and saved" in said and "restart 1 of" not in said
    assert not (place / "runs/tiny/environment").exists()


@pytest.mark.slow
def test_a_failing_rank_fails_the_run(place):
    """A batch too small for two ranks is refused by the ranks, not before."""
    failed = cumul("train", "tiny.yaml", "train.batch_size=1", "--processes", "2")
    assert failed.returncode == 1
    assert "error: train.batch_size=1: 2 ranks need an instance each" in failed.stderr
    assert "Traceback" not in failed.stderr
