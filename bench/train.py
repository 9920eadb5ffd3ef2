"""How fast training is, beside Hugging Face's Trainer with the same model, text and tokenizer in the same run.

    python bench/train.py [--english FILES] [--models 4x256@128 …] [--rounds 3] [--steps 14] [--device cuda] [--peers]

Ours: one task (knowledge masking), and the seven English tasks in balance. Peers: Trainer with its collator for masked
LM on one paragraph a line, padded to the longest of the batch (run_mlm.py --line_by_line), and on paragraphs
concatenated and cut at the length (run_mlm.py). All see about as many real tokens a step, with the same dropout and
threads; the first steps are not counted. Sides take turns, each run is a process of its own; ratios are medians of
those of the rounds. On CPU it also prints where a step's time goes, and what the matrix products alone would allow.

--device cuda measures ours alone, in bf16, base at lengths 128 and 512 and large: tokens/s and MFU.

The last line is one JSON object; each ratio and share in it is the worst of all models, `models` has the details.
"""

import argparse
import json
import logging
import os
import re
import resource
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import psutil
import torch
from corpus import alone, documents_of, paragraphs, ratio, tasks_of, write
from hardware import ceiling, measured_peak, mfu, peak_of
from tokenizers import Tokenizer
from torch.profiler import ProfilerActivity, profile

from corpus_tools.build import build_corpus
from corpus_tools.config import CorpusConfig
from corpus_tools.shards import Instances
from pretrain.config import Config, ModelConfig, ScheduleConfig, TrainConfig
from pretrain.plan import count_classes, parameters, planned_memory, read_sizes

# Every run is a process of its own, which imports this file: what takes seconds to import is left to who needs it.

FIRST = 3
"""Steps that are not counted, at least: caches fill, memory is claimed."""
SAMPLE = 1000
"""Instances whose lengths are measured, at most."""
BARS = {"NeoBERT's": 155_000, "ModernBERT's": 300_000}
"""Real tokens/s of base that were published for one H200-class GPU."""
PEERS = ("padded", "blocks")
GROUPS = {
    "optimizer": r"Optimizer\.step|fused_adam|vector_norm|_foreach",
    "attention": r"scaled_?dot_?product|flash_?attention|_softmax",
    "cross-entropy": r"log_?softmax|nll_?loss",
    "dropout": r"dropout|bernoulli",
    "norm, activation": r"layer_?norm|gelu|tanh|relu",
    "matrix products": r"linear|mm\b|AddmmBackward|MmBackward|matmul",
}
"""Names of operations, or of what called them. The nearest caller that matches decides."""
SIDES = {
    "single": "ours, one task",
    "seven": "ours, seven tasks",
    "padded": "Trainer, padded",
    "blocks": "Trainer, blocks",
}


