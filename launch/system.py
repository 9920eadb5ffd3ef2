"""What the launching side asks of the operating system."""

import os
import signal
import socket
from ctypes import CDLL

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def signal_when_parent_dies(number: signal.Signals) -> None:
    """Linux sends this process a signal when the process that started it is gone."""
    CDLL(None).prctl(PR_SET_PDEATHSIG, int(number))


def adopt_orphans() -> None:
    """Processes below this one whose parent dies become its children, so that it can wait for them."""
    CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def settle_accelerator() -> None:
    """Tell DeepSpeed what we know, before it is imported: else it warns, in every process, that there is no GPU."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def check_port(wanted: int) -> int:
    """Raises ValueError where something listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", wanted))
        except OSError as error:
            raise ValueError(
                f"port {wanted} cannot be used ({error.strerror}). Choose another with --master-port, or leave it out."
            ) from None
        return probe.getsockname()[1]
