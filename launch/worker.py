"""One rank of a run: the program that a launcher starts once per device, `python -m launch.worker CONFIG …`.

The corpus must be there: `cumul train` sees to it before it starts any rank.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from launch.cli import run
from pretrain.config import load_config


def work(path: Path, overrides: Sequence[str], stages: Sequence[int]) -> None:
    """Train as the rank that the environment says (RANK, WORLD_SIZE, …)."""
    from pretrain.report import Report
    from pretrain.run import Typed, resume_step
    from pretrain.train import train

    config = load_config(path, overrides)
    with Report(config, resume_step(config), main=os.environ["RANK"] == "0") as report:
        train(config, stages or None, report, Typed(path, overrides))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m launch.worker")
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--stage", type=int, action="append", default=[])
    given = parser.parse_args()
    work(given.config, given.overrides, given.stage)


if __name__ == "__main__":
    run(main)