class Setting(NamedTuple):
    """What all sides of one comparison share."""

    layers: int
    hidden: int
    length: int
    device: str
    threads: int
    dropout: float
    attention_dropout: float
    steps: int
    """Steps that are counted."""
    tokens: int
    """Real tokens in a step, about."""
    at_once: int
    """Of these, computed at once; the rest is accumulated."""

    @property
    def name(self) -> str:
        return f"{self.layers}x{self.hidden}@{self.length}"

    @property
    def heads(self) -> int:
        return max(1, self.hidden // 64)


class Lengths(NamedTuple):
    """Of the instances of knowledge masking, in tokens."""

    mean: float
    attended: float
    """What a token attends over: the mean over tokens, not over instances."""


class Run(NamedTuple):
    """One side, measured once."""

    tokens_per_second: float
    padding_share: float
    """Of the places that were computed."""
    data_wait_share: float
    """Of the time: ours waits for batches, Trainer for its collator."""
    predicted: float
    """Targets of masked LM per token."""
    resident: float
    """Peak memory of the process in bytes."""
    grown: float
    """What of it came after the model was asked for."""
    gpu: float
    """Peak of what was allocated on the GPU, in bytes."""


def main() -> None:
    arguments = parse()
    gpu = arguments.device == "cuda"
    if not gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ |= {"DS_ACCELERATOR": arguments.device, "TOKENIZERS_PARALLELISM": "false"}
    peak = peak_of(alone(torch.cuda.get_device_name)) if gpu else alone(measured_peak, arguments.threads)
    print(f"peak: {peak / 1e12:,.4g} TFLOP/s {'in bf16, by its data sheet' if gpu else 'in fp32, measured'}")
    documents = list(documents_of(arguments.english))
    sides = ("single", "seven", *(PEERS if arguments.peers else ()))
    models = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        size = write(documents, "en", arguments.mb, arguments.vocabulary)
        print(f"text: {size:.1f} MB", flush=True)
        same = {name: getattr(arguments, name) for name in Setting._fields[3:]}
        settings = [Setting(*model, **same) for model in arguments.models]
        lengths = {length: alone(build, length, arguments.threads) for length in {each.length for each in settings}}
        for setting in settings:
            models[setting.name] = compare(setting, lengths[setting.length], sides, arguments.rounds, peak)
    worst = {f"single_vs_{peer}": min for peer in PEERS if peer in sides} | {
        "seven_vs_single": max,
        "padding_share": max,
        "data_wait_share": max,
    }
    result = {key: pick(model[key] for model in models.values()) for key, pick in worst.items()}
    print(json.dumps(rounded({**result, "models": models})))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--english", default="demo:en", help="documents: a file, folder or glob")
    parser.add_argument("--mb", type=float, help="text, repeated where there is less; 4, on GPU 20")
    parser.add_argument("--vocabulary", type=int, help="of the tokenizer that is trained on it; 16,000, on GPU 30,522")
    parser.add_argument("--models", nargs="+", type=shape, help="LAYERSxHIDDEN@LENGTH")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, help="measure Trainer too; on GPU: no")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="that are counted; 14, on GPU 70")
    parser.add_argument("--tokens", type=int, help="real tokens in a step, about; 4,096, on GPU 65,536")
    parser.add_argument("--at-once", type=int, help="of these, computed at once; all, on GPU 32,768")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--attention-dropout", type=float, help="as --dropout, on GPU 0")
    arguments = parser.parse_args()
    usual: dict[str, Any] = {
        "mb": 4, "vocabulary": 16_000, "models": [(4, 256, 128), (4, 512, 128)], "peers": True, "steps": 14,
        "tokens": 4096, "attention_dropout": arguments.dropout,
    }  # fmt: skip
    if arguments.device == "cuda":
        usual = {
            "mb": 20, "vocabulary": 30_522, "models": [(12, 768, 128), (12, 768, 512), (24, 1024, 512)], "peers": False,
            "steps": 70, "tokens": 65_536, "at_once": 32_768, "attention_dropout": 0.0,
        }  # fmt: skip
    for key, value in usual.items():
        if getattr(arguments, key) is None:
            setattr(arguments, key, value)
    arguments.at_once = arguments.at_once or arguments.tokens
    return arguments


def shape(text: str) -> tuple[int, ...]:
    """Layers, hidden size and length of `4x256@128`."""
    match = re.fullmatch(r"(\d+)x(\d+)@(\d+)", text)
    if match is None:
        raise ValueError
    return tuple(map(int, match.groups()))


