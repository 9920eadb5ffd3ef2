"""Running the runs of a comparison: here, one after another or several at once, or one of them as a job elsewhere."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from launch import ranks
from launch.system import check_port, settle_accelerator, signal_when_parent_dies
from pretrain.compare.answers import FILE
from pretrain.compare.experiment import CompareConfig, Job, jobs, load_compare
from pretrain.compare.runs import DOWNSTREAM, downstream_of, is_fine_tuned, is_finished
from pretrain.config import one_of
from pretrain.report import clock, tell_wandb
from pretrain.run import Typed, claim_folder, finished, is_locked, log_of

POLL = 0.5
TELL = 30.0
"""Seconds between lines on how far the runs are."""
TAIL = 10_000


class Running(NamedTuple):
    job: Job
    process: subprocess.Popen
    slot: int
    begun: float


def run_job(compare: CompareConfig, job: Job) -> bool:
    """Train, measure, export and fine-tune one run, or what is left of it; False where it was asked to stop."""
    config = job.config
    claim_folder(config)
    typed = Typed(config.folder() / "config.yaml")
    wanted = range(1, len(config.stages()) + 1)
    if not all(finished(config, number) for number in wanted):
        ranks.train_here(config, typed, check_port(0))
        if not all(finished(config, number) for number in wanted):
            return False
    settle_accelerator()
    if not (config.folder() / FILE).exists():
        from pretrain.compare.measure import measure

        measure(config)
    if not is_fine_tuned(compare, config.folder() / DOWNSTREAM):
        from pretrain.export import export

        scores = fine_tune(compare, str(export(config)), config.folder() / DOWNSTREAM)
        tell_wandb(config, {f"{DOWNSTREAM}/{task}": score for task, score in scores.items()})
    return True


def fine_tune(compare: CompareConfig, checkpoint: str, folder: Path) -> dict[str, float]:
    """On every suite; returns the mean over the seeds of each task."""
    from finetune import load_suite, run_suite

    data, seeds, results = None if compare.data is None else Path(compare.data), range(compare.finetune_seeds), []
    suites = [load_suite(Path(path)) for path in compare.downstream]
    for name in compare.downstream_tasks:
        one_of(name, [task for suite in suites for task in suite], "downstream task")
    for suite in suites:
        wanted = [task for task in suite if not compare.downstream_tasks or task in compare.downstream_tasks]
        results += run_suite(suite, checkpoint, data, seeds, folder, wanted)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "done.json").write_text(json.dumps(downstream_of(compare)) + "\n")
    tasks = dict.fromkeys(result.task for result in results)
    return {task: mean(result.score for result in results if result.task == task) for task in tasks}


def fine_tune_beside(compare: CompareConfig, say: Callable) -> None:
    """The checkpoints that stand beside the arms."""
    for checkpoint in compare.beside:
        say(f"{checkpoint}, to stand beside the arms")
        fine_tune(compare, checkpoint, compare.folder() / "beside")


def run_all(compare: CompareConfig, path: Path, overrides: Sequence[str], at_once: int, say: Callable) -> bool:
    """Every run that is not finished, each in a process of its own; False where the user asked to stop.

    Ctrl-C lets all runs save. Raises ChildProcessError, after the others have ended, where some failed.
    """
    planned = jobs(compare)
    waiting = deque((number, job) for number, job in enumerate(planned, 1) if not is_finished(compare, job))
    done, took, failed, told = len(planned) - len(waiting), list[float](), list[str](), time.monotonic()
    say(f"{compare.name}: {len(planned)} runs, {done} of them finished before")
    running: list[Running] = []
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                number, job = waiting.popleft()
                if is_locked(job.config):
                    say(f"{job.name} is being trained elsewhere: left to it")
                    continue
                slot = min(set(range(at_once)) - {run.slot for run in running})
                running.append(Running(job, start(path, overrides, number, job, slot, at_once), slot, time.monotonic()))
                say(f"{job.name} begins")
            for run in [run for run in running if run.process.poll() is not None]:
                running.remove(run)
                took.append(time.monotonic() - run.begun)
                if run.process.returncode:
                    failed.append(f"{run.job.name}: {last_line(log_of_job(run.job))}")
                    say(f"{run.job.name} failed: {failed[-1]}")
                    continue
                done += 1
                say(f"{run.job.name} is finished, after {clock(took[-1])}; {done} of {len(planned)}")
            if running and time.monotonic() - told > TELL:
                told = time.monotonic()
                for run in running:
                    say(progress_line(run.job))
                left = time_left(took, running, len(waiting), at_once)
                say(f"{done} of {len(planned)} runs are finished, {len(waiting)} wait{left}")
            time.sleep(POLL)
    except KeyboardInterrupt:
        say("stopping: the runs save")
        for run in running:
            run.process.send_signal(signal.SIGINT)
        for run in running:
            run.process.wait()
        return False
    if failed:
        said = "; ".join(failed)
        raise ChildProcessError(f"{len(failed)} runs failed; the same command tries them again. {said}")
    return True


def start(path: Path, overrides: Sequence[str], number: int, job: Job, slot: int, at_once: int) -> subprocess.Popen:
    """A run in a process, with its share of the cores and a GPU of its own where there are several."""
    environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // at_once))} | os.environ
    if "CUDA_VISIBLE_DEVICES" not in environment and at_once > 1 and (gpus := count_gpus()):
        environment["CUDA_VISIBLE_DEVICES"] = str(slot % gpus)
    log = log_of_job(job)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "launch.compare", str(path), str(number), *overrides],
            env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip


def count_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def log_of_job(job: Job) -> Path:
    return log_of(job.config, 0).with_name("job.log")


def last_line(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return f"{lines[-1]} (see {path})" if lines else f"see {path}"


def progress_line(job: Job) -> str:
    """Where a run stands, from its last record."""
    path = job.config.folder() / "metrics.jsonl"
    lines = tail(path) if path.exists() else []
    steps = [record for line in lines if (record := json.loads(line))["kind"] == "step"]
    if not steps:
        return f"{job.name}: {last_line(log_of_job(job))}"
    step = steps[-1]
    return (
        f"{job.name}: stage {step['stage']}/{step['num_stages']}, step {step['step']}/{step['num_steps']}, "
        f"{step['tokens_per_second']:,.0f} tok/s, training left {clock(step['seconds_left'])}"
    )


def tail(path: Path) -> list[str]:
    """The last whole lines of a file."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL))
        lines = file.read().decode(errors="replace").splitlines(keepends=True)
    return [line for line in lines[1 if size > TAIL else 0 :] if line.endswith("\n")]


def time_left(took: Sequence[float], running: Sequence[Running], waiting: int, at_once: int) -> str:
    """From the runs that ended; nothing before one has."""
    if not took:
        return ""
    each = mean(took)
    begun = sum(max(0.0, each - (time.monotonic() - run.begun)) for run in running)
    return f", {clock((begun + waiting * each) / at_once)} left"


def main() -> None:
    path, number, *overrides = sys.argv[1:]
    signal_when_parent_dies(signal.SIGTERM)
    compare = load_compare(Path(path), overrides)
    if not run_job(compare, jobs(compare)[int(number) - 1]):
        raise KeyboardInterrupt


if __name__ == "__main__":
    from launch.cli import run

    run(main)
