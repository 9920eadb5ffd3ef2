"""Where the tasks of a build run: processes of this machine, a Slurm cluster, a Ray cluster. datatrove's executors.

A task that is finished leaves a marker, `completions/00000` in the folder of its stage; run again, a stage does what is
left. Slurm and Ray need the folder on a disk that all machines see.
"""

import errno
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stderr
from copy import deepcopy
from multiprocessing import get_context, parent_process
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor
from datatrove.executor.base import PipelineExecutor
from datatrove.pipeline.base import PipelineStep
from loguru import logger

from corpus_tools.config import CorpusConfig
from corpus_tools.shards import KEPT

POLL = 2.0
"""Seconds between looks at what a cluster has finished."""
TRIES = 3
"""Times that a cluster gets for a stage."""
FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
"""No room, as a file system tells it to datatrove; our own writes name their file themselves."""


class Processes:
    """Worker processes, started when the first stage needs them and kept for the next."""

    def __init__(self, number: int):
        self.number = number
        self.pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(wait=False, cancel_futures=True)  # they end while the manifest is written

    def submit(self, function: Callable[[int], int], rank: int) -> Future[int]:
        if self.pool is None:
            # spawn: a fork of a process whose tokenizer has started threads may hang
            self.pool = ProcessPoolExecutor(self.number, get_context("spawn"), start_worker)
        return self.pool.submit(function, rank)


def run(
    steps: Sequence[PipelineStep],
    tasks: int,
    folder: Path,
    config: CorpusConfig,
    processes: Processes,
    origin: Callable[[int], str],
    done: Callable[[int], None],
) -> None:
    """Run the tasks of a stage that are not finished, and call `done` with the rank of every one that is.

    `folder` takes markers and logs; `origin` names what a task reads. Raises what a task raises: ValueError, OSError.
    """
    executor = make_executor(steps, tasks, folder.absolute(), config, processes.number)
    left = executor.get_incomplete_ranks()
    for rank in sorted(set(range(tasks)) - set(left)):
        done(rank)
    try:
        if isinstance(executor, LocalPipelineExecutor):
            run_here(executor, left, processes, origin, done)
        else:
            run_there(executor, folder, done)
    except OSError as error:
        if error.errno in FULL:
            raise OSError(f"cannot write below {folder}: {error.strerror}. {KEPT}") from None
        raise


def make_executor(
    steps: Sequence[PipelineStep], tasks: int, folder: Path, config: CorpusConfig, workers: int
) -> PipelineExecutor:
    logger.disable("datatrove")  # in this process: the user is told by the meter, and by `told`
    if config.executor == "local":
        return LocalPipelineExecutor(list(steps), tasks, workers, f"{folder}")
    if config.executor == "ray":
        import ray  # an optional package

        if not ray.is_initialized():
            # RAY_ADDRESS names the cluster; without it, one on this machine
            ray.init(log_to_driver=False, logging_level=logging.WARNING)
        slots = min(workers, int(ray.cluster_resources()["CPU"]))
        return RayPipelineExecutor(list(steps), tasks, slots, logging_dir=f"{folder}")
    slurm = config.slurm
    if shutil.which("sbatch") is None:
        raise ValueError("corpus.executor=slurm needs sbatch: run this on a machine that submits to Slurm.")
    if shlex.quote(f"{folder}") != f"{folder}":
        raise ValueError(f"corpus.executor=slurm: {folder} holds a character that a shell reads. Rename it.")
    return SlurmPipelineExecutor(
        list(steps),
        tasks,
        slurm.time,
        slurm.partition,
        cpus_per_task=slurm.cpus_per_task,
        mem_per_cpu_gb=slurm.mem_per_cpu_gb,
        tasks_per_job=slurm.tasks_per_job,
        qos=slurm.qos,
        job_name=f"cumul-{folder.name}",
        env_command=f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH",
        sbatch_args={**slurm.arguments, "wait": ""},  # the stages depend on each other: wait for every one
        logging_dir=f"{folder}",
        mail_type="NONE",
    )


def run_here(
    executor: LocalPipelineExecutor,
    left: Sequence[int],
    processes: Processes,
    origin: Callable[[int], str],
    done: Callable[[int], None],
) -> None:
    """Instead of datatrove's own pool, which waits for ever when a process is killed."""
    task = Task(executor)
    if processes.number == 1 or len(left) < 2:
        for rank in left:
            with memory(origin, rank):
                done(task(rank))
        return
    running: dict[Future[int], int] = {}
    waiting = iter(left)
    try:
        while True:
            for rank in waiting:
                running[processes.submit(task, rank)] = rank
                if len(running) > processes.number:
                    break
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                with memory(origin, running[future]):
                    done(future.result())
                del running[future]
    except BrokenProcessPool:
        places = "; ".join(sorted({origin(rank) for rank in running.values()}))
        raise OSError(
            "a worker process was killed, often for want of memory. It was at one of: "
            f"{places}. Run again, with fewer workers or a lower corpus.shard_mb: finished work is kept."
        ) from None
    finally:
        for future in running:
            future.cancel()


@contextmanager
def memory(origin: Callable[[int], str], rank: int) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise OSError(
            f"out of memory at {origin(rank)}. Lower corpus.max_document_mb or corpus.shard_mb, or run fewer workers."
        ) from None


class Task:
    """Runs one rank of an executor, whose log goes to its file alone."""

    def __init__(self, executor: LocalPipelineExecutor):
        self.executor = executor

    def __call__(self, rank: int) -> int:
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            deepcopy(self.executor)._run_for_rank(rank)
        return rank


def start_worker() -> None:
    """Ctrl-C is for the parent to handle, one process is one core, and a worker ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def run_there(executor: PipelineExecutor, folder: Path, done: Callable[[int], None]) -> None:
    """On a cluster, which may lose a task: what is not finished and says no reason is tried again."""
    for attempt in range(1, TRIES + 1):
        failed = ""
        try:
            with watched(executor, done):
                executor.run()
        except subprocess.CalledProcessError:
            failed = "sbatch: "
        missing = executor.get_incomplete_ranks()
        if not missing:
            return
        reason = told(folder, missing)
        if reason or attempt == TRIES:
            reason = reason or f"Their logs: {folder / 'logs'}"
            raise OSError(f"{failed}{len(missing)} of {executor.world_size} tasks are not finished. {reason}")


@contextmanager
def watched(executor: PipelineExecutor, done: Callable[[int], None]) -> Iterator[None]:
    """Calls `done` for tasks that a cluster finishes meanwhile."""
    left = set(executor.get_incomplete_ranks())
    over = threading.Event()

    def look() -> None:
        for rank in sorted(left - set(executor.get_incomplete_ranks())):
            left.remove(rank)
            done(rank)

    def watch() -> None:
        while not over.wait(POLL):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        look()


def told(folder: Path, ranks: Sequence[int]) -> str:
    """What the log of the first task that failed says, and where it lies; empty where none says anything."""
    for rank in ranks:
        log = folder / "logs" / f"task_{rank:05}.log"
        if log.exists():
            found = re.findall(
                r"^(?:\w+\.)*\w+(?:Error|Exception): (.+)$", log.read_text("utf-8", "replace"), re.MULTILINE
            )
            if found:
                return f"{found[-1]} ({log})"
    return ""
