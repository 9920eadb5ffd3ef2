"""What is promised of training together: the same on any number of ranks, interrupted or not."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import made
import numpy as np
import pytest
import torch
from ranks import run_ranks
from safetensors.torch import load_file
from together_cases import learn, suite
from torch import nn
from typer.testing import CliRunner

from finetune import Together, load_suite, load_together, run_together
from finetune import together as together_module
from finetune.heads import loss, share_encoder
from finetune.shared import cut, rate
from finetune.train import prepare, read_task
from launch.cli import app, run

KINDS = ("single", "pair", "similarity", "tokens", "ranking")
SAN = {"steps": 3, "dropout": 0.0}
SETTINGS = {"lr": 1e-3, "warmup": 0.2}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A task of every kind, the answer network too, and an encoder."""
    folder = tmp_path_factory.mktemp("together")
    trees = {kind: made.task(kind, folder, train=12, test=4) for kind in KINDS}
    trees["san"] = made.task("pair", folder, train=12, test=4, san=SAN)
    suite(folder, {"together": SETTINGS} | trees)
    made.checkpoint(folder / "encoder")
    return folder


@pytest.fixture(scope="module")
def one_rank(place):
    return learn(place, "one.pt")


NOISE = ("attention.self.key.bias", f"models.{KINDS.index('ranking')}.classifier.bias")
"""A softmax does not see them: their gradient is rounding alone, which AdamW makes large."""


def felt(tensors: dict) -> dict:
    return {name: tensor for name, tensor in tensors.items() if not any(noise in name for noise in NOISE)}


