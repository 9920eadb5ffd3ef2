"""Training the stages of a run: builds what the loop needs, and keeps what it leaves."""

import json
import logging
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import ErnieConfig

from corpus_tools.config import relations_of
from corpus_tools.shards import KEPT, Instances, aside, read_manifest
from corpus_tools.tokenizer import fingerprint, vocabulary
from pretrain.config import Config
from pretrain.data.batch import Source
from pretrain.engine import get_moments, make_engine, set_moments
from pretrain.evaluate import evaluate as evaluate_tasks
from pretrain.loop import State, StepResult, train_stage
from pretrain.model.model import Model, ernie_config, load_prior
from pretrain.model.prior import Prior, read_prior
from pretrain.report import Report
from pretrain.run import Typed, claim_folder, finished, locked, stage_folder, stages_of, wanted_stages
from pretrain.world import World, join

KEEP_CHECKPOINTS = 2
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def train(config: Config, stages: Sequence[int] | None, report: Report, typed: Typed) -> None:
    """Train the wanted stages (1-based; None: all) that are not finished. Runs in every rank."""
    wanted = wanted_stages(config, stages, typed)
    world = join()
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    with locked(config) if world.main else nullcontext(), stop_signals(report) as stop_wanted:
        if world.main:
            claim_folder(config)
        world.barrier()
        for number in wanted:
            if finished(config, number):
                report.note(f"stage {number} is finished: {stage_folder(config, number)}")
                continue
            asked = world.sum([stop_wanted()])[0] > 0
            if asked or not train_one(config, number, wanted[-1], report, world, stop_wanted):
                report.note(f"stopped and saved. To go on: {typed.again()}")
                return


def train_one(config: Config, number: int, last: int, report: Report, world: World, stop_wanted) -> bool:
    """Train one stage to its end, evaluate and keep it; False where it was stopped (and saved) before."""
    folder = stage_folder(config, number)
    plan = stages_of(config)
    stage = plan[number - 1]
    known = [task for task in config.tasks if any(task in earlier.steps for earlier in plan[:number])]
    manifest = read_manifest(config.corpus.folder())
    if number > 1:
        before = stage_folder(config, number - 1)
        model = build_model(config, known, ErnieConfig.from_json_file(before / "config.json"))
        new = load_stage(model, before)
        past = read_state(before, manifest)
        state = replace(State(**past["state"]), stage=number, step=0)
        report.note(f"stage {number} continues from {before}; new: {summary(new) or 'nothing'}")
    else:
        prior = read_prior(config.model.prior) if config.model.prior is not None else None
        model = build_model(config, known, first_shape(config, prior))
        state = State(stage=1)
        if prior is not None:
            new, unused = load_prior(model, prior)
            report.note(f"stage 1 continues from {config.model.prior}; new: {summary(new) or 'nothing'}")
            if unused:
                report.note(f"of the prior weights not used: {summary(unused)}")
    engine = make_engine(model, config.train, world)
    if number > 1 and config.train.moments == "carry":
        set_moments(engine, load_file(before / "moments.safetensors"), past["updates"])
    checkpoints = folder / "checkpoints"
    latest = checkpoints / "latest.json"
    if latest.exists():
        state = load_checkpoint(engine, checkpoints, manifest, config, world)
        report.note(f"stage {number} goes on from step {state.step}")
    sources = read_sources(config, "train", list(stage.steps))
    pace = Pace(config, number, plan, last, state, report, world)

    def after_step(state: State, task: str, rate: float, result: StepResult) -> None:
        pace.step(state, task, rate, result)
        if state.step % config.train.checkpoint_every == 0 and state.step < stage.total and not result.stop:
            save_checkpoint(engine, checkpoints, state, manifest, world)

    if not train_stage(engine, stage, sources, state, config.train, config.seed, world, after_step, stop_wanted):
        save_checkpoint(engine, checkpoints, state, manifest, world)
        return False
    held_out = read_sources(config, "validation", known)
    records = evaluate_tasks(engine, held_out, config.evaluate.instances, config.train, world)
    report.evaluation([{"kind": "evaluation", "run_step": state.run_step, "stage": number, **r} for r in records])
    save_stage(engine, folder, state, manifest, world)
    return True


