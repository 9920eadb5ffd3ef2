"""Run a function in several ranks, each a process of its own, through torch's launcher."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PATHS = [HERE / "pretrain", HERE / "finetune", HERE.parent]


def run_ranks(function: str, size: int, folder: Path, **arguments) -> list[dict]:
    """`function` is `module:name` of a function (folder, **arguments) -> dict; returns what each rank returned."""
    answers = folder / f"answers-{size}"
    answers.mkdir()
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}",
            str(Path(__file__)), function, str(folder), str(answers), json.dumps(arguments),
        ],
        timeout=300, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, PATHS))},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads((answers / f"{rank}.json").read_text()) for rank in range(size)]


if __name__ == "__main__":
    module, name = sys.argv[1].split(":")
    answer = getattr(importlib.import_module(module), name)(Path(sys.argv[2]), **json.loads(sys.argv[4]))
    (Path(sys.argv[3]) / f"{os.environ['RANK']}.json").write_text(json.dumps(answer))
