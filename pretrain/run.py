"""A run folder: what lies where, what is finished, what may not be mixed. Torch-free; `pretrain.train` fills it.

runs/<name>/config.yaml            the resolved configuration
runs/<name>/metrics.jsonl          every record
runs/<name>/skipped.jsonl          the steps that the loss guard refused, with their instances
runs/<name>/stage<k>/              a checkpoint (`pretrain.checkpoint`); its state.json means: finished
runs/<name>/stage<k>/checkpoints/  those of a stage in progress, step<n>/; `latest.json` is written last
runs/<name>/export/                the Hugging Face checkpoint
"""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from corpus_tools.shards import aside
from pretrain.config import Config, dump_config, resolved
from pretrain.schedule.reading import Growth, Reading

FREE = {
    "log.every", "log.wandb", "log.project", "evaluate.instances", "corpus.executor", "corpus.slurm",
    "train.checkpoint_every", "train.keep_last", "train.keep_every", "train.max_skipped", "train.micro_batch_size",
    "train.readers", "train.compile", "train.activation_checkpointing", "train.zero_stage",
}  # fmt: skip
"""Settings that decide nothing of what is learnt: they may change in the middle of a run."""


class Typed(NamedTuple):
    """What the user typed, so that messages can say what to type next."""

    path: Path
    overrides: Sequence[str] = ()
    stages: Sequence[int] = ()
    processes: int = 1

    def again(self) -> str:
        options = [f"--stage={stage}" for stage in self.stages]
        if self.processes > 1:
            options.append(f"--processes={self.processes}")
        return shlex.join(["cumul", "train", str(self.path), *self.overrides, *options])

    def stage(self, number: int) -> str:
        """Trains one stage; the Makefile knows the first three."""
        if number > 3:
            return self._replace(stages=[number]).again()
        settings = shlex.join(self.overrides)
        return f"make stage{number} CONFIG={self.path}" + (f" ARGS={shlex.quote(settings)}" if settings else "")


def reading_of(config: Config, number: int) -> Reading:
    """How much the steps of a stage read."""
    growth = config.train.growth.get(number)
    grown = None if growth is None else Growth(growth.steps, growth.batch_size, growth.max_length)
    return Reading(config.stages()[number - 1], config.train.batch_size, config.corpus.max_length, grown)


def stage_folder(config: Config, number: int) -> Path:
    return config.folder() / f"stage{number}"


def finished(config: Config, number: int) -> bool:
    return (stage_folder(config, number) / "state.json").exists()


def refuse_changes(config: Config) -> None:
    """Raise ValueError where the run folder holds work of another configuration, naming the setting."""
    folder = config.folder()
    path = folder / "config.yaml"
    if not path.exists() or not any(folder.glob("stage*")):
        return
    before, now = settings(yaml.safe_load(path.read_text())), settings(resolved(config))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key) and key not in FREE:
            raise ValueError(
                f"{key} was {before.get(key)!r} when {folder} was trained and is {now.get(key)!r} now. "
                f"Set it back, give the run another name=, or delete {folder} to start over."
            )


def claim_folder(config: Config) -> None:
    """Write the resolved configuration into the run folder, refusing to mix it with work of another one."""
    refuse_changes(config)
    path = config.folder() / "config.yaml"
    with aside(path) as part:
        part.write_text(dump_config(config))


def settings(tree: dict) -> dict[str, Any]:
    """Every setting by its name, `section.key`."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= (
            {f"{name}.{key}": setting for key, setting in value.items()} if isinstance(value, dict) else {name: value}
        )
    return flat


def wanted_stages(config: Config, stages: Sequence[int] | None, typed: Typed) -> list[int]:
    """The stages to train, in order. Raises ValueError where one does not exist or its predecessor is not trained."""
    count = len(config.stages())
    wanted = sorted(set(stages)) if stages else list(range(1, count + 1))
    for number in wanted:
        if not 1 <= number <= count:
            raise ValueError(f"stage {number} does not exist: this schedule has stages 1 to {count}.")
        if number > 1 and number - 1 not in wanted and not finished(config, number - 1):
            raise ValueError(
                f"stage {number} continues from stage {number - 1}, which {config.folder()} does not hold yet. "
                f"Train it first: {typed.stage(number - 1)}"
            )
    return wanted


def last_finished(config: Config) -> int:
    """The number of the last finished stage. Raises ValueError where there is none."""
    refuse_changes(config)
    done = [number for number in range(1, len(config.stages()) + 1) if finished(config, number)]
    if not done:
        raise ValueError(f"{config.folder()} holds no finished stage. Train one first: cumul train CONFIG")
    return done[-1]


@contextmanager
def locked(config: Config) -> Iterator[None]:
    """One training at a time in a run folder; the lock goes with the process, however it ends."""
    path = config.folder() / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            flock(file, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{config.folder()} is being trained by another process. Wait, or choose a name=."
            ) from None
        yield
