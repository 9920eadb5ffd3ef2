"""Several hosts for real: DeepSpeed's launcher over ssh between network namespaces, and what is lost when one is."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults import write_text
from namespaces import Hosts, lacking

from launch.hosts import read_hostfile
from pretrain.config import load_config
from pretrain.plan import count_classes, parameters, read_sizes
from pretrain.scale import sent

CUMUL = [sys.executable, "-c", "from launch.cli import main; main()"]
RUN = """
name: {name}
tasks: [knowledge_masking, sentence_distance]
corpus: {{name: tiny, sources: [text.txt], vocab_size: 300, max_length: 32, validation_share: 0.3, min_tokens: 8}}
model: {{layers: 1, hidden: 16, heads: 2, dropout: 0, attention_dropout: 0}}
schedule: {{steps_per_task: {steps}}}
train: {{batch_size: 12, micro_batch_size: 12, warmup_steps: 2, companions: [knowledge_masking], checkpoint_every: 20}}
evaluate: {{instances: 16}}
log: {{every: 1}}
launch: {{restarts: {restarts}, timeout: {timeout}}}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    write_text(tmp_path / "text.txt")
    (tmp_path / "net").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def configure(name, steps=30, restarts=0, timeout=20):
    path = Path(f"{name}.yaml")
    path.write_text(RUN.format(name=name, steps=steps, restarts=restarts, timeout=timeout))
    return str(path)


def records(name, kind="step"):
    path = Path(f"runs/{name}/metrics.jsonl")
    lines = path.read_text().splitlines() if path.exists() else []
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def same_losses(one, other):
    first, second = (records(name) for name in (one, other))
    assert [r["run_step"] for r in first] == [r["run_step"] for r in second]
    assert [r["tokens"] for r in first] == [r["tokens"] for r in second], "the same instances in the same order"
    for a, b in zip(first, second, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


def train_alone(name, steps):
    done = subprocess.run([*CUMUL, "train", configure(name, steps)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def wait_for(condition, process, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < until
        time.sleep(0.05)


def said(process, timeout=200):
    try:
        return process.communicate(timeout=timeout)[0]
    finally:
        process.kill()


@pytest.fixture
def needs_hosts():
    if reason := lacking():
        pytest.skip(reason)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("n0\n", "line 1: 'n0' is not `HOST slots=RANKS`"),
        ("# all\nn0 slots=2\nn0 slots=2\n", "line 3: n0 stands there twice"),
        ("n0 slots=0\n", "line 1"),
        ("n0;reboot slots=1\n", "line 1"),
        ("\n# none\n", "names no host"),
    ],
)
def test_a_hostfile_that_cannot_be_read_is_named(tmp_path, text, says):
    path = tmp_path / "hosts"
    path.write_text(text)
    with pytest.raises(ValueError, match="hosts") as caught:
        read_hostfile(path)
    assert says in str(caught.value)


def test_a_hostfile_gives_ranks_in_its_order(tmp_path):
    (tmp_path / "hosts").write_text("# two\nb.example slots=8  # the first\n\n10.0.0.1 slots=4\n")
    assert list(read_hostfile(tmp_path / "hosts").items()) == [("b.example", 8), ("10.0.0.1", 4)]


@pytest.mark.slow
def test_two_hosts_give_the_losses_of_one(place, needs_hosts):
    train_alone("alone", 10)
    subprocess.run(["cp", "-r", "corpora/tiny", "own"], check=True)
    own_corpus = f"mount --bind {place}/own {place}/corpora/tiny"
    with Hosts(place / "net", 2, odd=own_corpus) as hosts:
        run = hosts.start(*CUMUL, "train", configure("together", 10), "--hostfile", "net/hosts")
        out = said(run)
    assert run.returncode == 0, out
    same_losses("alone", "together")
    assert Path("runs/together/logs/rank1.log").exists()


@pytest.mark.slow
def test_the_error_of_the_rank_that_crashed_is_the_last_line(place, needs_hosts):
    """A shard of host n1 was cut short after it was built; nothing looks at all shards before they are read."""
    train_alone("alone", 4)
    subprocess.run(["cp", "-r", "corpora/tiny", "own"], check=True)
    for shard in Path("own/train").iterdir():
        shard.write_bytes(shard.read_bytes()[:-100])
    with Hosts(place / "net", 2, odd=f"mount --bind {place}/own {place}/corpora/tiny") as hosts:
        run = hosts.start(*CUMUL, "train", configure("crash", 100), "--hostfile", "net/hosts")
        out = said(run)
        assert "launch.worker" not in hosts.commands("n0") + hosts.commands("n1")
    assert run.returncode == 1, out
    assert re.search(r"error: rank 1 on n1: \S+/train/00000\.safetensors is cut short", out.splitlines()[-1]), out
    assert "did not answer: rank 1 on n1" in Path("runs/crash/logs/rank0.log").read_text()


@pytest.mark.slow
def test_a_cut_cable_ends_all_ranks_with_the_name_of_the_host_and_the_run_goes_on_after(place, needs_hosts):
    train_alone("alone", 200)
    with Hosts(place / "net", 2) as hosts:
        command = [*CUMUL, "train", configure("cut", 200, timeout=10), "--hostfile", "net/hosts"]
        run = hosts.start(*command)
        wait_for(lambda: len(records("cut")) > 30, run)
        hosts.cut("n1")
        begun = time.monotonic()
        out = said(run, timeout=120)
        assert run.returncode == 1 and "rank 1 on n1" in out.splitlines()[-1], out
        assert time.monotonic() - begun < 60
        wait_for(lambda: "launch.worker" not in hosts.commands("n1"), hosts.start("sleep", "90"), 60)
        hosts.mend("n1")
        again = hosts.start(*command)
        out = said(again)
        assert again.returncode == 0, out
    same_losses("alone", "cut")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "what", "left"),
    [
        ("n1", "-m launch.worker", 3),
        ("n1", "deepspeed.launcher.launch", 3),
        ("n0", "deepspeed.launcher.runner", 3),
        ("n2", "", 2),
    ],
    ids=["rank", "launcher of a host", "launcher of all", "host"],
)
def test_a_run_that_lost_something_goes_on_by_itself(place, needs_hosts, host, what, left):
    train_alone("alone", 200)
    with Hosts(place / "net", 3) as hosts:
        run = hosts.start(*CUMUL, "train", configure("lost", 200, restarts=3), "--hostfile", "net/hosts")
        wait_for(lambda: len(records("lost")) > 50, run)
        assert hosts.kill(host, what)
        out = said(run)
    assert run.returncode == 0 and "restart 1 of 3" in out, out
    (resume, *_) = records("lost", "resume")
    assert resume["changed"].get("ranks", [3, 3])[1] == left
    same_losses("alone", "lost")


