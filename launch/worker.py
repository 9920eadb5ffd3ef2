"""One rank of a run: the program that a launcher starts once per device, `python -m launch.worker CONFIG …`.

The corpus must be there: `cumul train` sees to it before it starts any rank.
"""

import argparse
import os
from pathlib import Path

from launch.cli import run
from pretrain.config import load_config
from pretrain.run import Typed


def work(typed: Typed) -> None:
    """Train as the rank that the environment says (RANK, WORLD_SIZE, …)."""
    from pretrain.report import Report
    from pretrain.train import train

    config = load_config(typed.path, typed.overrides)
    with Report(config, main=os.environ["RANK"] == "0") as report:
        train(config, typed.stages or None, report, typed)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m launch.worker")
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--stage", type=int, action="append", default=[])
    given = parser.parse_args()
    work(Typed(given.config, given.overrides, given.stage, int(os.environ["WORLD_SIZE"])))


if __name__ == "__main__":
    run(main)
