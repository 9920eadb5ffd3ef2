"""What a run on several hosts loses to a fault: hosts are network namespaces here, faults come at random steps.

python bench/faults.py [--rounds 3] [--fault NAME]...; needs root, openssh-server and pdsh. Each round starts a run on
three hosts with launch.restarts=3, breaks something, and lets it end. Columns: how often the run went on by itself to
its end with the losses of an unbroken run on one host; the most steps that were done twice; seconds from the fault to
the first new step, median and most. Checkpoints every 20 steps, launch.timeout=10, launch.first_timeout=60.
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from namespaces import Hosts, lacking

CUMUL = [sys.executable, "-c", "from launch.cli import main; main()"]
STEPS = 240
EVERY = 20
CONFIG = f"""
tasks: [knowledge_masking, sentence_distance]
corpus: {{name: faults, sources: [text.txt], vocab_size: 300, max_length: 32, validation_share: 0.3, min_tokens: 8}}
model: {{layers: 1, hidden: 16, heads: 2, dropout: 0, attention_dropout: 0}}
schedule: {{steps_per_task: {STEPS // 2}}}
train: {{batch_size: 12, warmup_steps: 2, companions: [knowledge_masking], checkpoint_every: {EVERY}, keep_last: 3}}
evaluate: {{instances: 16}}
log: {{every: 1}}
launch: {{restarts: 3, timeout: 10, first_timeout: 60}}
"""
RANK, LAUNCH, RUNNER = "-m launch.worker", "deepspeed.launcher.launch", "deepspeed.launcher.runner"
FAULTS: dict[str, Callable[[Hosts], object]] = {
    "SIGKILL of a rank": lambda hosts: hosts.kill("n1", RANK),
    "SIGKILL of rank 0": lambda hosts: hosts.kill("n0", RANK),
    "SIGTERM of a rank": lambda hosts: hosts.kill("n1", RANK, signal.SIGTERM),
    "SIGSTOP of a rank: it hangs": lambda hosts: hosts.kill("n1", RANK, signal.SIGSTOP),
    "SIGKILL of the launcher of a host": lambda hosts: hosts.kill("n1", LAUNCH),
    "SIGKILL of the launcher of all": lambda hosts: hosts.kill("n0", RUNNER),
    "SIGKILL of a whole host": lambda hosts: hosts.kill("n2"),
    "cable of a host cut": lambda hosts: hosts.cut("n2"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fault", action="append", choices=list(FAULTS))
    options = parser.parse_args()
    if reason := lacking():
        sys.exit(f"error: {reason}")
    root = Path(__file__).resolve().parent.parent
    os.environ |= {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_text(Path("text.txt"))
        Path("config.yaml").write_text(CONFIG)
        subprocess.run([*CUMUL, "train", "config.yaml", "name=whole"], check=True, capture_output=True)
        print("| fault | tried | went on | steps done twice, most | seconds to the next step, median (most) |")
        print("| --- | ---: | ---: | ---: | ---: |", flush=True)
        for name in options.fault or FAULTS:
            rounds = [play(name, number) for number in range(options.rounds)]
            good = [outcome for outcome in rounds if outcome]
            twice = max((outcome[0] for outcome in good), default=0)
            seconds = [outcome[1] for outcome in good] or [float("nan")]
            took = f"{statistics.median(seconds):.0f} ({max(seconds):.0f})"
            print(f"| {name} | {len(rounds)} | {len(good)} | {twice} | {took} |", flush=True)


def play(fault: str, number: int) -> tuple[int, float] | None:
    """Steps done twice and seconds without a step; None where the run did not go on as it should."""
    rng, name = Random(f"{fault} {number}"), f"run-{list(FAULTS).index(fault)}-{number}"
    net = Path(name).absolute()
    net.mkdir()
    with Hosts(net, 3) as hosts:
        run = hosts.start(*CUMUL, "train", "config.yaml", f"name={name}", f"--hostfile={net}/hosts")
        at = rng.randrange(5, STEPS - 40)
        wait_for(lambda: len(steps(name)) >= at, run)
        FAULTS[fault](hosts)
        begun, seen = time.monotonic(), len(steps(name))
        wait_for(lambda: first_after_restart(name), run)
        seconds, resumed = time.monotonic() - begun, first_after_restart(name)
        if not resumed:
            run.kill()
        out, _ = run.communicate(timeout=300)
    if run.returncode == 0 and resumed and same(steps("whole"), steps(name)):
        return max(0, seen - resumed + 1), seconds
    print(f"{fault}, after step {seen}:\n{out}", file=sys.stderr)
    return None


def wait_for(condition: Callable[[], object], run: subprocess.Popen) -> None:
    until = time.monotonic() + 240
    while not condition() and run.poll() is None and time.monotonic() < until:
        time.sleep(0.05)


def first_after_restart(name: str) -> int | None:
    """The step of the run with which it went on, as rank 0, now another process, says in its log."""
    log = Path(f"runs/{name}/logs/rank0.log").read_text()
    _, *starts = log.split(" rank 0 of ")[1:]
    for start in starts:
        if found := re.search(r" stage (\d+)/.* step (\d+)/", start):
            where = tuple(map(int, found.groups()))
            return next(record["run_step"] for record in steps("whole") if (record["stage"], record["step"]) == where)
    return None


def records(name: str, kind: str) -> list[dict]:
    path = Path(f"runs/{name}/metrics.jsonl")
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [record for line in lines if line.endswith("\n") and (record := json.loads(line))["kind"] == kind]


def steps(name: str) -> list[dict]:
    return records(name, "step")


def same(one: list[dict], other: list[dict]) -> bool:
    """The same instances in the same order, and losses equal to rounding."""
    if [record["tokens"] for record in one] != [record["tokens"] for record in other]:
        return False
    pairs = [(a["loss"], b["loss"]) for a, b in zip(one, other, strict=True)]
    return all(a.keys() == b.keys() and all(abs(a[t] - b[t]) <= 1e-4 * a[t] for t in a) for a, b in pairs)


def write_text(path: Path) -> None:
    rng, words = Random(0), ("river", "stone", "light", "garden", "winter", "music", "paper", "silver", "ocean")

    def paragraph() -> str:
        return " ".join(" ".join(rng.choices(words, k=8)).capitalize() + "." for _ in range(4))

    path.write_text("\n\n".join(f"{paragraph()}\n{paragraph()}" for _ in range(40)))


if __name__ == "__main__":
    main()
