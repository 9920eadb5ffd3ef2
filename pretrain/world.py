"""The ranks of a run: who am I, what do we add up together, who is missing."""

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from threading import Thread

import deepspeed
import psutil
import torch
import torch.distributed as dist

from pretrain.run import own_name

GRACE = 10.0
"""Seconds in which ranks that have lost others say that they themselves are there."""


@dataclass(frozen=True)
class World:
    rank: int
    size: int
    device: torch.device
    group: dist.ProcessGroup
    """For small numbers that the host needs: gloo, so that asking for them never waits for a GPU."""
    hosts: tuple[str, ...]
    """Of every rank, as its user calls it."""

    @property
    def main(self) -> bool:
        return self.rank == 0

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Element-wise over all ranks. Collective."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total, group=self.group)
        return total.tolist()

    def gather(self, thing: object) -> list:
        """One entry per rank, in rank order. Collective."""
        if self.size == 1:
            return [thing]
        things: list = [None] * self.size
        dist.all_gather_object(things, thing, group=self.group)
        return things

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier(group=self.group)

    def wait_at_most(self, seconds: float) -> None:
        """How long collectives wait for a rank from now on, those of the groups that DeepSpeed makes too."""
        for group in dist.distributed_c10d._world.pg_map:
            dist.distributed_c10d._set_pg_timeout(timedelta(seconds=seconds), group)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Turns the failure of a collective into a ConnectionError that names the ranks that are missing."""
        try:
            yield
        except RuntimeError as error:
            if not is_network(error):
                raise
            reason = str(error).splitlines()[0].rpartition("] ")[2]
            raise ConnectionError(f"{self.lost()} ({reason[:200]})") from None

    def lost(self) -> str:
        """Who does not answer. Ranks that have lost others meet in the store that rank 0 holds."""
        missing = [0]

        def ask() -> None:
            nonlocal missing
            missing = self.missing()

        asking = Thread(target=ask, daemon=True)
        asking.start()
        asking.join(2 * GRACE)  # where the cable is cut the store may never answer, and knows no timeout of its own
        if self.main and missing:
            time.sleep(GRACE / 2)  # others may still be asking
        if not missing:
            return "the ranks lost each other, and all are still there: the network between them failed"
        names = ", ".join(f"rank {rank} on {self.hosts[rank]}" for rank in missing)
        return f"of {self.size} ranks {len(missing)} ended or did not answer: {names}"

    def missing(self) -> list[int]:
        """The ranks that do not say within seconds that they are there."""
        store = dist.distributed_c10d._get_default_store()
        present = {rank: f"present/{rank}" for rank in range(self.size)}
        try:
            store.set(present[self.rank], "")
            until = time.monotonic() + GRACE
            while time.monotonic() < until and not store.check(list(present.values())):
                time.sleep(0.2)
            return [rank for rank, key in present.items() if not store.check([key])]
        except RuntimeError:
            return [0]


def is_network(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def join(timeout: float = 900) -> World:
    """Initialise torch.distributed through DeepSpeed, from the launcher's environment or as a world of one.

    `timeout`: seconds that ranks wait for each other. On CPU DeepSpeed would compile its shared-memory all-reduce
    first, for a minute on every new machine; it serves inference only, so it is left out. Raises ValueError where the
    port is taken, ConnectionError where the ranks do not meet.
    """
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    patience = timedelta(seconds=timeout)
    if not dist.is_initialized():
        if "RANK" not in os.environ:
            port = os.environ.get("MASTER_PORT") or str(free_port())
            os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        choose_interface(os.environ["MASTER_ADDR"])
        try:
            deepspeed.init_distributed(dist_backend=None, verbose=False, timeout=patience)
        except RuntimeError as error:
            port, place = os.environ["MASTER_PORT"], f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            if "EADDRINUSE" in str(error):
                raise ValueError(
                    f"port {port} is in use by another process. Choose a free one with --master-port."
                ) from None
            if not is_network(error):
                raise
            raise ConnectionError(
                f"the {os.environ['WORLD_SIZE']} ranks did not meet at {place} within {timeout:.0f} s "
                f"({str(error).splitlines()[0][:200]}). Some never started, or a firewall is between: ask cumul doctor."
            ) from None
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    group = dist.new_group(backend="gloo", timeout=patience)
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
    alone = World(dist.get_rank(), dist.get_world_size(), device, group, ())
    return replace(alone, hosts=tuple(alone.gather(own_name())))


@contextmanager
def joined(timeout: float = 900) -> Iterator[World]:
    """A world for a while: who made one of its own, alone, is out of it afterwards, as if it had never been there."""
    launched, before = dist.is_initialized() or "RANK" in os.environ, dict(os.environ)
    world = join(timeout)
    try:
        yield world
    finally:
        if not launched:
            deepspeed.comm.destroy_process_group()
            os.environ.clear()
            os.environ |= before


def choose_interface(master: str) -> None:
    """Let gloo and NCCL use the interface that leads to `master`, unless the user chose: they would guess by name."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((master, 9))
        own = probe.getsockname()[0]
        for name, addresses in psutil.net_if_addrs().items():
            if own in [address.address for address in addresses]:
                os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
                os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
