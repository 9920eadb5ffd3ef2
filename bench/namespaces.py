"""Hosts on one machine: network namespaces with an sshd each, joined by a bridge. Needs root."""

import os
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

NEEDED = ("ip", "pdsh", "ssh", "ssh-keygen", "/usr/sbin/sshd")


def lacking() -> str | None:
    """Why this machine cannot have them, None where it can."""
    for program in NEEDED:
        if shutil.which(program) is None:
            return f"{program.rsplit('/')[-1]} is not installed"
    made = subprocess.run(["ip", "netns", "add", "cumul-probe"], capture_output=True)
    subprocess.run(["ip", "netns", "del", "cumul-probe"], capture_output=True)
    return None if made.returncode == 0 else "network namespaces are not allowed here"


class Hosts:
    """n0, n1, …; commands are typed on n0. The last one is odd: by shell words before its sshd, and by exports."""

    def __init__(self, folder: Path, count: int, odd: str = "true", exports: str = ""):
        self.folder, self.names = folder, [f"n{number}" for number in range(count)]
        self.odd, self.exports = odd, exports
        self.prefix = f"c{os.getpid()}"

    def __enter__(self) -> "Hosts":
        folder, bridge = self.folder, f"{self.prefix}b"
        Path("/run/sshd").mkdir(exist_ok=True)
        for name in ("host", "user"):
            sh(f"ssh-keygen -q -t ed25519 -N '' -f {folder / name}")
        shutil.copy(folder / "user.pub", folder / "authorized")
        sh(f"ip netns add {bridge}")
        inside(bridge, "ip link add br0 type bridge")
        inside(bridge, "ip link set br0 up")
        (folder / "bin").mkdir()
        wrapper = folder / "bin" / "ssh"
        wrapper.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {folder}/ssh_config "$@"\n')
        wrapper.chmod(0o755)
        lines = [f"IdentityFile {folder}/user", "StrictHostKeyChecking no", "UserKnownHostsFile /dev/null"]
        lines.append("LogLevel ERROR")
        for number, name in enumerate(self.names):
            space, address = self.space(name), self.address(number)
            sh(f"ip netns add {space}")
            sh(f"ip link add {space}p netns {bridge} type veth peer name eth0 netns {space}")
            inside(bridge, f"ip link set {space}p master br0 up")
            for words in ("link set lo up", f"addr add {address}/24 dev eth0", "link set eth0 up"):
                inside(space, f"ip {words}")
            config = folder / f"sshd-{name}"
            path = f"{folder}/bin:{os.environ['PATH']}"
            last = name == self.names[-1]
            exports = f'"PATH={path}" {self.exports if last else ""}'
            config.write_text(
                f"ListenAddress {address}\nPort 22\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
                f"PermitRootLogin yes\nStrictModes no\nUsePAM no\nPidFile none\nMaxStartups 100\nSetEnv {exports}\n"
            )
            script = f"{self.odd if last else 'true'} && exec /usr/sbin/sshd -f {config}"
            inside(space, f"sh -c {shlex.quote(script)}")
            lines.append(f"Host {name}\n  HostName {address}")
        (folder / "ssh_config").write_text("\n".join(lines) + "\n")
        (folder / "hosts").write_text("".join(f"{name} slots=1\n" for name in self.names))
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.names:
            self.kill(name)
            sh(f"ip netns del {self.space(name)}")
        sh(f"ip netns del {self.prefix}b")

    def address(self, number: int) -> str:
        return f"10.77.0.{number + 1}"

    def space(self, name: str) -> str:
        return self.prefix + name

    def start(self, *words: str, host: str = "n0") -> subprocess.Popen[str]:
        """A command on a host, with all that it says in one pipe."""
        environment = {**os.environ, "PATH": f"{self.folder}/bin:{os.environ['PATH']}", "CUMUL_HOST": host}
        return subprocess.Popen(
            ["ip", "netns", "exec", self.space(host), *words],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def cut(self, name: str) -> None:
        """Its cable."""
        inside(f"{self.prefix}b", f"ip link set {self.space(name)}p down")

    def mend(self, name: str) -> None:
        inside(f"{self.prefix}b", f"ip link set {self.space(name)}p up")

    def sent(self, name: str) -> int:
        """Bytes that left its network card."""
        words = ["ip", "netns", "exec", self.space(name), "cat", "/sys/class/net/eth0/statistics/tx_bytes"]
        return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)

    def commands(self, name: str) -> str:
        """The command lines of all processes of a host."""
        return "\n".join(map(command_line, self.pids(name)))

    def pids(self, name: str) -> list[str]:
        return subprocess.run(["ip", "netns", "pids", self.space(name)], capture_output=True, text=True).stdout.split()

    def kill(self, name: str, what: str = "", by: signal.Signals = signal.SIGKILL) -> int:
        """A signal to all processes of a host whose command line has `what` in it; how many."""
        found = [int(pid) for pid in self.pids(name) if what in command_line(pid)]
        for pid in found:
            os.kill(pid, by)
        return len(found)


def command_line(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def inside(space: str, command: str) -> None:
    sh(f"ip netns exec {space} {command}")


def sh(command: str) -> None:
    done = subprocess.run(shlex.split(command), capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stderr)
