"""The files that other launchers read: they are valid, and what they call is what `cumul` understands."""

import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from launch.cli import app

LAUNCH = Path(__file__).parents[2] / "launch"


def parse(words):
    command = get_command(app).commands["train"]
    return command.make_context("train", words).params


def test_the_jobset_starts_one_agent_per_node():
    tree = yaml.safe_load((LAUNCH / "kubernetes" / "jobset.yaml").read_text())
    (replicated,) = tree["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    cumul, train, *words = [*container["command"], *container["args"]]
    assert (cumul, train) == ("cumul", "train")
    given = parse(words)
    assert given["nodes"] == f"1:{job['parallelism']}" and job["completions"] == job["parallelism"]
    assert given["processes"] == container["resources"]["limits"]["nvidia.com/gpu"]
    name, job_name = tree["metadata"]["name"], replicated["name"]
    assert given["rendezvous"].startswith(f"{name}-{job_name}-0-0.{name}:"), "the host name of the first pod"
    assert tree["spec"]["network"]["enableDNSHostnames"]


def test_the_slurm_script_is_bash_and_starts_one_agent_per_node():
    path = LAUNCH / "slurm.sbatch"
    subprocess.run(["bash", "-n", path], check=True)
    text = path.read_text()
    assert "#SBATCH --ntasks-per-node=1" in text and "#SBATCH --requeue" in text
    call = text[text.index("cumul train") : text.index("|| status")].replace("\\\n", " ")
    words = shlex.split(call.replace('"$@"', "configs/mine.yaml").replace("${SLURM_GPUS_ON_NODE:-1}", "8"))
    assert {"--rendezvous", "--nodes", "--processes"} <= set(words)
    assert parse(words[2:])["processes"] == 8


def test_the_slurm_array_does_one_run_of_a_comparison_each():
    path = LAUNCH / "compare.sbatch"
    subprocess.run(["bash", "-n", path], check=True)
    text = path.read_text()
    call = text[text.index('cumul compare "$@') : text.index("|| status")]
    words = shlex.split(call.replace('"$@"', "configs/compare/demo.yaml").replace("$SLURM_ARRAY_TASK_ID", "3"))
    assert get_command(app).commands["compare"].make_context("compare", words[2:]).params["job"] == 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--hostfile", "hosts", "--processes", "2"], "--hostfile says which hosts and how many ranks"),
        (["--hostfile", "hosts", "--rendezvous", "n0:1", "--nodes", "1"], "leave out --rendezvous"),
        (["--rendezvous", "n0:29400"], "--rendezvous needs --nodes"),
        (["--nodes", "2"], "--rendezvous needs --nodes"),
        (["--rendezvous", "n0:29400", "--nodes", "2", "--master-port", "1234"], "leave out --master-port"),
    ],
)
def test_options_that_contradict_each_other_are_refused(words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text("corpus: {sources: [text.txt]}\n")
    with pytest.raises(ValueError, match=says):
        app(["train", "run.yaml", *words], standalone_mode=False)
