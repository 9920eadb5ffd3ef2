"""What a cluster makes of a run: traffic, time and storage, by formula. Torch-free.

Rings are assumed, as NCCL and gloo use them: an all-reduce of S bytes lets every rank send 2 (n-1)/n S, an all-gather
or a reduce-scatter half of that. A ring of many nodes leaves each node once, so the network card of a node sends what
one rank sends, however many GPUs share it. Nothing is counted as hidden behind computing: no reduction starts before
the backward pass is done.
"""

from typing import NamedTuple

NUMBER = 4
"""Bytes of a weight, a moment, and a gradient unless it travels in bf16."""
TOKEN = 3.7
"""Bytes on disk of a token with its annotations and its part of the instances; measured, see docs/scale.md."""


class Cluster(NamedTuple):
    nodes: int
    gpus: int
    """Of each node."""
    peak: float
    """Operations per second that a GPU's data sheet promises, for dense bf16 products."""
    mfu: float
    """The share of it that training reaches."""
    network: float
    """Bytes per second that a node sends to others."""
    disk: float
    """Bytes per second at which one process writes a checkpoint."""

    @property
    def ranks(self) -> int:
        return self.nodes * self.gpus


class Pace(NamedTuple):
    """Of a step; seconds, and bytes that each node sends."""

    sent: float
    computing: float
    sending: float

    @property
    def seconds(self) -> float:
        return self.computing + self.sending


def sent(total: int, zero: int, ranks: int, passes: int, gradient: int = NUMBER) -> float:
    """Bytes that a rank sends in a step of `passes` micro-batches, with `total` parameters.

    ZeRO 0 adds up gradients once. DeepSpeed's ZeRO 1 does too, 2 after every micro-batch, and both then gather the
    weights that each rank has stepped. ZeRO 3 gathers weights on the way there and back of every micro-batch, and
    scatters its gradients.
    """
    ring = (ranks - 1) / ranks * total
    gradients = 2 * ring * gradient * (passes if zero == 2 else 1)
    weights = ring * NUMBER
    return [gradients, gradients + weights, gradients + weights, passes * 3 * weights][zero]


def pace(cluster: Cluster, operations: float, total: int, zero: int, passes: int, gradient: int = NUMBER) -> Pace:
    """Of a step that takes so many operations on all GPUs together."""
    computing = operations / (cluster.ranks * cluster.peak * cluster.mfu)
    volume = sent(total, zero, cluster.ranks, passes, gradient)
    return Pace(volume, computing, volume / cluster.network if cluster.nodes > 1 else 0.0)


def passes(batch_size: int, micro_batch_size: int, ranks: int) -> int:
    """Micro-batches of a rank in a step."""
    return -(-(batch_size // ranks) // micro_batch_size)
