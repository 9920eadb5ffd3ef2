"""Fine-tuning: what a checkpoint is worth on downstream tasks, declared in YAML. `docs/finetuning.md` explains."""

from finetune.declare import Suite, Task, load_suite
from finetune.results import Result, read_results
from finetune.suite import run_suite

__all__ = ["Result", "Suite", "Task", "load_suite", "read_results", "run_suite"]
