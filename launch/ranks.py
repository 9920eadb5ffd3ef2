"""Starting the ranks of one machine: this process alone, or several under DeepSpeed's launcher.

Ctrl-C reaches a terminal's whole foreground group, and DeepSpeed's launcher answers it by killing the ranks before they
can save. So the launcher gets a session of its own, and `cumul` passes the signal on to the ranks, which finish their
step and save. A second Ctrl-C ends everything at once.
"""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress

from pretrain.run import Typed

WORKER = "launch.worker"


def train_here(typed: Typed, port: int) -> None:
    """Be the only rank."""
    os.environ |= {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": f"{port}",
    }
    settle_accelerator()
    from launch.worker import work

    work(typed)


def train_together(typed: Typed, port: int) -> int:
    """Start the ranks, wait for them, and return their exit status."""
    settle_accelerator()
    environment = dict(os.environ)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // typed.processes)))
    launcher = subprocess.Popen(
        [
            *(sys.executable, "-m", "deepspeed.launcher.runner", "--quiet", *devices(typed.processes)),
            *("--master_port", str(port), "--no_local_rank", "--module", WORKER),
            *(str(typed.path), *typed.overrides, *(f"--stage={stage}" for stage in typed.stages)),
        ],
        env=environment,
        start_new_session=True,
    )
    asked = False

    def stop(number: int, frame: object) -> None:
        nonlocal asked
        ranks = [] if asked else ranks_under(launcher.pid)
        for rank in ranks:
            os.kill(rank, signal.SIGINT)
        if not ranks:
            os.killpg(launcher.pid, signal.SIGTERM)
        asked = True

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in signals}
    try:
        status = launcher.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status


def devices(processes: int) -> list[str]:
    """The launcher's options for that many ranks here. Raises ValueError where there are too few GPUs for them.

    Given a number, the launcher would forget CUDA_VISIBLE_DEVICES; without one it takes all that are visible.
    """
    import torch

    if not torch.cuda.is_available():
        return ["--num_gpus", str(processes)]
    if processes > torch.cuda.device_count():
        raise ValueError(f"--processes {processes}: only {torch.cuda.device_count()} GPUs are visible here.")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return ["--num_gpus", str(processes)]
    return ["--include", "localhost:" + ",".join(visible.split(",")[:processes])]


def ranks_under(launcher: int) -> list[int]:
    """Process ids of the ranks that a launcher has started."""
    import psutil

    below = psutil.Process(launcher).children(recursive=True)
    found = []
    for process in below:
        with suppress(psutil.NoSuchProcess):
            if process.cmdline()[2:4] == ["-m", WORKER]:
                found.append(process.pid)
    return found


def settle_accelerator() -> None:
    """Tell DeepSpeed what we know, before it is imported: else it warns, in every process, that there is no GPU."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def free_port(wanted: int | None) -> int:
    """`wanted` if nothing listens there, or any free one. Raises ValueError where it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", wanted or 0))
        except OSError as error:
            raise ValueError(
                f"port {wanted} cannot be used ({error.strerror}). Choose another with --master-port, or leave it out."
            ) from None
        return probe.getsockname()[1]
