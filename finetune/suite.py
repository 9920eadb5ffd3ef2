"""Run a suite on a checkpoint; what is finished is kept."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune import results
from finetune.declare import FREE, TOGETHER, Split, Suite, Task, Together
from finetune.metrics import METRICS
from finetune.read import Rows, read_split
from finetune.results import Origin, Result, refuse_other
from pretrain.config import one_of

if TYPE_CHECKING:
    from torch import Tensor

    from finetune.together import Request
    from finetune.train import TaskData

    InRanks = Callable[[Request, Callable[[str], object]], None]

SHOWN = 3
"""Refused rows that are printed; the rest are counted."""


def run_suite(
    suite: Suite,
    checkpoint: str,
    data: Path | None,
    seeds: Sequence[int],
    out: Path,
    tasks: Sequence[str] | None = None,
    say: Callable[[str], object] = print,
    save: bool = False,
) -> list[Result]:
    """Every task from every seed (minimal pairs, which draw nothing: once), those of before included.

    `data`: the root of the declared files; None: `hub`. `save`: also write the model beside its result. Raises
    ValueError where something is to be mended, among it a result made from another declaration or other weights.
    """
    chosen = list(suite) if tasks is None else [one_of(task, suite, "task") for task in tasks]
    with opened(checkpoint, data, seeds, out, say, save) as run:
        return [result for name in chosen for result in run.task(name, suite[name], seeds)]


def run_together(
    suite: Suite,
    settings: Together,
    checkpoint: str,
    data: Path | None,
    seeds: Sequence[int],
    out: Path,
    tasks: Sequence[str] | None = None,
    say: Callable[[str], object] = print,
    save: bool = False,
    in_ranks: "InRanks | None" = None,
) -> list[Result]:
    """One encoder on all tasks at once, then each task from it, from every seed (MT-DNN, Liu et al. 2019).

    Returns the results of run_suite that are there, then those of both steps, filed under the checkpoint's name with
    +together, and +together+alone. Arguments and errors as run_suite's. `in_ranks` sees to the shared training of a
    seed (finetune.together.train_together) in several ranks; None: this process does it.
    """
    wanted = suite if tasks is None else [one_of(task, suite, "task") for task in tasks]
    chosen = {name: task for name, task in suite.items() if name in wanted}
    untrained = [name for name, task in chosen.items() if task.kind == "minimal_pairs"]
    if untrained or len(chosen) < 2:
        reason = f"{untrained[0]} trains nothing" if untrained else f"{', '.join(chosen)} is alone"
        raise ValueError(f"--together is for two tasks or more that train: {reason}. Name others with --task.")
    with opened(checkpoint, data, seeds, out, say, save) as run:
        found = [run.finished(name, task, seed) for name, task in chosen.items() for seed in seeds]
        return [*filter(None, found), *replace(run, in_ranks=in_ranks).together(chosen, settings, seeds)]


@contextmanager
def opened(
    checkpoint: str, data: Path | None, seeds: Sequence[int], out: Path, say: Callable[[str], object], save: bool
) -> Iterator["Run"]:
    if not seeds:
        raise ValueError("no seed: give one or more.")
    from finetune.checkpoint import fingerprint, local, name_of  # this and the like below import torch

    with local(checkpoint) as folder:
        yield Run(checkpoint, name_of(checkpoint), folder, fingerprint(folder), data, out, once(say), save)


@dataclass(frozen=True)
class Run:
    """One checkpoint, where its tasks' rows come from, and where its results go."""

    checkpoint: str
    name: str
    folder: Path
    weights: str
    data: Path | None
    out: Path
    say: Callable[[str], object]
    save: bool
    shared: dict[str, Any] = field(default_factory=dict)
    """What results were made with beside their own declaration, by name: how, and with which tasks, together."""
    in_ranks: "InRanks | None" = None

    def task(self, name: str, task: Task, seeds: Sequence[int]) -> list[Result]:
        """Those that are there, and the others made; every one is written as soon as it is made."""
        wanted = seeds[:1] if task.kind == "minimal_pairs" else seeds
        found = {seed: self.finished(name, task, seed) for seed in wanted}
        missing = [seed for seed in wanted if found[seed] is None]
        if missing:
            make = self.pairs if task.kind == "minimal_pairs" else self.fine_tuned
            for result in make(name, task, missing):
                results.write(self.out, result)
                found[result.seed] = result
        return [result for result in found.values() if result is not None]

    def finished(self, name: str, task: Task, seed: int) -> Result | None:
        path = results.path_of(self.out, self.name, name, seed)
        if not path.is_file():
            return None
        result = results.read(path)
        mend = f"Delete {path.parent}, or give another --out."
        made = Origin(result.checkpoint, result.weights, result.together | named(name, result.declaration))
        now = Origin(self.checkpoint, self.weights, self.shared | named(name, task.model_dump(mode="json")))
        refuse_other(path, made, now, mend)
        return result

    def read(self, name: str, task: Task) -> "TaskData":
        from finetune.train import read_task

        data = read_task(name, task, self.data)
        for split, rows in data.splits.items():
            self.tell_refused(name, split, rows)
        return data

    def fine_tuned(self, name: str, task: Task, seeds: Sequence[int]) -> Iterator[Result]:
        data = self.read(name, task)
        for seed in seeds:
            yield self.learnt_alone(data, seed, self.folder)

    def learnt_alone(
        self, data: "TaskData", seed: int, folder: Path, head: Mapping[str, "Tensor"] | None = None
    ) -> Result:
        """From the encoder in the folder, with a new head or one that is given."""
        from finetune.train import train

        begun = time.monotonic()
        trained = train(data, folder, seed, self.say, head)
        if self.save:
            place = results.path_of(self.out, self.name, data.name, seed).with_suffix("")
            trained.model.save_pretrained(place)
            trained.tokenizer.save_pretrained(place)
        seconds = time.monotonic() - begun
        return self.result(data, seed, trained.predictions, trained.epochs, trained.best, trained.new, seconds)

    def result(
        self,
        data: "TaskData",
        seed: int,
        predictions: list[Any],
        epochs: list[float],
        best: int,
        new: list[str],
        seconds: float,
    ) -> Result:
        if new:
            self.say(f"new, not from {self.name}: {', '.join(new)}")
        labels = data.labels(data.reported)
        scores = {metric: METRICS[metric](labels, predictions) for metric in data.metrics()}
        return Result(
            task=data.name,
            kind=data.task.kind,
            checkpoint=self.checkpoint,
            name=self.name,
            seed=seed,
            metric=data.task.metric,
            score=scores[data.task.metric],
            scores=scores,
            chance=data.chance(data.reported),
            split=data.reported,
            selected_on="dev",
            epochs=epochs,
            best_epoch=best,
            seconds=round(seconds, 2),
            classes=data.classes,
            labels=labels,
            predictions=predictions,
            rows={split: rows.counts() for split, rows in data.splits.items()},
            new=new,
            weights=self.weights,
            declaration=data.task.model_dump(mode="json"),
            together=self.shared,
        )

    def together(self, suite: Suite, settings: Together, seeds: Sequence[int]) -> list[Result]:
        """Of every seed: all tasks at once, then each alone from there. What is finished is kept."""
        shared: dict[str, Any] = {f"{TOGETHER}.tasks": list(suite)}
        shared |= named(TOGETHER, settings.model_dump(mode="json", exclude=FREE))
        for name, task in suite.items():
            shared |= named(name, task.model_dump(mode="json"))
        from finetune.together import load_head

        at_once = replace(self, name=f"{self.name}+together", shared=shared)
        alone = replace(at_once, name=f"{at_once.name}+alone")
        data: dict[str, TaskData] = {}
        firsts, seconds = list[Result](), list[Result]()
        for seed in seeds:
            first, second = at_once.all_finished(suite, seed), alone.all_finished(suite, seed)
            folder = self.out / at_once.name / TOGETHER / f"seed{seed}"
            left = [name for name in suite if name not in second]
            if not data and (left or len(first) < len(suite)):
                data = {name: self.read(name, task) for name, task in suite.items()}
            if len(first) < len(suite) or (left and not folder.is_dir()):
                first = at_once.learnt_together(data, settings, seed, folder)
            for name in left:
                second[name] = alone.learnt_alone(data[name], seed, folder, load_head(folder, name))
                results.write(self.out, second[name])
            if not self.save and folder.is_dir():
                rmtree(folder)
            firsts += [first[name] for name in suite]
            seconds += [second[name] for name in suite]
        return [*firsts, *seconds]

    def all_finished(self, suite: Suite, seed: int) -> dict[str, Result]:
        found = {name: self.finished(name, task, seed) for name, task in suite.items()}
        return {name: result for name, result in found.items() if result is not None}

    def learnt_together(
        self, data: Mapping[str, "TaskData"], settings: Together, seed: int, folder: Path
    ) -> dict[str, Result]:
        """Puts encoder and heads into the folder, then writes the results."""
        from finetune.together import Request, take_shared, train_together

        request = Request(
            tasks={name: of.task for name, of in data.items()},
            settings=settings,
            checkpoint=self.folder,
            data=self.data,
            seed=seed,
            folder=folder.with_name(f"{folder.name}.training"),
            origin=Origin(self.checkpoint, self.weights, self.shared),
        )
        if self.in_ranks is None:
            train_together(request, list(data.values()), self.say)
        else:
            self.in_ranks(request, self.say)
        ended, found = take_shared(request, folder), {}
        for (name, of), learnt in zip(data.items(), ended.learnt, strict=True):
            found[name] = self.result(
                of, seed, learnt.predictions, learnt.epochs, ended.best, learnt.new, ended.seconds
            )
            results.write(self.out, found[name])
        rmtree(request.folder)
        return found

    def pairs(self, name: str, task: Task, seeds: Sequence[int]) -> Iterator[Result]:
        from finetune.pseudo_likelihood import preferences

        begun = time.monotonic()
        rows = read_split(name, task, "test", self.data)
        self.tell_refused(name, "test", rows)
        better = preferences(self.folder, rows, task.max_length)
        groups = [item.label for item in rows.examples]
        score = METRICS[task.metric](groups, better)
        seconds = round(time.monotonic() - begun, 2)
        self.say(f"{name}  {len(better)} pairs  {task.metric} {score:.3f}  {seconds:.0f} s")
        yield Result(
            task=name,
            kind=task.kind,
            checkpoint=self.checkpoint,
            name=self.name,
            seed=seeds[0],
            metric=task.metric,
            score=score,
            scores={task.metric: score},
            chance=0.5,
            groups={
                group: float(np.mean([value for value, its in zip(better, groups, strict=True) if its == group]))
                for group in dict.fromkeys(groups)
            },
            split="test",
            selected_on=None,
            epochs=[],
            best_epoch=None,
            seconds=seconds,
            classes=[],
            labels=groups,
            predictions=better,
            rows={"test": rows.counts()},
            new=[],
            weights=self.weights,
            declaration=task.model_dump(mode="json"),
        )

    def tell_refused(self, name: str, split: Split, rows: Rows) -> None:
        for line in rows.refused[:SHOWN]:
            self.say(f"refused: {line}")
        if len(rows.refused) > SHOWN:
            self.say(f"refused: {len(rows.refused):,} of {rows.rows:,} rows of {name}, {split}")


def named(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """As one writes them: task.key."""
    return {f"{name}.{key}": value for key, value in settings.items()}


def once(say: Callable[[str], object]) -> Callable[[str], object]:
    """Says no line a second time."""
    said = set[str]()

    def say_new(line: str) -> None:
        if line not in said:
            said.add(line)
            say(line)

    return say_new
