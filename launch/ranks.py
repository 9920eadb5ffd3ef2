"""Starting ranks and seeing them through: this process alone, or several under DeepSpeed's launcher, on any hosts.

A launcher answers signals by killing its ranks. So it gets a session of its own, and who presses Ctrl-C asks through
the file `stop` in the run folder, which rank 0 looks for after every step; a second Ctrl-C ends everything at once.
Where `cumul` itself dies, the kernel tells its launcher, which ends the ranks; where a launcher dies, its ranks save
and end.
"""

import base64
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import NamedTuple, TextIO

from launch import errors
from launch.hosts import SSH, over_ssh, read_hostfile, unfit, write_hostfile
from launch.system import check_port, settle_accelerator, signal_when_parent_dies
from pretrain.config import Config
from pretrain.run import (
    LAUNCHER,
    Typed,
    finished,
    is_locked,
    locked,
    logs_of,
    progress,
    stop_file,
    stopped_file,
    write_typed,
)

WORKER = "launch.worker"
HOSTS_PORT = 29500
"""Where ranks of several hosts meet, unless the user says otherwise: what is free there is not known here."""
PAUSE = 5.0
"""Seconds before a restart."""
PATIENCE = 60.0
"""Seconds in which ranks that lost others or their launcher must have ended."""
HOST_FAILED = re.compile(r"pdsh@\S+: (?P<host>\S+): .*exit")
LAUNCHER_SAYS = "] [launch.py:"
QUIET = {"TORCH_CPP_LOG_LEVEL": "ERROR"}
"""Else torch complains of hosts without reverse lookup."""
EXPORTED = (
    "NCCL_", "GLOO_", "TORCH_", "PYTORCH_", "OMP_", "HF_", "WANDB_", "DS_ACCELERATOR", "CUDA_", "LD_LIBRARY_PATH"
)  # fmt: skip
"""Environment that ranks on other hosts are given, by the beginning of its names."""
SECRET = re.compile("TOKEN|KEY|SECRET|PASSWORD")
"""Not these: DeepSpeed puts them on a command line, which all users of a host can read."""


def train_here(config: Config, typed: Typed, port: int) -> None:
    """Be the only rank."""
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = f"{port}"
    settle_accelerator()
    from launch.worker import work

    work(config, typed)


def train_together(config: Config, typed: Typed, wanted: list[int], say: Callable) -> None:
    """Start ranks and see them to the end of the wanted stages, or until they were asked to stop.

    Where ranks are lost, they are started again from the last checkpoint, on the hosts that answer, at most
    `launch.restarts` times without a new checkpoint in between; the first time all hosts must. Raises
    ChildProcessError with what went wrong, ValueError where the run is being trained or hosts are missing.
    """
    allowed, restarts, reached = config.launch.restarts, 0, progress(config)
    hosts = {} if typed.hostfile is None else read_hostfile(typed.hostfile)
    with locked(config, LAUNCHER):
        there = those_that_answer(config, hosts, need_all=True, say=say)
        line = train_once(config, typed, there, wanted, say)
        while line is not None:
            if progress(config) > reached:
                restarts, reached = 0, progress(config)
            if restarts == allowed:
                raise ChildProcessError(line)
            restarts += 1
            say(f"{line}\nrestart {restarts} of {allowed} in {PAUSE:.0f} s, from stage {reached[0]}, step {reached[1]}")
            time.sleep(PAUSE)
            try:
                there = those_that_answer(config, hosts, need_all=False, say=say)
            except ValueError as nobody:
                line = str(nobody)
            else:
                line = train_once(config, typed, there, wanted, say)