def compare(setting: Setting, lengths: Lengths, sides: Sequence[str], rounds: int, peak: float) -> dict[str, Any]:
    """Every side in turn, all rounds; prints what came out, and returns what the JSON has of it."""
    runs: dict[str, list[Run]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            runs[side].append(alone(trainer, setting, side) if side in PEERS else alone(ours, setting, side, lengths))
    speeds = {side: [run.tokens_per_second for run in several] for side, several in runs.items()}
    middle = {side: Run(*map(statistics.median, zip(*several, strict=True))) for side, several in runs.items()}
    single, seven = middle["single"], middle["seven"]
    config = config_of(setting, "single", lengths)
    sizes, (classes, _) = read_sizes(config), count_classes(config)
    result = {f"single_vs_{side}": ratio(speeds["single"], speeds[side]) for side in sides if side in PEERS} | {
        "seven_vs_single": ratio(speeds["single"], speeds["seven"]),
        "padding_share": max(single.padding_share, seven.padding_share),
        "data_wait_share": max(single.data_wait_share, seven.data_wait_share),
        "mfu": mfu(sizes, single.tokens_per_second, lengths.attended, single.predicted, peak),
        "ceiling_tokens_per_second": ceiling(sizes, lengths.attended, single.predicted, peak),
        "parameters": parameters(sizes, classes).total,
        "planned_bytes": planned_memory(config, ranks=1),
        "sides": {side: run._asdict() | {"rounds": speeds[side]} for side, run in middle.items()},
    }
    if setting.device == "cpu":
        result["profile"] = alone(profiled, setting, lengths)
    show(setting, result)
    return result


def show(setting: Setting, result: dict[str, Any]) -> None:
    print(f"\n{setting.name}: {result['parameters'] / 1e6:.1f} M parameters, about {setting.tokens:,} tokens a step")
    print(f"  {'':18} tokens/s  padding  waiting  peak MB  (rounds)")
    for side, run in result["sides"].items():
        spread = " ".join(f"{speed:,.0f}" for speed in run["rounds"])
        print(
            f"  {SIDES[side]:18} {run['tokens_per_second']:8,.0f}  {run['padding_share']:7.1%}  "
            f"{run['data_wait_share']:7.1%}  {(run['gpu'] or run['resident']) / 1e6:7,.0f}  ({spread})"
        )
    print("  " + ", ".join(f"{key} {value:.3f}" for key, value in result.items() if "_vs_" in key))
    single = result["sides"]["single"]
    held, planned = single["gpu"] or single["grown"], result["planned_bytes"]
    print(f"  what training one task holds: {held / 1e6:,.0f} MB; cumul plan says {planned / 1e6:,.0f} MB")
    print(f"  MFU {result['mfu']:.1%}; 100 % would be {result['ceiling_tokens_per_second']:,.0f} tokens/s")
    if (setting.device, setting.layers, setting.hidden) == ("cuda", 12, 768):
        reached = [f"{single['tokens_per_second'] / bar:.2f} × {whose} {bar:,}" for whose, bar in BARS.items()]
        print(f"  one task reaches {', '.join(reached)} tokens/s")
    if "profile" in result:
        shares = [f"{group} {share:.1%}" for group, share in result["profile"].items()]
        print(f"  where a step of one task goes: {', '.join(shares)}", flush=True)


def rounded(thing: Any) -> Any:
    """With four figures."""
    if isinstance(thing, Mapping):
        return {key: rounded(value) for key, value in thing.items()}
    if isinstance(thing, list):
        return [rounded(value) for value in thing]
    return float(f"{thing:.4g}") if isinstance(thing, float) else thing


def corpus_config(length: int) -> CorpusConfig:
    return CorpusConfig(name=f"length{length}", sources=["en.jsonl"], tokenizer="en.json", max_length=length)


def config_of(setting: Setting, side: str, lengths: Lengths) -> Config:
    """A step of seven tasks has as many instances as one of a single task, not as many tokens."""
    tasks = tasks_of("en") if side == "seven" else ["knowledge_masking"]
    batch, micro = (max(1, round(tokens / lengths.mean)) for tokens in (setting.tokens, setting.at_once))
    return Config(
        name="bench",
        tasks=tasks,
        corpus=corpus_config(setting.length),
        model=ModelConfig(
            layers=setting.layers,
            hidden=setting.hidden,
            heads=setting.heads,
            dropout=setting.dropout,
            attention_dropout=setting.attention_dropout,
        ),
        schedule=ScheduleConfig(kind="joint", steps_per_task=-(-(first_of(tasks) + setting.steps) // len(tasks))),
        train=TrainConfig(batch_size=batch, micro_batch_size=micro),
    )


def build(length: int, workers: int) -> Lengths:
    """One corpus with all tasks, from the text that is there."""
    config = corpus_config(length)
    build_corpus(config, tasks_of("en"), workers, notify=lambda line: None)
    instances = Instances(config.folder(), "train", "knowledge_masking")
    some = (instances[number] for number in range(0, len(instances), -(-len(instances) // SAMPLE)))
    sizes = [1 + sum(len(segment.ids) + 1 for segment in segments) for segments, _ in some]
    return Lengths(statistics.mean(sizes), sum(size * size for size in sizes) / sum(sizes))


def ours(setting: Setting, side: str, lengths: Lengths, profiler: profile | None = None) -> Run:
    """The loop of training, with all that it needs built as training builds it."""
    from pretrain.engine import make_engine
    from pretrain.guard import Guard
    from pretrain.loop import State, StepResult, train_stage
    from pretrain.train import READERS_ON_GPU, build_model, first_shape, fit, rate_of, read_sources, steps_of
    from pretrain.world import join

    torch.set_num_threads(setting.threads)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    config, world = config_of(setting, side, lengths), join()
    first, readers = first_of(config.tasks), READERS_ON_GPU if setting.device == "cuda" else 0
    before = psutil.Process().memory_info().rss
    model = build_model(config, config.tasks, first_shape(config, None))
    fit(model, config, world.device)
    state, guard = State(stage=1), Guard({}, config.train.spike, config.train.spike_window)
    engine = make_engine(model, config.train, world, guard)
    steps = steps_of(config, 1, read_sources(config, "train", config.tasks), state, world)
    clock, count = Clock(setting.device), Counter[str]()

    def after_step(state: State, task: str, rate: float, result: StepResult) -> None:
        if state.step > first:
            count["tokens"] += result.tokens
            count["slots"] += result.slots
            count["waited"] += result.waited
            count["predicted"] += result.targets.get("knowledge_masking", 0)
        if state.step == first:
            clock.start()
            if profiler is not None:
                profiler.start()
        if state.step == len(steps):
            clock.stop()
            if profiler is not None:
                profiler.stop()

    train_stage(engine, steps, state, rate_of(config, 1), config.seed, world, guard, readers, after_step, lambda: False)
    return run_of(clock, count, before)


def first_of(tasks: Sequence[str]) -> int:
    """Steps that are not counted: whole rounds of the tasks."""
    return -(-FIRST // len(tasks)) * len(tasks)


class Clock:
    """Seconds between two moments at which the device has done all that it was given."""

    def __init__(self, device: str):
        self.wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def start(self) -> None:
        self.wait()
        self.begun = time.perf_counter()

    def stop(self) -> None:
        self.wait()
        self.seconds = time.perf_counter() - self.begun


def run_of(clock: Clock, count: Mapping[str, float], before: float) -> Run:
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Run(
        tokens_per_second=count["tokens"] / clock.seconds,
        padding_share=1 - count["tokens"] / count["slots"],
        data_wait_share=count["waited"] / clock.seconds,
        predicted=count["predicted"] / count["tokens"],
        resident=resident,
        grown=resident - before,
        gpu=torch.cuda.max_memory_allocated(),
    )


def profiled(setting: Setting, lengths: Lengths) -> dict[str, float]:
    """Shares of the time of one task's steps: groups of operations, other operations, and all that is none."""
    profiler = profile(activities=[ProfilerActivity.CPU])
    ours(setting, "single", lengths, profiler)
    events = list(profiler.events())
    wall = max(event.time_range.end for event in events) - min(event.time_range.start for event in events)
    times = Counter[str]()
    for event in events:
        times[group_of(event)] += event.self_cpu_time_total
    times["outside operations"] = wall - times.total()
    return {group: microseconds / wall for group, microseconds in times.most_common()}


def group_of(event) -> str:
    caller = event
    while caller is not None:
        for group, names in GROUPS.items():
            if re.search(names, caller.name, re.IGNORECASE):
                return group
        caller = caller.cpu_parent
    return "other operations"


def trainer(setting: Setting, side: str) -> Run:
    """Trainer with its collator for masked LM, as Hugging Face's run_mlm.py puts them together."""
    from transformers import (
        DataCollatorForLanguageModeling,
        ErnieConfig,
        ErnieForMaskedLM,
        PreTrainedTokenizerFast,
        PrinterCallback,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    torch.set_num_threads(setting.threads)
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "cls", "sep", "pad", "mask")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_file="en.json", **special)
    rows = rows_of(side, setting.length)
    mean = statistics.mean(map(len, rows))
    batch, micro = (max(1, round(tokens / mean)) for tokens in (setting.tokens, setting.at_once))
    before = psutil.Process().memory_info().rss
    config = ErnieConfig(
        vocab_size=len(tokenizer),
        hidden_size=setting.hidden,
        num_hidden_layers=setting.layers,
        num_attention_heads=setting.heads,
        intermediate_size=4 * setting.hidden,
        hidden_dropout_prob=setting.dropout,
        attention_probs_dropout_prob=setting.attention_dropout,
        use_task_id=True,
    )
    clock, counts, seen = Clock(setting.device), [], Counter[str]()
    mask = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)

    def collate(examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        begun = time.perf_counter()
        batch = mask(examples)
        seen["waited"] += time.perf_counter() - begun
        seen["tokens"] += sum(len(example["input_ids"]) for example in examples)
        seen["slots"] += batch["input_ids"].numel()
        seen["predicted"] += int((batch["labels"] != -100).sum())
        return batch

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step in (FIRST, FIRST + setting.steps):
                counts.append(seen.copy())
                clock.start() if state.global_step == FIRST else clock.stop()

    options = TrainingArguments(
        "trainer",
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=max(1, round(batch / micro)),
        max_steps=FIRST + setting.steps,
        bf16=setting.device == "cuda",
        use_cpu=setting.device == "cpu",
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
    )
    data: Any = [{"input_ids": row} for row in rows]
    training = Trainer(ErnieForMaskedLM(config), options, collate, data, callbacks=[Watch()])
    training.remove_callback(PrinterCallback)
    training.train()
    return run_of(clock, counts[1] - counts[0], before)


def rows_of(side: str, length: int) -> list[list[int]]:
    """The text as Trainer gets it: each paragraph a row, cut at the length, or all end to end in rows of the length."""
    tokenizer = Tokenizer.from_file("en.json")
    texts = [text for text in paragraphs("en") if text.strip()]
    if side == "padded":
        tokenizer.enable_truncation(length)
        return [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    flat = [number for encoding in tokenizer.encode_batch(texts) for number in encoding.ids]
    return [flat[start : start + length] for start in range(0, len(flat) - length + 1, length)]


if __name__ == "__main__":
    main()
