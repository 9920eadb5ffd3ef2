"""The same build by processes, Ray and Slurm. Ray runs for real; so does Slurm where it is installed (slow)."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from written import SMALL, english, write_jsonl

from corpus_tools.build import build_corpus
from corpus_tools.config import CorpusConfig
from corpus_tools.executors import make_executor

FEW = ["knowledge_masking", "sentence_distance"]


def shards(corpus: Path) -> dict[str, bytes]:
    return {f"{path.relative_to(corpus)}": path.read_bytes() for path in sorted(corpus.rglob("*.safetensors"))}


def write(folder: Path) -> list[str]:
    return [write_jsonl(folder / "docs.jsonl", [english(f"doc {n}") for n in range(60)])]


def built(name: str, **settings) -> tuple[dict[str, bytes], dict]:
    config = CorpusConfig(name=name, **{**SMALL, "shard_mb": 0.02, **settings})
    manifest = build_corpus(config, FEW, 2)
    del manifest["config"]["name"], manifest["fingerprint"]
    assert len(manifest["shards"]["train"]) > 3
    return shards(config.folder()), manifest


@pytest.mark.slow
def test_ray_builds_the_same_corpus(folder):
    ray = pytest.importorskip("ray", reason="ray is not installed (make extras)")
    sources = write(folder)
    ray.init(num_cpus=2, log_to_driver=False, logging_level="warning", include_dashboard=False)
    try:
        assert built("ray", executor="ray", sources=sources) == built("here", sources=sources)
        (folder / "cut.txt.gz").write_bytes(b"\x1f\x8b\x08")
        with pytest.raises(
            OSError, match=r"1 of 1 tasks are not finished\. cut\.txt\.gz is truncated.*task_00000\.log"
        ):
            built("bad", executor="ray", sources=["cut.txt.gz"])
    finally:
        ray.shutdown()


@pytest.fixture
def sbatch(folder, monkeypatch) -> Path:
    """A command of that name, so that the executor can be made; nothing calls it."""
    (folder / "bin").mkdir()
    (folder / "bin" / "sbatch").write_text("#!/bin/sh\nexit 1\n")
    (folder / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    return folder / "bin" / "sbatch"


def test_the_slurm_script_asks_for_what_the_configuration_says(folder, sbatch):
    slurm = {"partition": "long", "time": "2:00:00", "mem_per_cpu_gb": 3, "arguments": {"account": "lab"}}
    config = CorpusConfig(executor="slurm", slurm=slurm)
    executor = make_executor([], 10, folder / "build", config, 2)
    script = executor.get_launch_file_contents(executor.get_sbatch_args(10), "true")
    lines = {line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")}
    assert {"partition=long", "time=2:00:00", "mem-per-cpu=3G", "account=lab", "array=0-9", "wait"} <= lines
    assert not any(line.startswith(("mail", "qos")) for line in lines)
    (folder / "script").write_text(script)
    assert subprocess.run(["bash", "-n", "script"], check=True).returncode == 0
    found = subprocess.run(["bash", "-c", f"{script}\nwhich launch_pickled_pipeline"], capture_output=True, check=True)
    assert found.stdout.strip().endswith(b"launch_pickled_pipeline")


def test_what_slurm_cannot_do_is_one_line(folder, sbatch, monkeypatch):
    config = CorpusConfig(executor="slurm")
    with pytest.raises(ValueError, match="a character that a shell reads"):
        make_executor([], 1, folder / "a; rm b", config, 1)
    with pytest.raises(ValueError, match="partition"):
        CorpusConfig(slurm={"partition": "cpu\nrm"})
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="needs sbatch"):
        make_executor([], 1, folder, config, 1)


SLURM = """
ClusterName=test
SlurmctldHost={host}
SlurmUser=root
ProctrackType=proctrack/pgid
TaskPlugin=task/none
ReturnToService=2
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/d.pid
SlurmdSpoolDir={folder}/spool
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/d.log
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
NodeName={host} CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=cpu Nodes=ALL Default=YES State=UP
"""


@pytest.fixture
def cluster(tmp_path_factory, monkeypatch):
    """Slurm on this machine alone."""
    missing = [name for name in ("munged", "mungekey", "slurmctld", "slurmd", "sbatch") if not shutil.which(name)]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and Slurm (Debian: slurm-wlm); missing: {', '.join(missing) or 'root'}")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("spool", "state"):
        (folder / name).mkdir()
    (folder / "slurm.conf").write_text(SLURM.format(host=socket.gethostname().split(".")[0], folder=folder))
    monkeypatch.setenv("SLURM_CONF", f"{folder / 'slurm.conf'}")
    subprocess.run(["mungekey", "-c", "-k", folder / "key"], check=True)
    places = [f"--{name}-file={folder}/munge.{name}" for name in ("log", "pid", "seed")]
    munge = ["munged", "-F", "-f", f"--socket={folder}/munge.socket", f"--key-file={folder}/key", *places]
    daemons = [subprocess.Popen(munge, stderr=subprocess.DEVNULL)]
    time.sleep(1)
    daemons += [subprocess.Popen([name, "-D"], stderr=subprocess.DEVNULL) for name in ("slurmctld", "slurmd")]
    try:
        deadline = time.monotonic() + 60
        while b"idle" not in subprocess.run(["sinfo", "-h"], capture_output=True).stdout:
            assert time.monotonic() < deadline, (folder / "ctld.log").read_text()
            time.sleep(1)
        yield
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait()


@pytest.mark.slow
def test_slurm_builds_the_same_corpus(folder, cluster):
    sources = write(folder)
    slurm = {"mem_per_cpu_gb": 1, "tasks_per_job": 4}
    assert built("slurm", executor="slurm", slurm=slurm, sources=sources) == built("here", sources=sources)
    (folder / "cut.txt.gz").write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(OSError, match=r"sbatch: 1 of 1 tasks are not finished\. cut\.txt\.gz is truncated"):
        built("bad", executor="slurm", slurm=slurm, sources=["cut.txt.gz"])
