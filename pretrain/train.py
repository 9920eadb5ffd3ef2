"""Training the stages of a run: builds what the loop needs, and keeps what it leaves."""

import json
import logging
import resource
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn
from transformers import ErnieConfig

from corpus_tools.config import relations_of
from corpus_tools.shards import Instances, read_manifest
from corpus_tools.tokenizer import fingerprint, vocabulary
from pretrain.balancing.balancer import Balancer
from pretrain.balancing.make import make_balancer, refuse_absent
from pretrain.balancing.uncertainty import LogVariances
from pretrain.checkpoint import Checkpoints, circumstances, damaged, newest_whole, read_about, take_snapshot, write
from pretrain.config import Config, resolved
from pretrain.data.batch import Source
from pretrain.data.feed import order
from pretrain.data.steps import ALIGNED, Steps
from pretrain.deepspeed_config import in_bf16
from pretrain.engine import get_weights, make_engine, set_moments
from pretrain.evaluate import evaluate as evaluate_tasks
from pretrain.guard import Guard
from pretrain.hosts import CLOCK, complaints, look
from pretrain.loop import State, StepResult, train_stage
from pretrain.model.attention import fitting
from pretrain.model.model import Model, ernie_config, load_prior
from pretrain.model.prior import Prior, read_prior
from pretrain.model.student import Student, Teacher, fingerprint_of, read_teacher, student_weights
from pretrain.optimizer import learning_rate
from pretrain.plan import bytes_to_write, planned_memory
from pretrain.report import Report
from pretrain.run import (
    Typed,
    claim_folder,
    finished,
    locked,
    reading_of,
    settings,
    stage_folder,
    stop_file,
    stopped_file,
    wanted_stages,
)
from pretrain.sharing.build import build_sharing, read_gates
from pretrain.world import World, join

