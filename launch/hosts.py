"""The hosts of a run: the hostfile, and commands on them over ssh."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SSH = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")
"""Never ask, and notice within seconds that a host is gone."""
LINE = re.compile(r"(?P<host>[\w][\w.:-]*)\s+slots=(?P<slots>[1-9]\d*)")


def read_hostfile(path: Path) -> dict[str, int]:
    """Ranks of every host, in the order of the file. Raises ValueError naming the line that is wrong."""
    if not path.is_file():
        raise ValueError(f"no hostfile {path}. It has a line `HOST slots=RANKS` for every host.")
    hosts: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.split("#")[0].strip()
        if not text:
            continue
        match = LINE.fullmatch(text)
        if match is None:
            raise ValueError(f"{path}, line {number}: {text!r} is not `HOST slots=RANKS`.")
        if match["host"] in hosts:
            raise ValueError(f"{path}, line {number}: {match['host']} stands there twice.")
        hosts[match["host"]] = int(match["slots"])
    if not hosts:
        raise ValueError(f"{path} names no host. It has a line `HOST slots=RANKS` for every host.")
    return hosts


def write_hostfile(path: Path, hosts: Mapping[str, int]) -> None:
    path.write_text("".join(f"{host} slots={slots}\n" for host, slots in hosts.items()))


def over_ssh(host: str, *words: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["ssh", *SSH, host, shlex.join(words)], capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess([], 255, "", f"no answer within {timeout:.0f} s")


def on_host(host: str, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one of our modules on a host, in the folder that lies there as here."""
    words = [f"PYTHONPATH={os.environ.get('PYTHONPATH', '')}", sys.executable, "-m", module, *arguments]
    return over_ssh(host, "env", "-C", os.getcwd(), *words)


def unfit(hosts: Sequence[str], folder: Path) -> dict[str, str]:
    """Why, of every host that ssh does not reach, or that does not see this folder."""

    def reach(host: str) -> str | None:
        done = over_ssh(host, "test", "-d", str(folder.absolute()))
        if done.returncode == 1:
            return f"it does not see {folder.absolute()}. Start cumul in a folder on a disk that all hosts share."
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["ssh failed"])[-1]
            return f"{why}. Try `ssh {host} true`: it must not ask anything."
        return None

    with ThreadPoolExecutor(32) as threads:
        answers = threads.map(reach, hosts)
        return {host: why for host, why in zip(hosts, answers, strict=True) if why is not None}
