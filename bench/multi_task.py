"""What a step costs with every kind of sharing, penalty, balancing and encoder, beside hard sharing with fixed weights.

    python bench/multi_task.py [--only NAME …] [--rounds 3] [--steps 14] [--tokens 2048] [--device cuda]

The loop of training on the English tasks in turn, one rank, no companions; the student and what it is compared with
train masked words alone. The first steps are not counted. In a round every setting has its turn, each in a process of
its own; a ratio is the median of those of the rounds. A probe is timed apart: its cost is given in steps, and what it
adds at the default of a probe every so many steps. The last line is one JSON object.
"""

import argparse
import json
import logging
import os
import statistics
import tempfile
from typing import Any, NamedTuple

import torch
from corpus import alone, documents_of, tasks_of, write
from train import Clock, build, corpus_config, rounded

from pretrain.config import BalancingConfig, Config

SIZE = {"layers": 4, "hidden": 256, "heads": 4}
LENGTH, TEACHER = 128, "teacher"
EXPERTS = ("omoe", "mmoe", "ml_mmoe", "cgc")
BASE, MASKED = "hard + fixed", "masked words alone"
SETTINGS: dict[str, dict[str, Any]] = {
    BASE: {},
    "asymmetric": {"sharing": {"kind": "asymmetric", "uses": {"semantic-aware": ["word-aware"]}}},
    **{kind: {"sharing": {"kind": kind}} for kind in ("customized", "cross_stitch", *EXPERTS, "ple")},
    **{f"{kind} inside": {"sharing": {"kind": kind, "place": "inside"}} for kind in ("omoe", "mmoe", "cgc")},
    **{f"{kind} inside": {"sharing": {"kind": kind, "place": "inside", "layers": 2}} for kind in ("ml_mmoe", "ple")},
    **{
        f"cgc, {kind}": {"sharing": {"kind": "cgc", "penalty": {"kind": kind}}}
        for kind in ("mean", "joint_feature", "low_rank")
    },
    **{
        kind: {"balancing": {"kind": kind}}
        for kind in ("uncertainty", "dwa", "dtp", "gradnorm", "upgrad", "mgda", "pcgrad", "cagrad")
    },
    "shared layers": {"model": {"share_layers": True}},
    "narrow embeddings": {"model": {"embedding": 64}},
    MASKED: {"tasks": ["knowledge_masking"]},
    "student": {"tasks": ["knowledge_masking"], "distill": {"teacher": TEACHER, "shape": "ernie"}},
}
BESIDE = {"student": MASKED}
"""What a setting is compared with, where that is not BASE."""


