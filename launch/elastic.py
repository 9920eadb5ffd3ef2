"""Ranks of many hosts without ssh: every host runs the same command, as Slurm and Kubernetes start it.

Each starts an agent of torch's elastic launcher (this module as a program). Agents meet at the rendezvous, start their
ranks, and where a host or a rank is lost all start them again with the hosts that are there, from the last checkpoint.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial

import psutil

from launch import errors
from launch.ranks import WORKER
from launch.system import adopt_orphans, settle_accelerator, signal_when_parent_dies
from pretrain.config import Config
from pretrain.run import Typed, finished, logs_of, write_typed

SAVING = 300
"""Seconds that ranks have to save after a signal."""
RESOLVED = 60
"""Seconds in which the name of the rendezvous must be known: Kubernetes makes it when the pod is there."""


def train_together(config: Config, typed: Typed, wanted: list[int]) -> bool:
    """Be the agent of this host until all is trained, or a stop is asked for; whether by a signal to this host alone.

    After a signal the others go on without this host. Raises ChildProcessError with what went wrong.
    """
    settle_accelerator()
    adopt_orphans()
    write_typed(config, typed, [])
    launcher = subprocess.Popen(
        command(config, typed),
        # shared, the port of a lost rank's store would be used again too soon
        env={"TORCH_CPP_LOG_LEVEL": "ERROR", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"} | os.environ,
        start_new_session=True,
        preexec_fn=partial(signal_when_parent_dies, signal.SIGTERM),
    )
    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        if not asked:
            launcher.send_signal(signal.SIGTERM)
        asked = True

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ask)
    status = launcher.wait()
    psutil.wait_procs(psutil.Process().children(recursive=True), timeout=SAVING)  # ranks may still be saving
    if status and not asked and not all(finished(config, number) for number in wanted):
        ended = errors.cause(logs_of(config))
        raise ChildProcessError(ended.line() if ended else f"the ranks ended with status {status}")
    return asked


def command(config: Config, typed: Typed) -> list[str]:
    """torch's launcher with the rendezvous. Raises ValueError where its place is no HOST:PORT."""
    assert typed.rendezvous is not None and typed.nodes is not None
    host, _, port = typed.rendezvous.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"--rendezvous {typed.rendezvous}: not HOST:PORT.")
    least, _, most = typed.nodes.partition(":")
    if not (least.isdigit() and (most or least).isdigit() and 0 < int(least) <= int(most or least)):
        raise ValueError(f"--nodes {typed.nodes}: not MIN:MAX, nor a number.")
    address, own = resolve(host), {a.address for all in psutil.net_if_addrs().values() for a in all}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, int(port)))
        local = probe.getsockname()[0]
    return [
        *(sys.executable, "-m", "launch.elastic", f"--nnodes={typed.nodes}"),
        *(f"--nproc-per-node={typed.processes}", f"--max-restarts={config.launch.restarts}"),
        *("--rdzv-backend=c10d", f"--rdzv-endpoint={typed.rendezvous}", f"--rdzv-id={config.name}"),
        *(f"--rdzv-conf=is_host={int(address in own)}", f"--local-addr={local}", f"--shutdown-timeout={SAVING}"),
        *("--module", WORKER, str(config.folder())),
    ]


def resolve(host: str) -> str:
    until = time.monotonic() + RESOLVED
    while True:
        try:
            return socket.gethostbyname(host)
        except OSError:
            if time.monotonic() > until:
                raise ValueError(f"--rendezvous {host}: no such host is known here.") from None
        time.sleep(1)


def main() -> None:
    """torch's launcher, without a traceback where it was asked to end."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.run import main

    try:
        main()
    except SignalException as end:
        sys.exit(128 + end.sigval)


if __name__ == "__main__":
    main()
