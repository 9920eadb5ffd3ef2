"""RoBERTa's way of training is a configuration: masked words alone, drawn anew, without phrases and entities."""

from pathlib import Path

import numpy as np
from conftest import records
from rich.console import Console
from test_train import run

from pretrain.config import load_config
from pretrain.plan import parameters, plan, read_sizes
from pretrain.train import read_sources

PATH = Path(__file__).parents[2] / "configs/paper/roberta-style.yaml"
TINY = [
    "name=tiny-roberta", "corpus.name=tiny", "corpus.max_length=64", "model.layers=2", "model.hidden=32",
    "model.heads=2", "model.intermediate=64", "schedule.steps_per_task=40", "train.batch_size=8",
    "train.micro_batch_size=8", "train.lr=1e-2", "train.warmup_steps=4", "log.every=1",
]  # fmt: skip


def test_it_is_one_stage_without_a_sentence_task():
    config = load_config(PATH)
    assert [stage.steps for stage in config.stages()] == [{"knowledge_masking": 500_000}]
    sizes = read_sizes(config)
    assert parameters(sizes, {}).layers == 85_054_464, "twelve layers of BERT base"
    console = Console(width=200)
    with console.capture() as captured:
        console.print(plan(config, 64))
    assert "8192 instances of up to 512 tokens" in captured.get()


def test_made_tiny_it_trains(tiny):
    config = load_config(PATH, TINY)
    run(config)
    losses = [record["loss"]["knowledge_masking"] for record in records(config, "step")]
    assert len(losses) == 40 and np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5


def test_masks_are_drawn_anew_in_every_epoch(tiny):
    source = read_sources(load_config(PATH, TINY), "train", ["knowledge_masking"])["knowledge_masking"]
    assert source.phases[0].levels == (1.0, 0.0, 0.0)
    first, second = (
        [source.draw(index, epoch).targets["knowledge_masking"].positions for index in range(20)] for epoch in (0, 1)
    )
    assert sum(list(a) == list(b) for a, b in zip(first, second, strict=True)) < 5
