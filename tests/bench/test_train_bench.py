"""The bench of training: its formula, and a tiny run of all of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from written import english, write_jsonl

from bench.hardware import PEAKS, ceiling, measured_peak, mfu, peak_of
from pretrain.plan import Sizes

ROOT = Path(__file__).parents[2]
SIZES = Sizes(vocabulary=1000, hidden=8, layers=2, heads=2, intermediate=32, positions=64, types=2, tasks=1)


def test_utilisation_by_hand():
    layer = 4 * (8 * 8 + 8) + (8 * 32 + 32) + (32 * 8 + 8) + 2 * 2 * 8
    attention = 12 * 2 * 10 * 8
    head = 6 * 8 * (8 + 1000) / 8
    needed = 6 * 2 * layer + attention + head
    assert needed == 18_432
    assert mfu(SIZES, 1e6, length=10, predicted=1 / 8, peak=1e12) == pytest.approx(0.018432)
    assert ceiling(SIZES, length=10, predicted=1 / 8, peak=18_432) == 1


def test_utilisation_is_one_where_the_peak_is_what_torch_counts():
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import ErnieConfig, ErnieModel

    sizes = Sizes(vocabulary=1000, hidden=128, layers=3, heads=4, intermediate=512, positions=64, types=2, tasks=1)
    shape = ErnieConfig(
        vocab_size=1000, hidden_size=128, num_hidden_layers=3, num_attention_heads=4, intermediate_size=512,
        attn_implementation="eager",
    )  # fmt: skip
    encoder, dense = ErnieModel(shape, add_pooling_layer=False), torch.nn.Linear(128, 128)
    tokens, length = 128, 64
    with FlopCounterMode(display=False) as counter:
        hidden = encoder(torch.zeros(tokens // length, length, dtype=torch.long)).last_hidden_state.flatten(0, 1)
        (dense(hidden[::8]) @ encoder.embeddings.word_embeddings.weight.T).sum().backward()
    seconds = 0.5
    peak = counter.get_total_flops() / seconds
    assert mfu(sizes, tokens / seconds, length, 1 / 8, peak) == pytest.approx(1, rel=0.02)


def test_an_unknown_device_is_named():
    with pytest.raises(ValueError, match=r"'Abacus 3000' is not known.*bench/hardware\.py"):
        peak_of("Abacus 3000")


def test_peaks_are_flops():
    assert peak_of("NVIDIA H200") == 989e12
    assert all(1e13 < peak < 1e16 for peak in PEAKS.values())
    assert 1e8 < measured_peak(threads=1, size=256, rounds=2) < 1e13


@pytest.mark.slow
def test_a_tiny_run_ends_in_one_json_object(tmp_path):
    pytest.importorskip("accelerate", reason="Hugging Face's Trainer needs accelerate: make extras")
    write_jsonl(tmp_path / "docs.jsonl", [english(f"doc {n}") for n in range(60)])
    done = subprocess.run(
        [
            sys.executable, str(ROOT / "bench" / "train.py"), "--english", "docs.jsonl", "--mb", "0.5",
            "--vocabulary", "800", "--models", "1x32@32", "--rounds", "1", "--steps", "2", "--tokens", "512",
            "--at-once", "256", "--threads", "1",
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    (model,) = result.pop("models").values()
    assert list(result) == [
        "single_vs_padded",
        "single_vs_blocks",
        "seven_vs_single",
        "padding_share",
        "data_wait_share",
    ]
    assert all(model[key] == value for key, value in result.items())
    assert min(result["single_vs_padded"], result["single_vs_blocks"], result["seven_vs_single"]) > 0
    assert 0 <= result["padding_share"] < 1 and 0 <= result["data_wait_share"] < 1
    assert 0 < model["mfu"] < 1
    assert sum(model["profile"].values()) == pytest.approx(1, abs=0.01)
    single, blocks = model["sides"]["single"], model["sides"]["blocks"]
    assert 0.1 < single["predicted"] < 0.2 and blocks["padding_share"] == 0
    assert single["resident"] > single["grown"] > 0