def train_once(config: Config, typed: Typed, hosts: Mapping[str, int], wanted: list[int], say: Callable) -> str | None:
    """What went wrong, where something did that another start may mend; else raises ChildProcessError with it."""
    errors.clear(logs_of(config))
    write_typed(config, typed, list(hosts))
    outcome = run_launcher(config, command(config, typed, hosts), hosts, say)
    if outcome.asked or all(finished(config, number) for number in wanted):
        return None
    ended = errors.cause(logs_of(config))
    if ended and ended.kind == errors.MISTAKE:
        raise ChildProcessError(ended.line())
    who = f"the ranks on {outcome.first}" if outcome.first else "the ranks"
    return ended.line() if ended else f"{who} ended; what they said is above, or in {logs_of(config)}"


def those_that_answer(config: Config, hosts: Mapping[str, int], need_all: bool, say: Callable) -> dict[str, int]:
    """The hosts that can take part now. Raises ValueError where they are none, or not all that are needed."""
    silent = unfit(list(hosts), config.folder())
    there = {host: slots for host, slots in hosts.items() if host not in silent}
    lines = [f"{host}: {why}" for host, why in silent.items()]
    if silent and (need_all or not there):
        raise ValueError(" ".join(lines))
    for line in lines:
        say(f"without {line}")
    return there


def command(config: Config, typed: Typed, hosts: Mapping[str, int], module: str = WORKER) -> list[str]:
    """DeepSpeed's launcher for the ranks of this machine, or of hosts. Raises ValueError where it cannot be used."""
    port = typed.master_port
    if not hosts:
        return command_here(typed.processes, port or check_port(0), module, config.folder())
    if shutil.which("pdsh") is None:
        raise ValueError("pdsh is not installed: DeepSpeed's launcher needs it (Debian: apt install pdsh).")
    if re.search(r"\s", os.getcwd()):
        raise ValueError(f"DeepSpeed's launcher cannot start ranks in {os.getcwd()!r}: use a folder without spaces.")
    path = config.folder() / "hosts"
    write_hostfile(path, hosts)
    place = [f"--hostfile={path}", "--force_multi", "--no_ssh_check", f"--master_port={port or HOSTS_PORT}", "--quiet"]
    return [
        *(sys.executable, "-m", "deepspeed.launcher.runner", *place, "--launcher_args=-N"),
        *program(module, config.folder()),
    ]


def command_here(processes: int, port: int, module: str, folder: Path) -> list[str]:
    """DeepSpeed's launcher for ranks of this machine."""
    world = base64.urlsafe_b64encode(json.dumps({"localhost": devices(processes)}).encode()).decode()
    place = ["--node_rank=0", "--master_addr=127.0.0.1", f"--master_port={port}", "--quiet"]
    return [
        *(sys.executable, "-m", "deepspeed.launcher.launch", f"--world_info={world}", *place),
        *program(module, folder),
    ]


def program(module: str, folder: Path) -> list[str]:
    """What a rank is."""
    return ["--no_local_rank", "--module", module, str(folder.absolute())]


def devices(processes: int) -> list[int | str]:
    """The GPUs for that many ranks as CUDA_VISIBLE_DEVICES has them, by number or name; any numbers on CPU.

    Raises ValueError where there are too few.
    """
    import torch

    if not torch.cuda.is_available():
        return list(range(processes))
    if processes > torch.cuda.device_count():
        raise ValueError(f"--processes {processes}: only {torch.cuda.device_count()} GPUs are visible here.")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names: list[int | str] = [*range(processes)] if visible is None else [name.strip() for name in visible.split(",")]
    return names[:processes]


def start(
    command: list[str], environment: Mapping[str, str], out: int | None, err: int | None
) -> subprocess.Popen[str]:
    """A launcher in a session of its own, which the kernel tells where we die."""
    return subprocess.Popen(
        command, env=environment, start_new_session=True, preexec_fn=partial(signal_when_parent_dies, signal.SIGTERM),
        stdout=out, stderr=err, encoding="utf-8", errors="replace",
    )  # fmt: skip


class Outcome(NamedTuple):
    status: int
    asked: bool
    """To stop, by the user: with a signal, or with the file `stop`."""
    first: str | None
    """The host whose ranks ended first, where they failed."""


