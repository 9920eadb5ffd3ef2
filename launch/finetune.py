"""The shared training of `cumul finetune --together` in several ranks of this machine.

As a program, `python -m launch.finetune FOLDER`, it is one rank; the request lies in the folder.
"""

import argparse
import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from launch import errors
from launch.cli import run
from launch.ranks import LAUNCHER_SAYS, QUIET, command_here, devices, kill, start
from launch.system import check_port, settle_accelerator
from launch.worker import be_rank

if TYPE_CHECKING:
    from finetune.suite import InRanks
    from finetune.together import Request

MODULE = "launch.finetune"
REQUEST, LOGS = "request.json", "logs"


def in_ranks(processes: int) -> "InRanks":
    """Raises ValueError where there are too few GPUs."""
    devices(processes)
    return partial(train_together, processes)


def train_together(processes: int, request: "Request", say: Callable[[str], object]) -> None:
    """Start ranks, pass on what rank 0 says, and see that nothing of them is left behind. Raises ChildProcessError with
    what went wrong."""
    logs = request.folder / LOGS
    errors.clear(logs)
    request.folder.mkdir(parents=True, exist_ok=True)
    (request.folder / REQUEST).write_text(request.model_dump_json(), "utf-8")
    settle_accelerator()
    launcher = start(
        command_here(processes, check_port(0), MODULE, request.folder), QUIET | os.environ, subprocess.PIPE, None
    )
    assert launcher.stdout is not None
    try:
        for line in launcher.stdout:
            if LAUNCHER_SAYS not in line:
                say(line.rstrip("\n"))
        status = launcher.wait()
    finally:
        if launcher.poll() is None:
            kill(launcher)
    if status:
        ended = errors.cause(logs)
        raise ChildProcessError(ended.line() if ended else f"the ranks ended; what they said is above, or in {logs}")


def work(folder: Path) -> None:
    from finetune.together import Request, train_together

    request = Request.model_validate_json((folder / REQUEST).read_bytes())
    train_together(request, request.read(), partial(print, flush=True))


def main() -> None:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    be_rank(folder / LOGS, lambda: work(folder))


if __name__ == "__main__":
    run(main)