READERS_ON_GPU = 4
NETWORK_DISK = 10.0
"""Seconds after which a file that one host wrote is seen by the others."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def train(config: Config, stages: Sequence[int] | None, report: Report, typed: Typed) -> None:
    """Train the wanted stages (1-based; None: all) that are not finished. Runs in every rank.

    Raises ValueError for a mistake, ConnectionError where ranks of other hosts are lost or leave.
    """
    wanted = wanted_stages(config, stages, typed)
    refuse_absent(config.balancing)
    world = join(config.launch.first_timeout)
    report.log(f"rank {world.rank} of {world.size} on {world.hosts[world.rank]}, {world.device}")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    stop = stop_file(config)
    with world.watched(), locked(config) if world.main else nullcontext(), stop_signals(report) as asked:

        def stop_wanted() -> bool:
            return asked() or (world.main and stop.exists())

        check_hosts(config, report, world)
        if world.main:
            claim_folder(config)
        world.barrier()
        for number in wanted:
            if finished(config, number):
                report.note(f"stage {number} is finished: {stage_folder(config, number)}")
                continue
            asked_before = world.sum([stop_wanted()])[0] > 0
            if asked_before or not train_one(config, number, wanted[-1], report, world, stop_wanted):
                report.note(f"stopped and saved. To go on: {typed.again()}")
                leave(config, asked(), world)
                return


def leave(config: Config, asked: bool, world: World) -> None:
    """Put away the file `stop`. Raises ConnectionError in ranks that nobody asked: those that left can be replaced."""
    stop = stop_file(config)
    everyone = world.sum([world.main and stop.exists()])[0] > 0
    leaving = [f"rank {rank} on {world.hosts[rank]}" for rank, asks in enumerate(world.gather(asked)) if asks]
    if world.main and everyone:
        stop.replace(stopped_file(config))
    if leaving and not asked and not everyone:
        raise ConnectionError(f"stopped and saved, because others were asked to: {', '.join(leaving)}")


def check_hosts(config: Config, report: Report, world: World) -> None:
    """Refuse hosts that do not fit together, before they wait for each other. Raises ValueError naming host and fix."""
    world.barrier()  # so that clocks are read at one time
    everyone = dict(reversed(list(zip(world.hosts, world.gather(look(config)), strict=True))))
    found = complaints([(host, everyone[host]) for host in dict.fromkeys(world.hosts)], bytes_to_write(config))
    for late in [line for line in found if CLOCK in line]:
        report.note(late)
        found.remove(late)
    if apart := sorted({host for host, seen in zip(world.hosts, meet(config, world), strict=True) if not seen}):
        found.append(
            f"{', '.join(apart)}: {config.folder()} is not the one of {world.hosts[0]}. Start cumul in a folder on a "
            "disk that all hosts share."
        )
    if found:
        raise ValueError(" ".join(found))


def meet(config: Config, world: World) -> list[bool]:
    """Of every rank: whether it sees in the run folder what rank 0 wrote there."""
    path = config.folder() / "shared"
    word = world.gather(secrets.token_hex(8))[0]
    if world.main:
        path.write_text(word)
    world.barrier()
    until = time.monotonic() + NETWORK_DISK
    while not (seen := path.exists() and path.read_text() == word) and time.monotonic() < until:
        time.sleep(0.2)
    everyone = world.gather(seen)
    if world.main:
        path.unlink()
    return everyone


def train_one(config: Config, number: int, last: int, report: Report, world: World, stop_wanted) -> bool:
    """Train one stage to its end, evaluate and keep it; False where it was stopped (and saved) before."""
    folder = stage_folder(config, number)
    stage = config.stages()[number - 1]
    known = known_tasks(config, number)
    manifest = read_manifest(config.corpus.folder())
    model, state, moments, resumed = begin(config, number, manifest, report, world)
    fit(model, config, world.device)
    if isinstance(model, Student):
        model.teacher = find_teacher(model, config, world)
    model.prepare(config.train.activation_checkpointing, config.train.compile)
    guard = Guard(state.norms, config.train.spike, config.train.spike_window)
    engine = make_engine(model, config.train, world, guard)
    world.wait_at_most(config.launch.first_timeout)
    set_moments(engine, *moments)
    report.rewind(state.run_step)
    if resumed is not None:
        report.resumed({**resumed, "num_steps": stage.total})
    steps = steps_of(config, number, read_sources(config, "train", list(stage.steps)), state, world)
    checkpoints = Checkpoints(folder / "checkpoints", config.train.keep_last, config.train.keep_every)
    balancer = make_balancer(config, engine.module, steps, state.balance, world)
    pace = Pace(config, number, last, state, steps, guard, balancer, report, world, model.sharing)
    first = state.step + 1

    def save() -> None:
        pace.note_skipped(state)
        state.balance = balancer.state()
        snapshot = take_snapshot(engine, state, manifest, config, world)
        if world.main:
            checkpoints.save(snapshot)

    held_out = read_sources(config, "validation", known)

    def measure() -> None:
        begun = time.monotonic()
        model = whole(engine, config, known, world)
        records = evaluate_tasks(model, held_out, config.evaluate.instances, config.train, world)
        at = {"kind": "evaluation", "run_step": state.run_step, "tokens": state.tokens, "stage": number}
        report.evaluation([{**at, **record} for record in records])
        pace.skip(time.monotonic() - begun)

    def after_step(state: State, task: str, rate: float, result: StepResult) -> None:
        pace.step(state, task, rate, result)
        if state.step == first:
            world.wait_at_most(config.launch.timeout)
        if state.step == stage.total:
            return
        mark = config.evaluate.every_tokens
        if mark and state.tokens // mark > (state.tokens - result.tokens) // mark:
            measure()
        if state.step % config.train.checkpoint_every == 0 and not result.stop:
            save()

    readers = config.train.readers
    if readers == "auto":
        readers = READERS_ON_GPU if world.device.type == "cuda" else 0
    try:
        done = train_stage(
            engine, steps, state, rate_of(config, number), config.seed, world, guard, readers, after_step, stop_wanted,
            balancer,
        )  # fmt: skip
        world.wait_at_most(config.launch.first_timeout)
        if not done:
            save()
    finally:
        checkpoints.wait()  # where ranks are lost too: what is being written is what the restart begins with
    if done:
        pace.note_skipped(state)
        measure()
        state.balance = balancer.state()
        snapshot = take_snapshot(engine, state, manifest, config, world)
        if world.main:
            write(folder, snapshot)
            checkpoints.prune(keep_last=0)
    world.barrier()
    return done


def rate_of(config: Config, number: int) -> Callable[[State], float]:
    """The learning rate of the step after a state that lies in a stage."""
    train, stages = config.train, config.stages()
    whole_run = sum(stage.total for stage in stages)

    def rate_after(state: State) -> float:
        done, total = (state.run_step, whole_run) if train.lr_spans == "run" else (state.step, stages[number - 1].total)
        return learning_rate(done + 1, total, train.lr, train.warmup_steps, train.decay)

    return rate_after


Moments = tuple[dict[str, torch.Tensor], dict[str, int]]


def begin(
    config: Config, number: int, manifest: dict, report: Report, world: World
) -> tuple[Model, State, Moments, dict | None]:
    """The model, state and moments that a stage begins with, or goes on with; then also a record of that."""
    known = known_tasks(config, number)
    checkpoints = stage_folder(config, number) / "checkpoints"
    found, damage = world.gather(newest_whole(checkpoints) if world.main else None)[0]
    for line in damage:
        report.note(f"{line}; the one before is used")
    if found is not None:
        about = read_about(found, manifest)
        if config.distill is not None and about["teacher"] != fingerprint_of(config.distill):
            raise ValueError(
                f"{found} had another teacher than the one that lies in distill.teacher={config.distill.teacher} now. "
                "Put the first one back, or give the run another name= to start over."
            )
        model = build_model(config, known, ErnieConfig.from_json_file(found / "config.json"))
        load_weights(model, found)
        was, now = about["settings"], settings(resolved(config)) | circumstances(world)
        record = {
            "kind": "resume",
            "run_step": about["state"]["run_step"],
            "stage": number,
            "step": about["state"]["step"],
            "from": str(found),
            "changed": {key: [was.get(key), now[key]] for key in now if was.get(key) != now[key]},
        }
        return model, State(**about["state"]), (load_file(found / "moments.safetensors"), about["updates"]), record
    if number > 1:
        before = stage_folder(config, number - 1)
        about = read_finished(before, manifest)
        model = build_model(config, known, ErnieConfig.from_json_file(before / "config.json"))
        new = load_weights(model, before)
        report.note(f"stage {number} continues from {before}; new: {summary(new) or 'nothing'}")
        carried = config.train.moments == "carry"
        moments = (load_file(before / "moments.safetensors"), about["updates"]) if carried else ({}, {})
        return model, replace(State(**about["state"]), stage=number, step=0), moments, None
    prior = starting_weights(config)
    model = build_model(config, known, first_shape(config, prior))
    if prior is not None:
        new, unused = load_prior(model, prior)
        report.note(f"stage 1 continues from {config.origin()[1]}; new: {summary(new) or 'nothing'}")
        if unused:
            report.note(f"of the prior weights not used: {summary(unused)}")
    return model, State(stage=1), ({}, {}), None


def starting_weights(config: Config) -> Prior | None:
    """What stage 1 continues from, if anything."""
    if config.distill is not None:
        return student_weights(config.distill)
    return read_prior(config.model.prior) if config.model.prior is not None else None


def find_teacher(student: Student, config: Config, world: World) -> Teacher:
    """On the device. Raises ValueError where hosts have different ones."""
    teacher = read_teacher(student.distill, Tokenizer.from_file(str(config.corpus.folder() / "tokenizer.json")))
    found = world.gather(teacher.fingerprint)
    if others := sorted({host for host, one in zip(world.hosts, found, strict=True) if one != found[0]}):
        raise ValueError(
            f"{', '.join(others)}: distill.teacher={student.distill.teacher} is not the one of {world.hosts[0]}. "
            "Copy it there."
        )
    fit(teacher.model.to(world.device), config, world.device)
    return teacher


def known_tasks(config: Config, number: int) -> list[str]:
    """The tasks that have a head after a stage."""
    plan = config.stages()[:number]
    return [task for task in config.tasks if any(task in stage.steps for stage in plan)]


def fit(model: Model, config: Config, device: torch.device) -> None:
    """Choose the attention that suits the device."""
    bf16 = in_bf16(config.train, device.type == "cuda")
    model.encoder.set_attn_implementation(fitting(device, bf16, model.config.attention_probs_dropout_prob))


def whole(engine, config: Config, tasks: Sequence[str], world: World) -> Model:
    """The model in one piece: under ZeRO 3 the engine's has parts alone, and ranks would wait for each other's."""
    if engine.zero_optimization_stage() < 3:
        return engine.module
    model = build_model(config, tasks, engine.module.config)
    model.load_state_dict(get_weights(engine, keep=True))
    fit(model, config, world.device)
    return model.to(world.device)


def steps_of(config: Config, number: int, sources: dict[str, Source], state: State, world: World) -> Steps:
    """What this rank reads in a stage, which `state` lies in."""
    reading = reading_of(config, number)
    begin = {task: state.positions.get(task, 0) - reading.before(task, state.step) for task in reading.stage.steps}
    multiple = ALIGNED if world.device.type == "cuda" else 1
    companions, micro = config.train.companions, config.train.micro_batch_size
    return Steps(reading, sources, begin, companions, micro, world.rank, world.size, multiple)


def build_model(config: Config, tasks: Sequence[str], shape: ErnieConfig) -> Model:
    """An encoder with heads for these tasks, from scratch; the caller loads weights into it."""
    manifest = read_manifest(config.corpus.folder())
    labels = {task: manifest["tasks"][task]["labels"] for task in tasks}
    if config.distill is not None:
        return Student(shape, labels, config.seed, config.distill)
    sharing = build_sharing(config.sharing, config.tasks, shape, config.seed)
    model = Model(shape, labels, config.seed, sharing, config.sharing.penalty)
    if config.balancing.kind == "uncertainty":
        model.log_variances = LogVariances(tasks, config.balancing.lr)
    return model


def first_shape(config: Config, prior: Prior | None) -> ErnieConfig:
    """The shape of the encoder that stage 1 starts with."""
    vocab_size = read_manifest(config.corpus.folder())["tokenizer"]["vocab_size"]
    shape = ernie_config(config.model, prior, vocab_size, config.corpus.max_length, config.corpus.max_segments)
    if prior is not None:
        check_shape(config, shape, vocab_size)
    return shape


def check_shape(config: Config, shape: ErnieConfig, vocab_size: int) -> None:
    """Refuse a configuration that contradicts its prior weights."""
    (setting, source), ours = config.origin(), config.model
    if vocab_size > shape.vocab_size:
        raise ValueError(
            f"the corpus' tokenizer has {vocab_size} entries, the embedding of {setting}={source} only "
            f"{shape.vocab_size}. Build the corpus with corpus.tokenizer={source}."
        )
    if config.corpus.max_length > shape.max_position_embeddings:
        raise ValueError(
            f"corpus.max_length={config.corpus.max_length} is more than the {shape.max_position_embeddings} positions "
            f"of {setting}={source}."
        )
    given = {
        "layers": shape.num_hidden_layers,
        "hidden": shape.hidden_size,
        "heads": shape.num_attention_heads,
        "intermediate": shape.intermediate_size,
        "activation": shape.hidden_act,
    }
    for name in ours.model_fields_set & given.keys():
        if getattr(ours, name) not in (None, given[name]):
            raise ValueError(
                f"model.{name}={getattr(ours, name)}, but {setting}={source} has {given[name]}. "
                f"Leave model.{name} out: prior weights bring their own size."
            )


def read_sources(config: Config, split: str, tasks: Sequence[str]) -> dict[str, Source]:
    corpus = config.corpus.folder()
    manifest = read_manifest(corpus)
    tokenizer = Tokenizer.from_file(str(corpus / "tokenizer.json"))
    if fingerprint(tokenizer) != manifest["tokenizer"]["fingerprint"]:
        path = corpus / "tokenizer.json"
        raise ValueError(f"{path} is not the tokenizer that {corpus} was built with. Build the corpus anew.")
    words, relations = vocabulary(tokenizer), relations_of(manifest)
    phases = config.corpus.drawings(relations) if split == "train" else [config.corpus.settings(relations)]
    readings = [reading_of(config, number) for number in range(1, len(config.stages()) + 1)]
    budgets = {task: sum(r.before(task, r.stage.total) for r in readings if task in r.stage.steps) for task in tasks}
    seed = config.seed if split == "train" else config.corpus.seed  # validation is the same for runs of any seed
    return {task: Source(task, Instances(corpus, split, task), phases, words, seed, budgets[task]) for task in tasks}


def evaluate(config: Config, report: Report) -> None:
    """Evaluate every finished stage again, from its weights."""
    world = join()
    plan = config.stages()
    for number in (number for number in range(1, len(plan) + 1) if finished(config, number)):
        model, tasks, state = load_finished(config, number)
        sources = read_sources(config, "validation", tasks)
        fit(model, config, world.device)
        records = evaluate_tasks(model.to(world.device), sources, config.evaluate.instances, config.train, world)
        at = {"kind": "evaluation", "run_step": state["run_step"], "tokens": state["tokens"], "stage": number}
        report.evaluation([{**at, **record} for record in records])


def load_finished(config: Config, number: int) -> tuple[Model, list[str], dict]:
    """The model as a finished stage left it, its tasks, and its state."""
    tasks, folder = known_tasks(config, number), stage_folder(config, number)
    about = read_finished(folder, read_manifest(config.corpus.folder()))
    model = build_model(config, tasks, ErnieConfig.from_json_file(folder / "config.json"))
    load_weights(model, folder)
    return model, tasks, about["state"]


def read_finished(folder: Path, manifest: dict) -> dict:
    """state.json of a finished stage. Raises ValueError where its files are damaged, or of another corpus."""
    if wrong := damaged(folder):
        raise ValueError(f"{wrong}. Delete {folder} to train this stage anew, or put a copy of it there.")
    return read_about(folder, manifest)


def load_weights(model: Model, folder: Path) -> list[str]:
    """Copy a checkpoint's weights into the model and return what is new in it. Raises ValueError on mismatch."""
    tensors = load_file(folder / "model.safetensors")
    place = model.state_dict()
    for name, tensor in tensors.items():
        if name not in place or place[name].shape != tensor.shape:
            ours = tuple(place[name].shape) if name in place else "no such parameter"
            raise ValueError(
                f"{folder / 'model.safetensors'}: {name} has shape {tuple(tensor.shape)}, the model {ours}. "
                "It was trained with another configuration."
            )
        place[name].copy_(tensor)
    new = sorted(place.keys() - tensors.keys())
    for name in new:
        if name.startswith("encoder.embeddings.task_type_embeddings.rows."):
            place[name].copy_(model.task_embeddings.start)
    if model.log_variances is not None:
        model.log_variances.join([task for task in model.log_variances.s if f"log_variances.s.{task}" in new])
    return new


