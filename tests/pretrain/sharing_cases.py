"""What a rank does in tests/pretrain/test_sharing_runs.py."""

from pathlib import Path

from cases import train_some


def train_each(folder: Path, configs: dict[str, dict], steps: dict[str, int], known: list[str]) -> dict:
    """`cases.train_some` of several configurations in one process, one after another."""
    return {name: train_some(folder, config, steps, known) for name, config in configs.items()}
