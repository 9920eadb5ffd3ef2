"""A run folder: what lies where, what is finished, what may not be mixed. Torch-free; `pretrain.train` fills it.

runs/<name>/config.yaml            the resolved configuration
runs/<name>/metrics.jsonl          every record
runs/<name>/logs/                  of every rank; those that failed leave `ended<rank>.json`
runs/<name>/launch.json            what was typed, for ranks that a launcher starts
runs/<name>/lock, launcher         locked by rank 0, and by the launcher that started it
runs/<name>/stop                   while it is there, rank 0 stops after its step, and calls it `stopped`
runs/<name>/skipped.jsonl          the steps that the loss guard refused, with their instances
runs/<name>/stage<k>/              a checkpoint (`pretrain.checkpoint`); its state.json means: finished
runs/<name>/stage<k>/checkpoints/  those of a stage in progress, step<n>/; `latest.json` is written last
runs/<name>/export/                the Hugging Face checkpoint
"""

import json
import os
import shlex
import socket
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
    "log.every", "log.wandb", "log.project", "log.group", "evaluate.instances", "evaluate.every_tokens",
    "corpus.executor", "corpus.slurm",
    "train.checkpoint_every", "train.keep_last", "train.keep_every", "train.max_skipped", "train.micro_batch_size",
    "train.readers", "train.compile", "train.activation_checkpointing", "train.zero_stage",
    "train.offload",
    "launch.restarts", "launch.timeout", "launch.first_timeout",
}  # fmt: skip
"""Settings that decide nothing of what is learnt: they may change in the middle of a run."""


LAUNCHER = "launcher"


class Typed(NamedTuple):
    """What the user typed, so that messages can say what to type next."""

    path: Path
    overrides: Sequence[str] = ()
    stages: Sequence[int] = ()
    processes: int = 1
    hostfile: Path | None = None
    rendezvous: str | None = None
    nodes: str | None = None
    master_port: int | None = None

    def again(self) -> str:
        options = [f"--stage={stage}" for stage in self.stages]
        if self.processes > 1:
            options.append(f"--processes={self.processes}")
        for name in ("hostfile", "rendezvous", "nodes", "master_port"):
            if getattr(self, name) is not None:
                options.append(f"--{name.replace('_', '-')}={getattr(self, name)}")
        return shlex.join(["cumul", "train", str(self.path), *self.overrides, *options])

    def stage(self, number: int) -> str:
        """Trains one stage; the Makefile knows the first three."""
        if number > 3:
            return self._replace(stages=[number]).again()
        settings = shlex.join(self.overrides)
        hosts = "" if self.hostfile is None else f" HOSTFILE={self.hostfile}"
        return f"make stage{number} CONFIG={self.path}" + (f" ARGS={shlex.quote(settings)}" if settings else "") + hosts


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
    defaults = settings(resolved(Config()))  # of a setting that did not exist then
    for key in sorted(before.keys() | now.keys()):
        was = before.get(key, defaults.get(key))
        if was != now.get(key) and key not in FREE:
            raise ValueError(
                f"{key} was {was!r} when {folder} was trained and is {now.get(key)!r} now. "
                f"Set it back, give the run another name=, or delete {folder} to start over."
            )


def claim_folder(config: Config) -> None:
    """Write the resolved configuration into the run folder, refusing to mix it with work of another one."""
    refuse_changes(config)
    path = config.folder() / "config.yaml"
    with aside(path, many=True) as part:
        part.write_text(dump_config(config))


def own_name() -> str:
    """This host as the user's hostfile calls it, else as it calls itself."""
    return os.environ.get("CUMUL_HOST") or socket.gethostname()


def logs_of(config: Config) -> Path:
    return config.folder() / "logs"


def log_of(config: Config, rank: int) -> Path:
    return rank_log(logs_of(config), rank)


def rank_log(logs: Path, rank: int) -> Path:
    return logs / f"rank{rank}.log"


def stop_file(config: Config) -> Path:
    """Asks rank 0, wherever it is, to stop after its step."""
    return config.folder() / "stop"


def stopped_file(config: Config) -> Path:
    """What `stop` is called when it was heeded, so that a launcher does not take those that left for lost."""
    return config.folder() / "stopped"


def write_typed(config: Config, typed: Typed, hosts: Sequence[str]) -> None:
    """For the ranks: what the user typed, and the names of the hosts in the launcher's order."""
    tree = {key: str(value) if isinstance(value, Path) else value for key, value in typed._asdict().items()}
    with aside(config.folder() / "launch.json", many=True) as part:
        part.write_text(json.dumps({"typed": tree, "hosts": list(hosts)}, indent=1) + "\n")


def read_typed(folder: Path) -> tuple[Typed, list[str]]:
    """The reverse. Raises ValueError where this host does not see the run folder."""
    path = folder / "launch.json"
    if not path.exists():
        raise ValueError(
            f"this host does not see {path.absolute()}: several hosts need the folder that cumul is started in, with "
            "runs/ in it, on a disk that they share."
        )
    tree = json.loads(path.read_text())
    paths = {key: Path(tree["typed"][key]) for key in ("path", "hostfile") if tree["typed"][key] is not None}
    return Typed(**tree["typed"] | paths), tree["hosts"]


def progress(config: Config) -> tuple[int, int]:
    """The first stage that is not finished, and the step of its newest checkpoint."""
    count = len(config.stages())
    number = next((n for n in range(1, count + 1) if not finished(config, n)), count)
    names = [path.name for path in (stage_folder(config, number) / "checkpoints").glob("step*")]
    return number, max((int(name.removeprefix("step")) for name in names if name[4:].isdigit()), default=0)


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
def locked(config: Config, name: str = "lock") -> Iterator[None]:
    """One training at a time in a run folder."""
    with alone(config.folder() / name, "choose a name="):
        yield


@contextmanager
def alone(path: Path, instead: str) -> Iterator[None]:
    """One process at a time that trains into a folder; the lock goes with the process, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            flock(file, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{path.parent} is being trained by another process. Wait, or {instead}.") from None
        yield


def is_locked(config: Config) -> bool:
    try:
        refuse_busy(config, ["lock"])
    except ValueError:
        return True
    return False


def refuse_busy(config: Config, names: Sequence[str] = ("lock", LAUNCHER)) -> None:
    """Raise ValueError where the run is being trained: a second start would end the first one's ranks."""
    for name in names:
        if (config.folder() / name).exists():
            with locked(config, name):
                pass