def start_agents(hosts, config):
    rendezvous = ["--rendezvous", f"{hosts.address(0)}:29400", "--nodes", "1:2"]
    return [hosts.start(*CUMUL, "train", config, *rendezvous, host=host) for host in hosts.names]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["-m launch.worker", ""], ids=["rank", "host"])
def test_agents_go_on_with_what_is_left(place, needs_hosts, what):
    train_alone("alone", 400)
    with Hosts(place / "net", 2) as hosts:
        first, second = start_agents(hosts, configure("agents", 400, restarts=3))
        wait_for(lambda: len(records("agents")) > 50, first)
        assert hosts.kill("n1", what)
        out = said(first)
        assert first.returncode == 0, out
        if what:
            out = said(second)
            assert second.returncode == 0, out
    (resume, *_) = records("agents", "resume")
    assert resume["changed"].get("ranks", [2, 2])[1] == (2 if what else 1)
    same_losses("alone", "agents")


@pytest.mark.slow
def test_a_host_that_must_leave_saves_first_and_the_others_go_on(place, needs_hosts):
    train_alone("alone", 400)
    with Hosts(place / "net", 2) as hosts:
        first, second = start_agents(hosts, configure("leaving", 400, restarts=3))
        wait_for(lambda: len(records("leaving")) > 50, first)
        second.send_signal(signal.SIGTERM)
        assert "interrupted" in said(second) and second.returncode == 130
        out = said(first)
        assert first.returncode == 0, out
    (resume,) = records("leaving", "resume")
    assert resume["step"] % 20, "not at a checkpoint of every 20 steps: it was made when the host left"
    same_losses("alone", "leaving")


@pytest.mark.slow
def test_the_file_stop_ends_all_agents_for_good(place, needs_hosts):
    train_alone("alone", 4)
    with Hosts(place / "net", 2) as hosts:
        agents = start_agents(hosts, configure("stopped", 4000, restarts=3))
        wait_for(lambda: len(records("stopped")) > 10, agents[0])
        Path("runs/stopped/stop").touch()
        for agent in agents:
            out = said(agent)
            assert agent.returncode == 0, out
    assert not Path("runs/stopped/stop").exists() and not records("stopped", "resume")


