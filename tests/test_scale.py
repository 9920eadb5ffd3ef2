"""What `cumul plan --nodes` promises; that traffic is as counted at a network card is in tests/launch/test_hosts.py."""

import json
import subprocess
import sys

import pytest

from pretrain.config import load_config
from pretrain.plan import plan, span
from pretrain.report import make_console
from pretrain.scale import Cluster, pace, passes, sent

CLUSTER = Cluster(nodes=64, gpus=8, peak=1e15, mfu=0.5, network=50e9, disk=1e9)


def test_one_rank_sends_nothing():
    assert [sent(1000, zero, ranks=1, passes=3) for zero in range(4)] == [0, 0, 0, 0]


def test_an_all_reduce_of_many_ranks_sends_all_gradients_twice():
    assert sent(1000, zero=0, ranks=10**6, passes=1) == pytest.approx(2 * 4 * 1000, rel=1e-5)
    assert sent(1000, zero=0, ranks=10**6, passes=1, gradient=2) == pytest.approx(2 * 2 * 1000, rel=1e-5)


@pytest.mark.parametrize(("zero", "grows"), [(0, False), (1, False), (2, True), (3, True)])
def test_accumulation_costs_traffic_only_where_nobody_keeps_whole_gradients_or_weights(zero, grows):
    assert (sent(1000, zero, 8, passes=4) > sent(1000, zero, 8, passes=1)) is grows


def test_a_step_is_computing_and_sending():
    step = pace(CLUSTER, operations=512 * 1e15, total=10**9, zero=0, passes=1)
    assert step.computing == pytest.approx(2.0)
    assert step.sending == pytest.approx(2 * 511 / 512 * 4e9 / 50e9)
    assert step.seconds == step.computing + step.sending


def test_inside_one_node_the_network_card_has_nothing_to_do():
    assert pace(CLUSTER._replace(nodes=1), 1e15, 10**9, zero=0, passes=1).sending == 0


@pytest.mark.parametrize(
    ("batch", "micro", "ranks", "expected"), [(768, 16, 48, 1), (768, 8, 48, 2), (7, 4, 2, 1), (32, 32, 1, 1)]
)
def test_passes_are_the_micro_batches_that_a_rank_computes(batch, micro, ranks, expected):
    assert passes(batch, micro, ranks) == expected


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0012, "1.2 ms"), (12.3, "12.3 s"), (600, "10 min"), (7200, "2 h"), (10**6, "11.6 d")]
)
def test_spans_have_the_unit_that_one_would_say(seconds, text):
    assert span(seconds) == text


def test_the_plan_of_a_cluster_says_time_traffic_and_storage(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text("corpus: {sources: [text], vocab_size: 30000}\ntrain: {batch_size: 4096}\n")
    make_console().print(plan(load_config(path), CLUSTER.ranks, CLUSTER))
    out = " ".join(capsys.readouterr().out.split())
    for word in ("sent per node", "GPU-hours", "checkpoint", "read in training", "64 nodes × 8 GPUs", "in bf16"):
        assert word in out


def test_deepspeeds_json_can_be_seen_without_torch(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("corpus: {sources: [text]}\ntrain: {zero_stage: 2, offload: true, communication: bf16}\n")
    code = "import sys; from launch.cli import app; app(['plan', sys.argv[1], '--deepspeed'], standalone_mode=False); "
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["zero_optimization"]["stage"] == 2
    assert shown["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert shown["communication_data_type"] == "bf16"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["train.offload=true"], "offload=true needs zero_stage=1 or more"),
        (["train.communication=bf16", "train.zero_stage=3"], "communication=bf16 needs zero_stage=2 or less"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_with_the_reason(settings, says):
    with pytest.raises(ValueError, match=says):
        load_config(None, settings)