def assert_same(place: Path, one: dict, other: dict, name: str) -> None:
    assert other["same"]
    assert other["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert other["updates"] == one["updates"]
    first, second = torch.load(place / "one.pt"), torch.load(place / name)
    torch.testing.assert_close(felt(second["weights"]), felt(first["weights"]), atol=2e-5, rtol=1e-3)
    torch.testing.assert_close(felt(second["moments"]), felt(first["moments"]), atol=1e-5, rtol=1e-2)


def assert_rests(run: dict) -> None:
    """A step moves the encoder and its task's head; no other head, by no bit, though all have momentum."""
    for task, moved in run["moved"][1:]:  # the first step has a learning rate of 0
        assert {name.split(".")[1] for name in moved if name.startswith("models.")} == {str(task)}
        assert any(name.startswith("encoder.encoder.layer.0.") for name in moved)
        pools = ["single", "pair", "similarity", "tokens", "ranking", "san"][task] not in ("tokens", "san")
        assert any(".pooler." in name for name in moved) == pools


def test_the_engine_takes_the_steps_of_a_plain_loop(place, one_rank):
    """AdamW with clipping and transformers' schedule over the mean losses, squared errors in parts of the variance;
    heads without a gradient are passed over."""
    from transformers import get_linear_schedule_with_warmup

    data = [read_task(name, task, place) for name, task in load_suite(place / "suite.yaml").items()]
    prepared = [prepare(one, place / "encoder", 0) for one in data]
    encoder = share_encoder([one.model for one in prepared])
    models = nn.ModuleList([one.model for one in prepared]).train()
    decay = [[one for one in models.parameters() if (one.ndim > 1) == matrix] for matrix in (True, False)]
    optimizer = torch.optim.AdamW([{"params": decay[0]}, {"params": decay[1], "weight_decay": 0.0}], lr=1e-3)
    steps = len(one_rank["losses"])
    schedule = get_linear_schedule_with_warmup(optimizer, -(-steps // 5), steps)
    losses = []
    for first, size in enumerate((5, 4, 1, 3)):
        for one, of in zip(prepared, data, strict=True):
            batch = one.collate(one.features["train"][first : first + size])
            labels = batch.pop("labels")
            found = loss(of.task, one.model(**batch).logits, labels)
            if of.task.kind == "similarity":
                found = found / np.var([feature["labels"] for feature in one.features["train"]])
            found.backward()
            nn.utils.clip_grad_norm_(models.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(found.item())
    assert one_rank["losses"] == pytest.approx(losses, rel=1e-4)
    expected = {f"encoder.{name}": parameter.detach() for name, parameter in encoder.named_parameters()}
    kept = {name: tensor for name, tensor in torch.load(place / "one.pt")["weights"].items() if name in expected}
    torch.testing.assert_close(felt(kept), felt(expected), atol=2e-5, rtol=1e-3)
    assert_rests(one_rank)


@pytest.mark.parametrize(
    ("zero_stage", "micro"),
    [(0, None), pytest.param(1, None, marks=pytest.mark.slow), (2, 2)],
)
def test_two_ranks_equal_one(place, one_rank, zero_stage, micro):
    """Also where a batch is 3 and 2 examples, or one for two ranks, and where micro-batches are accumulated."""
    name = f"two-{zero_stage}.pt"
    folder = place / name.removesuffix(".pt")
    folder.mkdir()
    settings = {"zero_stage": zero_stage} | ({} if micro is None else {"micro_batch_size": micro})
    for path in ("suite.yaml", "encoder", *{*KINDS, "pair"}):
        (folder / path).symlink_to(place / path)
    run, other = run_ranks("together_cases:learn", 2, folder, out=name, **settings)
    assert run == other
    (folder / name).rename(place / name)
    assert_same(place, one_rank, run, name)
    assert_rests(run)


def test_micro_batches_and_moments_that_are_carried_change_nothing(place, one_rank):
    assert_same(place, one_rank, learn(place, "micro.pt", micro_batch_size=2, zero_stage=1), "micro.pt")
    halves = learn(place, "halves.pt", halves=True)
    assert halves["losses"] == one_rank["losses"]
    torch.testing.assert_close(torch.load(place / "halves.pt"), torch.load(place / "one.pt"), rtol=0, atol=0)


def test_every_rank_has_as_many_micro_batches_and_every_row_counts_once():
    for count in (1, 2, 5, 9):
        for size in (1, 2, 4):
            for most in (None, 1, 2):
                parts = [cut(range(count), rank, size, most) for rank in range(size)]
                assert len({len(its) for its in parts}) == 1
                assert all(len(part) <= (most or count) for its in parts for part, _ in its)
                assert sorted(row for its in parts for part, weight in its if weight for row in part) == [*range(count)]
    assert [rate(step, 10, Together(lr=1.0, warmup=0.2)) for step in (0, 1, 2, 6)] == [0, 0.5, 1, 0.5]


# Interruptions


class Small:
    """Two tasks with dropout, 13 steps an epoch, and the command that learns them."""

    def __init__(self, folder: Path, rows: int = 50, **settings):
        self.folder = folder
        trees = {kind: made.task(kind, folder, train=rows, test=20, epochs=1) for kind in ("single", "pair")}
        self.settings = {"epochs": 2, "mixing": "annealed", "lr": 1e-3, "batch_size": 8} | settings
        suite(folder, {"together": self.settings} | trees)
        self.encoder = made.checkpoint(folder / "encoder", hidden_dropout_prob=0.1)

    def run(self, out: str, say=lambda line: None, **changes):
        together = load_together(self.folder / "suite.yaml").model_copy(update=changes)
        tasks = load_suite(self.folder / "suite.yaml")
        return run_together(tasks, together, self.encoder, self.folder, [0], self.folder / out, say=say, save=True)

    def command(self, out: str, *more: str) -> list[str]:
        return [
            *(sys.executable, "-c", "from launch.cli import main; main()", "finetune", str(self.folder / "suite.yaml")),
            *(self.encoder, "--data", str(self.folder), "--out", str(self.folder / out), "--together", *more),
        ]

    def training(self, out: str) -> Path:
        return self.folder / out / "encoder+together/together/seed0.training"

    def tensors(self, out: str) -> dict[str, torch.Tensor]:
        return load_file(self.folder / out / "encoder+together/together/seed0/model.safetensors")

    def weights(self, out: str) -> dict[str, bytes]:
        folder = self.folder / out / "encoder+together/together/seed0"
        found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")}
        assert set(found) == {"model.safetensors", "heads/single.safetensors", "heads/pair.safetensors"}
        return found

    def results(self, out: str) -> list[dict]:
        found = [json.loads(path.read_text()) for path in sorted((self.folder / out).glob("*/*/seed0.json"))]
        assert len(found) == 4
        return [{key: value for key, value in result.items() if key != "seconds"} for result in found]


@pytest.fixture
def small(tmp_path) -> Small:
    return Small(tmp_path)


def stop_at(line: str):
    def say(said: str) -> None:
        if line in said:
            raise KeyboardInterrupt

    return say


@pytest.mark.parametrize("step", [2, 6, 19])
def test_interrupted_inside_an_epoch_it_ends_as_if_unbroken(small, monkeypatch, step):
    """Before the first checkpoint, and after one in the first epoch, and in the second, whose weights are other."""
    rank = os.environ.get("RANK")  # other tests of this process may have joined a world
    small.run("unbroken")
    monkeypatch.setattr(together_module, "PAUSE", -1)
    with pytest.raises(KeyboardInterrupt):
        small.run("broken", stop_at(f"step {step}/28"), checkpoint_every=5)
    said = []
    small.run("broken", said.append, checkpoint_every=3)
    went_on = [line for line in said if "goes on from" in line]
    assert went_on == ([f"together  seed 0  goes on from step {step // 5 * 5}/28"] if step >= 5 else [])
    assert small.results("broken") == small.results("unbroken")
    assert small.weights("broken") == small.weights("unbroken")
    assert re.search(r"step 20/28  loss: (single|pair) \d\.\d{3}  [\d,]+ tok/s  left 0:\d\d", "\n".join(said))
    assert not small.training("broken").exists() and os.environ.get("RANK") == rank


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(small, monkeypatch):
    small.run("unbroken")
    monkeypatch.setattr(together_module, "PAUSE", -1)
    with pytest.raises(KeyboardInterrupt):
        small.run("broken", stop_at("step 12/28"), checkpoint_every=5, zero_stage=1)
    path = small.training("broken") / "checkpoints/step10/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    said = []
    small.run("broken", said.append)
    assert "step10/model.safetensors is damaged" in said[0] and "goes on from step 5/28" in said[1]
    assert small.results("broken") == small.results("unbroken")


def test_a_checkpoint_of_something_else_is_refused_by_name(small):
    with pytest.raises(KeyboardInterrupt):
        small.run("broken", stop_at("epoch 1/2"))
    checkpoint = re.escape(str(small.training("broken") / "checkpoints/step14"))
    mend = re.escape(f"Delete {small.training('broken')}, or give another --out.")
    with pytest.raises(ValueError, match=rf"{checkpoint} was made with together.lr=0.001, now it is 0.1. {mend}"):
        small.run("broken", lr=0.1)
    (small.folder / "single/train.jsonl").write_text((small.folder / "single/dev.jsonl").read_text())
    with pytest.raises(ValueError, match=rf"{checkpoint} was made with other rows: 14 steps an epoch, now 10. {mend}"):
        small.run("broken")
    made.checkpoint(Path(small.encoder), initializer_range=0.2)
    with pytest.raises(ValueError, match=rf"{checkpoint} was made with other weights, {re.escape(small.encoder)} as"):
        small.run("broken")


def kill_then_go_on(small: Small, processes: int) -> None:
    """Kill the command with two ranks inside an epoch, and start it again, with another number or the same."""
    ranks = subprocess.Popen(small.command("broken", "--save", "--processes", "2"), stdout=subprocess.DEVNULL)
    until = time.monotonic() + 200
    while not [*(small.training("broken") / "checkpoints").glob("step[23]0")]:
        assert ranks.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    ranks.send_signal(signal.SIGKILL)
    ranks.wait()
    again = small.command("broken", "--save", "--processes", str(processes))
    rest = subprocess.run(again, capture_output=True, text=True, timeout=300)
    assert rest.returncode == 0, rest.stderr
    assert re.search(r"goes on from step [2-7]0/80", rest.stdout)


@pytest.mark.slow
def test_killed_ranks_go_on_to_the_same_bits(tmp_path):
    small = Small(tmp_path, rows=160, checkpoint_every=10, zero_stage=2)
    done = subprocess.run(
        small.command("unbroken", "--save", "--processes", "2"), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    kill_then_go_on(small, 2)
    assert small.results("broken") == small.results("unbroken")
    assert small.weights("broken") == small.weights("unbroken")


@pytest.mark.slow
def test_killed_ranks_go_on_as_one_process_to_what_one_gives(tmp_path):
    """Without dropout, which ranks draw for themselves."""
    small = Small(tmp_path, rows=160, checkpoint_every=10)
    small.encoder = made.checkpoint(small.folder / "plain/encoder")
    small.run("unbroken")
    kill_then_go_on(small, 1)
    first, second = small.tensors("unbroken"), small.tensors("broken")
    torch.testing.assert_close(felt(second), felt(first), atol=1e-3, rtol=1e-3)


# The command


def test_two_processes_give_what_one_gives(small, capfd):
    """Without dropout, which ranks draw for themselves."""
    small.encoder = made.checkpoint(small.folder / "plain/encoder")
    for out, processes in (("one", "1"), ("two", "2")):
        done = CliRunner().invoke(app, small.command(out, "--save", "--processes", processes)[3:])
        assert done.exit_code == 0, done.output
        assert re.search(r"together  seed 0  epoch 2/2  dev mean 0\.\d{3}  single 0.* left 0:00\n", done.output)
        assert not re.search("warning|deepspeed|launch", done.output, re.I)
    assert "Traceback" not in capfd.readouterr().err
    torch.testing.assert_close(felt(small.tensors("two")), felt(small.tensors("one")), atol=1e-4, rtol=1e-3)
    for one, other in zip(small.results("one"), small.results("two"), strict=True):
        assert one["together"] == other["together"] and one["epochs"] == pytest.approx(other["epochs"], abs=0.06)
    done = CliRunner().invoke(app, small.command("two", "--save")[3:])
    assert done.exit_code == 0 and "epoch" not in done.output  # finished, whatever the number of processes


def test_a_rank_that_fails_ends_the_command_with_one_line(small, capfd):
    with pytest.raises(KeyboardInterrupt):
        small.run("out", stop_at("epoch 1/2"))
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
        run(lambda: app(small.command("out", "--processes", "2", "--set", "together.lr=0.1")[3:], prog_name="cumul"))
    said = capfd.readouterr().err
    assert end.value.code == 1
    assert re.fullmatch(r"error: \S+/step14 was made with together\.lr=0\.001, now it is 0\.1\. .*\n", said)


def test_what_cannot_be_is_one_line(small):
    for more, message in {
        ("--processes", "2"): "--processes 2 is for what is learnt together. Add --together",
        ("--set", "together.zero_stage=3", "--together"): "together.zero_stage: Input should be 0, 1 or 2 (got 3)",
    }.items():
        suite_path = str(small.folder / "suite.yaml")
        done = CliRunner().invoke(app, ["finetune", suite_path, small.encoder, "--data", str(small.folder), *more])
        assert isinstance(done.exception, ValueError) and message in str(done.exception)
        assert "\n" not in str(done.exception)