@pytest.mark.slow
def test_ctrl_c_saves_on_all_hosts_and_says_how_to_go_on(place, needs_hosts):
    with Hosts(place / "net", 2) as hosts:
        run = hosts.start(*CUMUL, "train", configure("stopped", 2000), "--hostfile", "net/hosts")
        wait_for(lambda: len(records("stopped")) > 10, run)
        run.send_signal(signal.SIGTERM)
        out = said(run)
        assert "launch.worker" not in hosts.commands("n1")
    assert run.returncode == 130
    assert "stopped and saved. To go on: cumul train stopped.yaml --hostfile=net/hosts" in out
    assert Path("runs/stopped/stage1/checkpoints/latest.json").exists()


def other_corpus(place):
    other = place / "other"
    subprocess.run(["cp", "-r", "corpora/tiny", other], check=True)
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest | {"fingerprint": "another"}))
    return f"mount --bind {other} {place}/corpora/tiny"


def other_code(place):
    module = Path(__file__).parents[2] / "pretrain" / "guard.py"
    (place / "guard.py").write_text(module.read_text() + "# edited\n")
    return f"mount --bind {place}/guard.py {module}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("odd", "says"),
    [
        (other_corpus, "n1: corpus is another, on n0 it is"),
        (other_code, "n1: code is"),
        (lambda place: f"mount -t tmpfs none {place}/runs", "n1: it does not see"),
        (lambda place: "ulimit -n 512", "n1: a process may open 512 files only"),
    ],
    ids=["corpus", "code", "disk", "files"],
)
def test_doctor_and_training_name_the_host_that_does_not_fit(place, needs_hosts, odd, says):
    train_alone("fit", 4)
    config = configure("unfit", 4)
    with Hosts(place / "net", 2, odd=odd(place)) as hosts:
        for command in ("doctor", "train"):
            run = hosts.start(*CUMUL, command, config, "--hostfile", "net/hosts")
            out = said(run)
            assert run.returncode == 1 and says in out.splitlines()[-1], out


@pytest.mark.slow
def test_a_wrong_clock_fails_the_doctor_and_is_noted_by_training(place, needs_hosts):
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        pytest.skip("libfaketime is not installed")
    train_alone("fit", 4)
    exports = f"LD_PRELOAD={library} FAKETIME=+60s"
    with Hosts(place / "net", 2, exports=exports) as hosts:
        doctor = hosts.start(*CUMUL, "doctor", configure("late", 4), "--hostfile", "net/hosts")
        out = said(doctor)
        assert doctor.returncode == 1 and re.search(r"n1: its clock is \+(59|60) s off that of n0", out), out
        run = hosts.start(*CUMUL, "train", configure("late", 4), "--hostfile", "net/hosts")
        out = said(run)
        assert run.returncode == 0 and re.search(r"n1: its clock is \+(59|60) s off that of n0", out), out


@pytest.mark.slow
@pytest.mark.parametrize(("zero", "passes"), [(0, 1), (1, 2), (2, 2), (3, 1)])
def test_a_step_sends_what_the_plan_says(place, needs_hosts, zero, passes):
    """Less what a run sends at its start and end: a run of 25 steps beside one of 5."""
    settings = [
        "tasks=[knowledge_masking]", "schedule.kind=joint", "model={layers: 2, hidden: 256, heads: 4}",
        "log.every=1000", "train.companions=[]", f"train.zero_stage={zero}", f"train.micro_batch_size={6 // passes}",
    ]  # fmt: skip
    config = configure("volume", 5)
    train_alone("alone", 4)
    parts = load_config(Path(config), settings)
    classes, _ = count_classes(parts)
    total = parameters(read_sizes(parts), classes).total
    counted = []
    with Hosts(place / "net", 2) as hosts:
        for steps in (5, 25):
            before = hosts.sent("n1")
            more = [f"name=volume{steps}", f"schedule.steps_per_task={steps}"]
            run = hosts.start(*CUMUL, "train", config, *settings, *more, "--hostfile", "net/hosts")
            out = said(run)
            assert run.returncode == 0, out
            counted.append(hosts.sent("n1") - before)
    assert (counted[1] - counted[0]) / 20 == pytest.approx(sent(total, zero, 2, passes), rel=0.1)


@pytest.mark.slow
def test_doctor_finds_nothing_where_all_is_well_and_times_the_network(place, needs_hosts):
    train_alone("well", 4)
    with Hosts(place / "net", 2) as hosts:
        doctor = hosts.start(*CUMUL, "doctor", configure("well2", 4), "--hostfile", "net/hosts")
        out = said(doctor)
        assert doctor.returncode == 0 and "all is well" in out and "GB/s" in out, out
        hosts.kill("n1")
        out = said(hosts.start(*CUMUL, "doctor", configure("well2", 4), "--hostfile", "net/hosts"))
        assert "n1: " in out and "`ssh n1 true`" in out
