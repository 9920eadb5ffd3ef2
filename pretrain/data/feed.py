"""The endless, seeded order in which a task's instances reach the loop. Its whole state is one integer."""

from hashlib import blake2b

import numpy as np

ROUNDS = 4


def order(position: int, size: int, seed: int, task: str) -> tuple[int, int]:
    """(epoch, instance) at a position: every epoch is a new permutation of all instances.

    A Feistel network over the least even number of bits that holds `size`, walked until it lands inside: any position
    is found in constant time and no permutation is ever stored, so a resume seeks instead of replaying.
    """
    epoch, index = divmod(position, size)
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    keys = round_keys(seed, task, epoch)
    while True:
        left, right = index >> half, index & mask
        for key in keys:
            left, right = right, left ^ (mix(right ^ key) & mask)
        index = left << half | right
        if index < size:
            return epoch, index


def spread(size: int, limit: int) -> list[int]:
    """Up to `limit` indices, evenly over all instances, so that every shard and label is met."""
    return np.linspace(0, size, min(size, limit), endpoint=False).astype(int).tolist()


def round_keys(seed: int, task: str, epoch: int) -> tuple[int, ...]:
    digest = blake2b(f"{seed}/{task}/{epoch}".encode(), digest_size=8 * ROUNDS).digest()
    return tuple(int.from_bytes(digest[i : i + 8], "big") for i in range(0, len(digest), 8))


def mix(value: int) -> int:
    """The finaliser of splitmix64: every input bit reaches every output bit."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    value = (value ^ value >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return value ^ value >> 31
