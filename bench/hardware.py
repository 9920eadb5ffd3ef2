"""How much of a machine training uses: model FLOP utilisation, and the peaks that it is a share of."""

import time

import torch

from pretrain.plan import Sizes, operations

PEAKS = {
    "Tesla V100-SXM2-16GB": 125e12,
    "Tesla V100-SXM2-32GB": 125e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362.05e12,
    "NVIDIA GeForce RTX 3090": 71e12,
    "NVIDIA GeForce RTX 4090": 165.2e12,
}
"""FLOP/s of dense matrix products in bf16 with sums in fp32 (V100: fp16), by the device's name as torch gives it.

Source: NVIDIA's data sheets of each product, half of the figure where they give it with sparsity; of the GeForce cards
the whitepapers of the architectures GA102 and Ada.
"""


def peak_of(device: str) -> float:
    if device not in PEAKS:
        raise ValueError(
            f"the peak of {device!r} is not known. Add its dense bf16 FLOP/s, from its data sheet, to PEAKS in "
            "bench/hardware.py."
        )
    return PEAKS[device]


def measured_peak(threads: int, size: int = 2048, rounds: int = 8) -> float:
    """FLOP/s of a large product of fp32 matrices on this CPU, the best of several."""
    torch.set_num_threads(threads)
    a, b = torch.rand(size, size), torch.rand(size, size)
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - begun)
    return 2 * size**3 / min(seconds)


def mfu(sizes: Sizes, tokens_per_second: float, length: float, predicted: float, peak: float) -> float:
    """Model FLOP utilisation (Chowdhery et al. 2022, appendix B): operations that real tokens need ÷ `peak` FLOP/s.

    `length` is what a token attends over, in the mean of all tokens; `predicted` the share that masked LM predicts.
    Padding, what is computed twice, the optimizer and heads other than masked LM count as nothing.
    """
    return tokens_per_second * operations(sizes, 1, length, predicted) / peak


def ceiling(sizes: Sizes, length: float, predicted: float, peak: float) -> float:
    """Tokens/s at a utilisation of one."""
    return peak / operations(sizes, 1, length, predicted)
