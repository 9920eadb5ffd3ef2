"""The ranks of a run: who am I, what do we add up together."""

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import deepspeed
import torch
import torch.distributed as dist


@dataclass(frozen=True)
class World:
    rank: int
    size: int
    device: torch.device
    group: dist.ProcessGroup
    """For small numbers that the host needs: gloo, so that asking for them never waits for a GPU."""

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


def join() -> World:
    """Initialise torch.distributed through DeepSpeed, from the launcher's environment or as a world of one.

    On CPU DeepSpeed would compile its shared-memory all-reduce first, for a minute on every new machine; it serves
    inference only, so it is left out.
    """
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not dist.is_initialized():
        if "RANK" not in os.environ:
            port = os.environ.get("MASTER_PORT") or str(free_port())
            os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        try:
            deepspeed.init_distributed(dist_backend=None, verbose=False)
        except RuntimeError as error:
            if "EADDRINUSE" not in str(error):
                raise
            port = os.environ["MASTER_PORT"]
            raise ValueError(
                f"port {port} is in use by another process. Choose a free one with --master-port."
            ) from None
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    group = dist.new_group(backend="gloo")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
    return World(dist.get_rank(), dist.get_world_size(), device, group)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