def summary(names: Sequence[str]) -> str:
    """Parameter names, one entry per module and task."""
    short: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        if parts[0] == "heads":
            short[f"head of {parts[1]}"] = None
        elif "task_type_embeddings" in name:
            short[f"embedding of {parts[-1]}"] = None
        elif parts[0] == "sharing":
            short["sharing"] = None
        elif parts[0] == "log_variances":
            short[f"weight of {parts[-1]}"] = None
        else:
            short[".".join(parts[1:3])] = None
    return ", ".join(short)


@contextmanager
def stop_signals(report: Report) -> Iterator[Callable[[], bool]]:
    """Ctrl-C, SIGTERM and SIGHUP ask for a stop after the step in progress; Ctrl-C then ends at once.

    More than one SIGTERM is usual: a scheduler sends it to all processes, and launchers pass it on.
    """
    asked = False

    def ask(number: int, _frame) -> None:
        nonlocal asked
        signal.signal(signal.SIGINT, before[signal.SIGINT])
        first, asked = not asked, True
        if first:
            report.note("stopping after this step; Ctrl-C to stop at once")

    before = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Pace:
    """Turns step results into records: means per task, speed in real tokens, padding, waiting, memory, time left."""

    def __init__(
        self,
        config: Config,
        number: int,
        last: int,
        state: State,
        steps: Steps,
        guard: Guard,
        balancer: Balancer,
        report: Report,
        world: World,
        sharing: nn.Module,
    ):
        plan = config.stages()
        self.config, self.number, self.num_stages, self.total = config, number, len(plan), len(steps)
        self.steps, self.guard, self.balancer, self.report = steps, guard, balancer, report
        self.world, self.sharing = world, sharing
        self.left_after = sum(stage.total for stage in plan[number:last])
        self.planned = planned_memory(config, world.size)
        self.begun, self.first_step = time.monotonic(), state.step
        self.clear()

    def clear(self) -> None:
        self.window_begun = time.monotonic()
        self.losses: dict[str, torch.Tensor] = {}
        self.targets: dict[str, torch.Tensor] = {}
        self.tokens = self.slots = 0
        self.waited = 0.0
        self.balancer.seconds = 0.0

    def step(self, state: State, task: str, rate: float, result: StepResult) -> None:
        taken = result.norm.isfinite()
        for name, loss in result.losses.items():
            self.losses[name] = self.losses.get(name, 0) + torch.where(taken, loss, 0.0)
            self.targets[name] = self.targets.get(name, 0) + taken * result.targets[name]
        self.tokens += result.tokens
        self.slots += result.slots
        self.waited += result.waited
        first = state.step == self.first_step + 1  # soon, to show that all is well
        if state.step % self.config.log.every and not first and state.step < self.total and not result.stop:
            return
        self.note_skipped(state)
        targets = {name: int(count) for name, count in self.targets.items() if count}
        sums = self.world.sum([float(self.losses[name]) for name in targets])
        now = time.monotonic()
        seconds, pace = now - self.window_begun, (now - self.begun) / (state.step - self.first_step)
        gates = read_gates(self.sharing, self.world)
        self.report.step({
            "kind": "step",
            "run_step": state.run_step,
            "stage": self.number,
            "num_stages": self.num_stages,
            "step": state.step,
            "num_steps": self.total,
            "task": task,
            "loss": {name: loss / targets[name] for name, loss in zip(targets, sums, strict=True)},
            "weight": self.balancer.shown(),
            "probe_seconds": self.balancer.seconds,
            "gradient_norm": float(result.norm) if taken else None,
            "skipped": state.skipped,
            "lr": rate,
            "tokens_per_second": self.tokens / seconds,
            "padding_share": 1 - self.tokens / self.slots,
            "wait_share": self.waited / seconds,
            "memory": peak_memory(self.world.device),
            "memory_planned": self.planned,
            "seconds_left": pace * (self.total - state.step + self.left_after),
            "tokens": state.tokens,
            **({"penalty": float(result.penalty)} if result.penalty is not None else {}),
            **({"gates": gates} if gates else {}),
        })  # fmt: skip
        self.clear()

    def skip(self, seconds: float) -> None:
        """Time that was not spent on steps."""
        self.window_begun += seconds
        self.begun += seconds

    def note_skipped(self, state: State) -> None:
        """Count and keep the steps refused since the last call. Raises ValueError where they are too many."""
        for run_step, (task, position, size), norm in self.guard.skipped():
            state.skipped += 1
            source = self.steps.sources[task]
            instances = [order(at, len(source.instances), source.seed, task) for at in range(position, position + size)]
            path = self.config.folder() / "skipped.jsonl"
            if self.world.main:
                record = {"run_step": run_step, "task": task, "gradient_norm": str(norm), "instances": instances}
                with path.open("a") as file:
                    file.write(json.dumps(record) + "\n")
            self.report.note(f"step {run_step} of the run ({task}) skipped: gradient norm {norm}; see {path}")
            if state.skipped > self.config.train.max_skipped:
                raise ValueError(
                    f"{state.skipped} steps were skipped, more than train.max_skipped={self.config.train.max_skipped}; "
                    f"{path} names their instances (epoch, number). Lower train.lr, or look at these instances."
                )


def peak_memory(device: torch.device) -> float:
    """Most bytes that this process had: on the GPU, or resident on the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
