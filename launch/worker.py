"""One rank of a run: the program that a launcher starts once per device, `python -m launch.worker runs/NAME`.

Rank 0 writes on the screen, the others into runs/NAME/logs/rank<n>.log. The corpus must be there: `cumul train` sees to
it. How a rank failed is kept for the launcher (`launch.errors`).
"""

import argparse
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from launch import errors
from launch.cli import run
from launch.system import settle_accelerator, signal_when_parent_dies
from pretrain.config import Config, load_config
from pretrain.run import Typed, logs_of, rank_log, read_typed


def work(config: Config, typed: Typed) -> None:
    """Train as one of the ranks."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    from pretrain.report import Report
    from pretrain.train import train

    with Report(config, int(os.environ["RANK"])) as report:
        train(config, typed.stages or None, report, typed)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m launch.worker")
    parser.add_argument("run", type=Path)
    folder = parser.parse_args().run
    typed, hosts = read_typed(folder)
    config = load_config(folder / "config.yaml")
    if hosts:
        os.environ["CUMUL_HOST"] = hosts[int(os.environ["CROSS_RANK"])]
    be_rank(logs_of(config), lambda: work(config, typed))


def be_rank(logs: Path, work: Callable[[], None]) -> NoReturn:
    """Do the work of the rank that the environment says, and end; how it failed is kept in `logs`."""
    rank = int(os.environ["RANK"])
    signal_when_parent_dies(signal.SIGTERM)
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ["LOCAL_SIZE"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // ranks_here)))
    settle_accelerator()
    errors.record_of(logs, rank).unlink(missing_ok=True)
    if rank == 0:
        errors.clear(logs, least=int(os.environ["WORLD_SIZE"]))  # of a larger world before
    else:
        write_to(rank_log(logs, rank))
    status = 0
    try:
        work()
    except Exception as error:
        errors.keep(logs, rank, error)
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # at once: threads of the network may wait for ranks that are gone, or abort the process


def write_to(path: Path) -> None:
    """Let all that this process says go into a file, also what libraries say in C."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    with path.open("a") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())


if __name__ == "__main__":
    run(main)