class Run(NamedTuple):
    """One setting, measured once."""

    step: float
    """Seconds, probes not counted."""
    probe: float
    """Seconds of one probe; 0 where there is none."""
    parameters: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[name for name in SETTINGS if name not in (BASE, MASKED)])
    parser.add_argument("--english", default="demo:en", help="documents: a file, folder or glob")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=14, help="that are counted, whole rounds of the seven tasks")
    parser.add_argument("--tokens", type=int, default=2048, help="real tokens in a step, about")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ |= {"DS_ACCELERATOR": arguments.device, "TOKENIZERS_PARALLELISM": "false"}
    chosen = [name for name in SETTINGS if arguments.only is None or name in arguments.only]
    names = [name for name in SETTINGS if name in {*chosen, *(BESIDE.get(name, BASE) for name in chosen)}]
    documents = list(documents_of(arguments.english))
    runs: dict[str, list[Run]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write(documents, "en", 4, 16_000)
        batch = round(arguments.tokens / alone(build, LENGTH, arguments.threads).mean)
        alone(write_teacher)
        for number in range(arguments.rounds):
            for name in names:
                config = config_of(SETTINGS[name], batch, arguments.steps)
                runs[name].append(alone(measure, config, arguments.threads, arguments.steps, arguments.device))
                print(f"round {number + 1}/{arguments.rounds}  {name}: {runs[name][-1].step:.3f} s a step", flush=True)
    table = {name: row(runs[name], runs[BESIDE.get(name, BASE)]) for name in names}
    every = BalancingConfig.model_fields["probe_every"].default
    print(f"\n{'':18}      step  probe  every {every}  parameters")
    for name, of in table.items():
        probe = f"{of['probe']:5.1f}  {of['step'] + of['probe'] / every:9.2f}" if of["probe"] else " " * 16
        beside = f"  × {BESIDE[name]}" if name in BESIDE else ""
        print(f"{name:18} × {of['step']:7.2f}  {probe}  {of['parameters'] / 1e6:8.1f} M{beside}")
    print(json.dumps(rounded({"batch": batch, "settings": table})))


def row(runs: list[Run], base: list[Run]) -> dict[str, float]:
    """Of steps of the base in the same rounds: a step, a probe."""
    return {
        "step": statistics.median(run.step / other.step for run, other in zip(runs, base, strict=True)),
        "probe": statistics.median(run.probe / other.step for run, other in zip(runs, base, strict=True)),
        "parameters": runs[0].parameters,
    }


def config_of(changes: dict[str, Any], batch: int, steps: int) -> Config:
    tasks = changes.get("tasks", tasks_of("en"))
    model = SIZE | changes.get("model", {})
    if "distill" in changes:
        model = {}
    balancing = BalancingConfig(**changes.get("balancing", {}))
    if balancing.probes:
        balancing = balancing.model_copy(update={"probe_every": steps})
    tree = {
        "name": "bench",
        "corpus": corpus_config(LENGTH).model_dump(),
        "schedule": {"kind": "joint", "steps_per_task": 2 * steps // len(tasks)},
        "train": {"batch_size": batch, "micro_batch_size": batch, "companions": []},
    }
    return Config.model_validate({**tree, **changes, "tasks": tasks, "model": model, "balancing": balancing})


def write_teacher() -> None:
    """With random weights: how long a step takes does not depend on them."""
    from transformers import ErnieConfig, ErnieForMaskedLM, PreTrainedTokenizerFast

    special = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "cls", "sep", "pad", "mask")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_file="en.json", **special)
    tokenizer.save_pretrained(TEACHER)
    shape = ErnieConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=SIZE["layers"],
        hidden_size=SIZE["hidden"],
        num_attention_heads=SIZE["heads"],
        intermediate_size=4 * SIZE["hidden"],
    )
    ErnieForMaskedLM(shape).save_pretrained(TEACHER)


def measure(config: Config, threads: int, steps: int, device: str) -> Run:
    """The second half of a stage: the first is not counted."""
    from pretrain.balancing.make import make_balancer
    from pretrain.engine import make_engine
    from pretrain.guard import Guard
    from pretrain.loop import State, StepResult, train_stage
    from pretrain.model.student import Student
    from pretrain.train import (
        READERS_ON_GPU,
        build_model,
        find_teacher,
        first_shape,
        fit,
        rate_of,
        read_sources,
        starting_weights,
        steps_of,
    )
    from pretrain.world import join

    torch.set_num_threads(threads)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    world, state, guard = join(), State(stage=1), Guard({})
    model = build_model(config, config.tasks, first_shape(config, starting_weights(config)))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    fit(model, config, world.device)
    if isinstance(model, Student):
        model.teacher = find_teacher(model, config, world)
    engine = make_engine(model, config.train, world, guard)
    plan = steps_of(config, 1, read_sources(config, "train", config.tasks), state, world)
    balancer, clock, total = make_balancer(config, engine.module, plan, {}, world), Clock(device), len(plan)

    def after_step(state: State, task: str, rate: float, result: StepResult) -> None:
        if state.step == total - steps:
            balancer.seconds = 0.0
            clock.start()
        if state.step == total:
            clock.stop()

    readers = READERS_ON_GPU if device == "cuda" else 0
    train_stage(
        engine, plan, state, rate_of(config, 1), config.seed, world, guard, readers, after_step, lambda: False, balancer
    )
    return Run((clock.seconds - balancer.seconds) / steps, balancer.seconds, parameters)


if __name__ == "__main__":
    main()
