"""What is decided before ranks start: what they are given, what a host may be asked."""

import stat
import subprocess

import pytest

from launch import doctor, ranks
from pretrain.config import load_config
from pretrain.hosts import Facts, complaints
from pretrain.plan import bytes_to_write, checkpoints_bytes
from pretrain.run import stage_folder

NVIDIA_SMI = "#!/bin/sh\n{}\n"


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load_config(None, ["name=mine"])
    config.folder().mkdir(parents=True)
    return config


def test_other_hosts_are_given_the_environment_without_secrets(config):
    given = {"NCCL_DEBUG": "INFO", "WANDB_MODE": "offline", "WANDB_API_KEY": "1", "HF_TOKEN": "2", "EDITOR": "ed"}
    path = ranks.write_exports(config, given)
    assert path.read_text() == "NCCL_DEBUG=INFO\nWANDB_MODE=offline\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_end_of_a_run_ends_no_other_of_that_name(config):
    """Its ranks are told from those of another checkout by the whole path."""
    assert ranks.command(config, ranks.Typed("mine.yaml", processes=2), {})[-1] == f"{config.folder().absolute()}"


def test_a_folder_that_the_launcher_cannot_enter_is_refused(config, tmp_path, monkeypatch):
    (tmp_path / "my runs").mkdir()
    monkeypatch.chdir(tmp_path / "my runs")
    monkeypatch.setattr("shutil.which", lambda name: name)
    with pytest.raises(ValueError, match="a folder without spaces"):
        ranks.command(config, ranks.Typed("mine.yaml"), {"n1": 1})


def test_checkpoints_that_lie_there_need_no_room(config):
    needed = checkpoints_bytes(config)
    assert bytes_to_write(config) == needed
    stage_folder(config, 1).mkdir()
    (stage_folder(config, 1) / "model.safetensors").write_bytes(bytes(1000))
    assert bytes_to_write(config) == needed - 1000
    facts = Facts({"corpus": "1"}, free=needed - 500, files=10_000, clock=0.0)
    assert not complaints([("here", facts)], bytes_to_write(config))
    assert "checkpoints take" in complaints([("here", facts)], needed)[0]


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo 'H200, 40, 0, 10, 1000'; echo 'H200, [N/A], [N/A], [N/A], [N/A]'", []),
        ("echo 'H200, 95, 0, 10, 1000'", ["here: GPU 0 has 95 °C"]),
        ("echo 'H200, 40, 3, 900, 1000'", ["here: GPU 0 has 3 uncorrected", "here: 900 of 1000 MB of GPU 0"]),
    ],
)
def test_gpus_are_judged_by_what_they_say_of_themselves(tmp_path, monkeypatch, script, says):
    nvidia_smi(tmp_path, monkeypatch, script)
    found = doctor.gpu_complaints("here", doctor.gpus())
    assert len(found) == len(says) and all(map(str.startswith, found, says))


def test_a_broken_driver_is_no_machine_without_gpus(tmp_path, monkeypatch):
    nvidia_smi(tmp_path, monkeypatch, "echo 'Failed to initialize NVML'; exit 18")
    with pytest.raises(ValueError, match=r"nvidia-smi fails: Failed to initialize NVML\. Repair the driver"):
        doctor.gpus()
    monkeypatch.setattr(doctor, "GPU_PATIENCE", 0.2)
    nvidia_smi(tmp_path, monkeypatch, "exec sleep 5")
    with pytest.raises(ValueError, match="nvidia-smi does not answer"):
        doctor.gpus()


def nvidia_smi(folder, monkeypatch, script) -> None:
    path = folder / "nvidia-smi"
    path.write_text(NVIDIA_SMI.format(script))
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    assert subprocess.run(["which", "nvidia-smi"], capture_output=True, text=True).stdout.strip() == str(path)
