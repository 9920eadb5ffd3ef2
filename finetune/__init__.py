"""Fine-tuning: what a checkpoint is worth on downstream tasks, declared in YAML. `docs/finetuning.md` explains."""

from finetune.declare import Suite, Task, Together, load_suite, load_together
from finetune.results import Result, read_results
from finetune.suite import run_suite, run_together

__all__ = [
    "Result",
    "Suite",
    "Task",
    "Together",
    "load_suite",
    "load_together",
    "read_results",
    "run_suite",
    "run_together",
]
