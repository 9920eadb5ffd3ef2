"""Run a suite on a checkpoint; what is finished is kept."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune import results
from finetune.declare import Split, Suite, Task
from finetune.metrics import METRICS
from finetune.read import Rows, read_split
from finetune.results import Result
from pretrain.config import one_of

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
    if not seeds:
        raise ValueError("no seed: give one or more.")
    from finetune.checkpoint import fingerprint, local, name_of  # this and the like below import torch

    with local(checkpoint) as folder:
        run = Run(checkpoint, name_of(checkpoint), folder, fingerprint(folder), data, out, once(say), save)
        return [result for name in chosen for result in run.task(name, suite[name], seeds)]


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
        if result.weights != self.weights:
            raise ValueError(f"{path} was made with other weights, {result.checkpoint} as it was then. {mend}")
        now = task.model_dump(mode="json")
        changed = [key for key in now if result.declaration.get(key) != now[key]]
        if changed:
            was = result.declaration.get(changed[0])
            raise ValueError(
                f"{path} was made with {name}.{changed[0]}={json.dumps(was)}, now it is "
                f"{json.dumps(now[changed[0]])}. {mend}"
            )
        return result

    def fine_tuned(self, name: str, task: Task, seeds: Sequence[int]) -> Iterator[Result]:
        from finetune.train import read_task, train

        data = read_task(name, task, self.data)
        for split, rows in data.splits.items():
            self.tell_refused(name, split, rows)
        labels = data.labels(data.reported)
        for seed in seeds:
            begun = time.monotonic()
            trained = train(data, self.folder, seed, self.say)
            if trained.new:
                self.say(f"new, not from {self.name}: {', '.join(trained.new)}")
            if self.save:
                folder = results.path_of(self.out, self.name, name, seed).with_suffix("")
                trained.model.save_pretrained(folder)
                trained.tokenizer.save_pretrained(folder)
            scores = {metric: METRICS[metric](labels, trained.predictions) for metric in data.metrics()}
            yield Result(
                task=name,
                kind=task.kind,
                checkpoint=self.checkpoint,
                name=self.name,
                seed=seed,
                metric=task.metric,
                score=scores[task.metric],
                scores=scores,
                chance=data.chance(data.reported),
                split=data.reported,
                selected_on="dev",
                epochs=trained.epochs,
                best_epoch=trained.best,
                seconds=round(time.monotonic() - begun, 2),
                classes=data.classes,
                labels=labels,
                predictions=trained.predictions,
                rows={split: rows.counts() for split, rows in data.splits.items()},
                new=trained.new,
                weights=self.weights,
                declaration=task.model_dump(mode="json"),
            )

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


def once(say: Callable[[str], object]) -> Callable[[str], object]:
    """Says no line a second time."""
    said = set[str]()

    def say_new(line: str) -> None:
        if line not in said:
            said.add(line)
            say(line)

    return say_new
