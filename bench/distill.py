"""How large and how fast a student is beside its teacher: two Hugging Face checkpoints, on CPU, in one process.

    python bench/distill.py TEACHER STUDENT [--text demo:en] [--sentences 512] [--batch 32] [--rounds 5] [--threads 1]

Both encode the same paragraphs, longest first, padded to the longest of a batch, each by its own tokenizer and without
gradients. They take turns, the first round is not counted; the speed-up is the median of the rounds' ratios. The last
line is one JSON object.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from corpus import documents_of
from transformers import AutoModel, PreTrainedModel

from finetune.checkpoint import load_model, load_tokenizer, local

Inputs = Sequence[dict[str, torch.Tensor]]


class Side(NamedTuple):
    model: PreTrainedModel
    batches: Inputs
    megabytes: float
    """Of its weights on disk, heads included."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teacher")
    parser.add_argument("student")
    parser.add_argument("--text", default="demo:en", help="documents: a file, folder or glob")
    parser.add_argument("--sentences", type=int, default=512, help="paragraphs that each encodes in a round")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=128, help="tokens; the rest of a paragraph is cut off")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    texts = list(islice(paragraphs_of(arguments.text), arguments.sentences))
    names = ("teacher", "student")
    sides = {name: load(getattr(arguments, name), texts, arguments.batch, arguments.length) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(arguments.rounds + 1):
        for name, side in sides.items():
            seconds = encode(side)
            if turn:
                times[name].append(seconds)
    result: dict[str, float] = {}
    for name, side in sides.items():
        parameters = sum(parameter.numel() for parameter in side.model.parameters())
        speed = len(texts) / statistics.median(times[name])
        spread = " ".join(f"{seconds:.2f}" for seconds in times[name])
        result |= {f"{name}_parameters": parameters, f"{name}_sentences_s": round(speed, 2)}
        print(
            f"{name}: {parameters / 1e6:.1f} M parameters, {side.megabytes:.1f} MB, {speed:.1f} sentences/s "
            f"(rounds, s: {spread})"
        )
    result["size_ratio"] = round(result["student_parameters"] / result["teacher_parameters"], 3)
    ratios = [teacher / student for teacher, student in zip(times["teacher"], times["student"], strict=True)]
    result["speed_up"] = round(statistics.median(ratios), 3)
    print(f"{os.cpu_count()} cores, {arguments.threads} used; {len(texts)} sentences, batches of {arguments.batch}")
    print(json.dumps(result))


def paragraphs_of(source: str) -> Iterator[str]:
    for document in documents_of(source):
        for section in document.sections:
            yield from section.paragraphs


def load(checkpoint: str, texts: Sequence[str], batch: int, length: int) -> Side:
    with local(checkpoint) as folder:
        model, _ = load_model(AutoModel, folder)
        tokenizer = load_tokenizer(folder)
        megabytes = sum(path.stat().st_size for path in Path(folder).glob("model*.safetensors")) / 1e6
    ordered = sorted(texts, key=len, reverse=True)
    batches = [
        dict(tokenizer(ordered[at : at + batch], truncation=True, max_length=length, padding=True, return_tensors="pt"))
        for at in range(0, len(ordered), batch)
    ]
    return Side(model.eval(), batches, megabytes)


@torch.inference_mode()
def encode(side: Side) -> float:
    begun = time.perf_counter()
    for inputs in side.batches:
        side.model(**inputs)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