def build_model(config: Config, tasks: Sequence[str], shape: ErnieConfig) -> Model:
    """An encoder with heads for these tasks, from scratch; the caller loads weights into it."""
    manifest = read_manifest(config.corpus.folder())
    return Model(shape, {task: manifest["tasks"][task]["labels"] for task in tasks}, config.seed)


def first_shape(config: Config, prior: Prior | None) -> ErnieConfig:
    """The shape of the encoder that stage 1 starts with."""
    vocab_size = read_manifest(config.corpus.folder())["tokenizer"]["vocab_size"]
    shape = ernie_config(config.model, prior, vocab_size, config.corpus.max_length, config.corpus.max_segments)
    if prior is not None:
        check_shape(config, shape, vocab_size)
    return shape


def check_shape(config: Config, shape: ErnieConfig, vocab_size: int) -> None:
    """Refuse a configuration that contradicts its prior weights."""
    prior, ours = config.model.prior, config.model
    if vocab_size > shape.vocab_size:
        raise ValueError(
            f"the corpus' tokenizer has {vocab_size} entries, the embedding of model.prior={prior} only "
            f"{shape.vocab_size}. Build the corpus with corpus.tokenizer={prior}."
        )
    if config.corpus.max_length > shape.max_position_embeddings:
        raise ValueError(
            f"corpus.max_length={config.corpus.max_length} is more than the {shape.max_position_embeddings} positions "
            f"of model.prior={prior}."
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
                f"model.{name}={getattr(ours, name)}, but model.prior={prior} has {given[name]}. "
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
    budget = config.schedule.steps_per_task * config.train.batch_size
    return {task: Source(task, Instances(corpus, split, task), phases, words, config.seed, budget) for task in tasks}


def evaluate(config: Config, report: Report) -> None:
    """Evaluate every finished stage again, from its weights."""
    world = join()
    plan = stages_of(config)
    for number in (number for number in range(1, len(plan) + 1) if finished(config, number)):
        model, tasks, state = load_finished(config, number)
        sources = read_sources(config, "validation", tasks)
        records = evaluate_tasks(model.to(world.device), sources, config.evaluate.instances, config.train, world)
        at = {"kind": "evaluation", "run_step": state["run_step"], "stage": number}
        report.evaluation([{**at, **record} for record in records])


def load_finished(config: Config, number: int) -> tuple[Model, list[str], dict]:
    """The model as a finished stage left it, its tasks, and its state."""
    plan = stages_of(config)
    tasks = [task for task in config.tasks if any(task in stage.steps for stage in plan[:number])]
    folder = stage_folder(config, number)
    model = build_model(config, tasks, ErnieConfig.from_json_file(folder / "config.json"))
    load_stage(model, folder)
    return model, tasks, read_state(folder, read_manifest(config.corpus.folder()))["state"]


def load_stage(model: Model, folder: Path) -> list[str]:
    """Copy a finished stage's weights into the model and return what is new in it. Raises ValueError on mismatch."""
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
        else:
            short[".".join(parts[1:3])] = None
    return ", ".join(short)


def save_stage(engine, folder: Path, state: State, manifest: dict, world: World) -> None:
    """Weights and moments, then state.json, whose existence means that the stage is finished. Collective."""
    moments, updates = get_moments(engine)
    if world.main:
        weights = {name: tensor.cpu().contiguous() for name, tensor in engine.module.state_dict().items()}
        write_tensors(folder / "model.safetensors", weights)
        write_tensors(folder / "moments.safetensors", moments)
        write_json(folder / "config.json", engine.module.config.to_dict())
        about = {"state": asdict(state), "updates": updates, "corpus": manifest["fingerprint"]}
        write_json(folder / "state.json", about)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    world.barrier()


def save_checkpoint(engine, folder: Path, state: State, manifest: dict, world: World) -> None:
    """DeepSpeed's checkpoint of a stage in progress; latest.json last, then older ones go. Collective."""
    try:
        engine.save_checkpoint(str(folder), tag=tag_of(state.step), save_latest=False)
    except RuntimeError as error:  # torch's way of saying that the disk is full
        raise OSError(f"cannot write {folder / tag_of(state.step)}: {error}. {KEPT}") from None
    if world.main:
        about = {"state": asdict(state), "ranks": world.size, "corpus": manifest["fingerprint"]}
        write_json(folder / "latest.json", about)
        tags = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
        for old in tags[:-KEEP_CHECKPOINTS]:
            shutil.rmtree(old)
    world.barrier()


def load_checkpoint(engine, folder: Path, manifest: dict, config: Config, world: World) -> State:
    """The newest checkpoint of a stage in progress. Raises ValueError where it does not fit, or is not whole."""
    saved = json.loads((folder / "latest.json").read_text())
    check_corpus(saved["corpus"], manifest, folder)
    state = State(**saved["state"])
    if config.train.zero_stage and saved["ranks"] != world.size:
        raise ValueError(
            f"{folder} was written by {saved['ranks']} ranks, now there are {world.size}. With train.zero_stage="
            f"{config.train.zero_stage} a stage goes on with as many: --processes {saved['ranks']}."
        )
    tag = tag_of(state.step)
    if not (folder / tag).is_dir():
        raise ValueError(f"{folder / tag} is missing. Delete {folder.parent} to train this stage anew.")
    engine.load_checkpoint(str(folder), tag=tag)
    return state


def read_state(folder: Path, manifest: dict) -> dict:
    """state.json of a finished stage. Raises ValueError where the corpus is not the one that it was trained on."""
    state = json.loads((folder / "state.json").read_text())
    check_corpus(state["corpus"], manifest, folder)
    return state


def check_corpus(trained_on: str, manifest: dict, folder: Path) -> None:
    if trained_on != manifest["fingerprint"]:
        raise ValueError(
            f"{folder} was trained on another corpus than the one that lies there now: it was built anew, from other "
            "text or settings. Give the run another name= to start over on it."
        )


def tag_of(step: int) -> str:
    return f"step{step}"


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    with aside(path) as part:
        try:
            save_file(dict(tensors), part, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(str(error)) from None


def write_json(path: Path, thing: dict) -> None:
    with aside(path) as part:
        part.write_text(json.dumps(thing, indent=1) + "\n")


@contextmanager
def stop_signals(report: Report) -> Iterator[Callable[[], bool]]:
    """Ctrl-C, SIGTERM and SIGHUP ask for a stop after the step in progress; a second one ends at once."""
    asked = False

    def ask(number: int, _frame) -> None:
        nonlocal asked
        asked = True
        signal.signal(number, before[signal.Signals(number)])
        report.note("stopping after this step; once more to stop at once")

    before = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Pace:
    """Turns step results into records: means per task, speed in real tokens, padding, time left."""

    def __init__(self, config: Config, number: int, plan, last: int, state: State, report: Report, world: World):
        self.config, self.number, self.plan, self.report, self.world = config, number, plan, report, world
        self.left_after = sum(stage.total for stage in plan[number:last])
        self.begun, self.first_step = time.monotonic(), state.step
        self.clear()

    def clear(self) -> None:
        self.window_begun = time.monotonic()
        self.losses: dict[str, torch.Tensor] = {}
        self.targets: dict[str, int] = {}
        self.tokens = self.slots = 0

    def step(self, state: State, task: str, rate: float, result: StepResult) -> None:
        for name, loss in result.losses.items():
            if not result.targets[name]:  # a companion that found nothing to predict
                continue
            self.losses[name] = self.losses.get(name, 0) + loss
            self.targets[name] = self.targets.get(name, 0) + result.targets[name]
        self.tokens += result.tokens
        self.slots += result.slots
        total = self.plan[self.number - 1].total
        first = state.step == self.first_step + 1  # soon, to show that all is well
        if state.step % self.config.log.every and not first and state.step < total and not result.stop:
            return
        names = list(self.losses)
        sums = self.world.sum([float(self.losses[name]) for name in names])
        now = time.monotonic()
        pace = (now - self.begun) / (state.step - self.first_step)
        self.report.step({
            "kind": "step",
            "run_step": state.run_step,
            "stage": self.number,
            "num_stages": len(self.plan),
            "step": state.step,
            "num_steps": total,
            "task": task,
            "loss": {name: loss / self.targets[name] for name, loss in zip(names, sums, strict=True)},
            "lr": rate,
            "tokens_per_second": self.tokens / (now - self.window_begun),
            "padding_share": 1 - self.tokens / self.slots,
            "seconds_left": pace * (total - state.step + self.left_after),
            "tokens": state.tokens,
        })  # fmt: skip
        self.clear()