def run_launcher(config: Config, command: list[str], hosts: Mapping[str, int], say: Callable) -> Outcome:
    """Run a launcher to its end, and see that nothing of it is left behind."""
    asked, stop, failed = False, stop_file(config), list[tuple[str, float]]()
    settle_accelerator()
    environment = QUIET | os.environ
    environment["PDSH_SSH_ARGS_APPEND"] = shlex.join([*shlex.split(environment.get("PDSH_SSH_ARGS_APPEND", "")), *SSH])
    exports = write_exports(config, environment)
    environment["DS_ENV_FILE"] = str(exports)
    stop.unlink(missing_ok=True)
    stopped_file(config).unlink(missing_ok=True)
    pipe = subprocess.PIPE if hosts else None
    launcher = start(command, environment, pipe, pipe)

    def pass_on(lines: Iterable[str], out: TextIO) -> None:
        """What ranks on other hosts say, without a dozen lines from the launcher of each."""
        for line in lines:
            if match := HOST_FAILED.match(line):
                failed.append((match["host"], time.monotonic()))
            elif LAUNCHER_SAYS not in line:
                with suppress(OSError):  # the screen may be gone; ranks must not wait for someone who reads
                    print(line, end="", flush=True, file=out)

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            end(launcher, config, hosts)
        asked = True
        stop.touch()
        say("stopping after this step; once more to stop at once")

    pipes = [(launcher.stdout, sys.stdout), (launcher.stderr, sys.stderr)]
    voices = [Thread(target=pass_on, args=[lines or (), out], daemon=True) for lines, out in pipes]
    for voice in voices:
        voice.start()
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        while launcher.poll() is None:
            if failed and time.monotonic() > failed[0][1] + PATIENCE:  # its pdsh would wait for the others for ever
                end(launcher, config, hosts)
                break
            time.sleep(0.2)
        status = launcher.wait()
        asked = asked or stopped_file(config).exists()
        until = time.monotonic() + PATIENCE
        while is_locked(config) and time.monotonic() < until:
            stop.touch()
            time.sleep(0.2)
        if status:
            end_ranks(config, hosts)
        for voice in voices:
            voice.join(PAUSE)
    finally:
        stop.unlink(missing_ok=True)
        exports.unlink()
        for number, handler in before.items():
            signal.signal(number, handler)
    return Outcome(status, asked, failed[0][0] if failed else None)


def write_exports(config: Config, environment: Mapping[str, str]) -> Path:
    """DeepSpeed's file of exports for other hosts: the user's own, and what ranks here would have, but no secrets."""
    path = (config.folder() / "environment").absolute()
    own = [Path.home() / ".deepspeed_env", Path(".deepspeed_env")]
    lines = [line for file in own if file.exists() for line in file.read_text().splitlines() if "=" in line]
    ours = [name for name in environment if name.startswith(EXPORTED) and not SECRET.search(name)]
    lines += [f"{name}={environment[name]}" for name in ours]
    path.touch(mode=0o600)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def end_ranks(config: Config, hosts: Iterable[str]) -> None:
    """Kill what is left of our programs on hosts, those that wait for ranks which will not come."""
    folder = re.escape(str(config.folder().absolute()))
    pattern = rf"-m [l]aunch\.\w+ {folder}$"  # [l]: not the shell that runs pkill
    with ThreadPoolExecutor(32) as threads:
        list(threads.map(lambda host: over_ssh(host, "pkill", "-KILL", "-f", "--", pattern), hosts))


def end(launcher: subprocess.Popen, config: Config, hosts: Iterable[str]) -> None:
    """Kill a launcher and all that it started. One that is asked to end would end those of other runs on its hosts."""
    end_ranks(config, hosts)
    kill(launcher)


def kill(launcher: subprocess.Popen) -> None:
    import psutil

    with suppress(psutil.NoSuchProcess):
        below = psutil.Process(launcher.pid).children(recursive=True)
        launcher.kill()
        for process in below:
            with suppress(psutil.NoSuchProcess):
                process.kill()
