"""`cumul doctor`: whether the hosts of a run fit together and can talk, in seconds and before anything runs.

As a program, `python -m launch.doctor runs/NAME`, it prints the facts of the host that it runs on as JSON; with RANK in
the environment it is a rank that takes the time of an all-reduce.
"""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from launch.cli import run
from launch.hosts import on_host, read_hostfile, unfit
from launch.system import settle_accelerator
from pretrain.config import Config, load_config
from pretrain.hosts import Facts, complaints, look
from pretrain.plan import bytes_to_write
from pretrain.run import Typed, read_typed, write_typed

MODULE = "launch.doctor"
MEGABYTES = 64
ROUNDS = 5
GPU_PATIENCE = 30
"""Seconds in which nvidia-smi answers, where no GPU hangs."""
GPU_QUERY = "name,temperature.gpu,ecc.errors.uncorrected.volatile.total,memory.used,memory.total"


def doctor(config: Config, typed: Typed, say: Callable) -> list[str]:
    """Look at every host and let their ranks meet; returns what is wrong, a line each."""
    write_typed(config, typed, [])
    if typed.hostfile is None:
        here = os.uname().nodename
        alone = complaints([(here, look(config))], bytes_to_write(config)) + gpu_complaints(here, gpus())
        return alone or meet(config, typed, {}, say)
    hosts = read_hostfile(typed.hostfile)
    if silent := unfit(list(hosts), config.folder()):
        return [f"{host}: {why}" for host, why in silent.items()]
    found: list[str] = []
    write_typed(config, typed, list(hosts))
    with ThreadPoolExecutor(32) as threads:
        answers = list(threads.map(lambda host: ask(host, config), hosts))
    there = {}
    for host, answer in zip(hosts, answers, strict=True):
        if isinstance(answer, str):
            found.append(f"{host}: {answer}")
        else:
            there[host] = answer
            say(describe(host, hosts[host], answer))
    found += complaints([(host, Facts(**answer["facts"])) for host, answer in there.items()], bytes_to_write(config))
    for host, answer in there.items():
        found += gpu_complaints(host, answer["gpus"])
        if any(other["gpus"] for other in there.values()) and len(answer["gpus"]) < hosts[host]:
            found.append(f"{host}: slots={hosts[host]}, but it has {len(answer['gpus'])} GPUs.")
    return found or meet(config, typed, hosts, say)


def meet(config: Config, typed: Typed, hosts: Mapping[str, int], say: Callable) -> list[str]:
    """Let the ranks take the time of an all-reduce; what is wrong."""
    from launch import ranks

    if not hosts and typed.processes == 1:
        return []
    outcome = ranks.run_launcher(config, ranks.command(config, typed, hosts, MODULE), hosts, say)
    if not outcome.status:
        return []
    who = outcome.first or "the ranks"
    return [f"{who}: no all-reduce. A firewall, or another port: --master-port. What ranks said is above."]


def ask(host: str, config: Config) -> dict | str:
    """What a host says of itself, its clock as the seconds by which it is off ours; or why it says nothing."""
    begun = time.time()
    done = on_host(host, MODULE, str(config.folder()))
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1].removeprefix("error: ")
    answer = json.loads(done.stdout.splitlines()[-1])
    clock = answer["facts"]["clock"]
    answer["facts"]["clock"] = clock - max(begun, min(clock, time.time()))  # it was read while we waited
    return answer


def describe(host: str, slots: int, answer: Mapping) -> str:
    facts, names = answer["facts"], [gpu["name"] for gpu in answer["gpus"]]
    what = f"{len(names)} × {names[0]}" if names else f"{answer['cores']} cores"
    return f"{host}: {slots} ranks, {what}, {facts['free'] / 1e9:.0f} GB free, torch {facts['same']['torch']}"


def gpus() -> list[dict[str, str]]:
    """Of this host, as nvidia-smi knows them. Raises ValueError where it does not work."""
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={GPU_QUERY}", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=GPU_PATIENCE,
        )  # fmt: skip
    except FileNotFoundError:
        return []
    except subprocess.TimeoutExpired:
        raise ValueError("nvidia-smi does not answer: a GPU or its driver hangs. Restart this host.") from None
    if done.returncode:
        said = " ".join((done.stdout + done.stderr).split())
        raise ValueError(f"nvidia-smi fails: {said[:200]}. Repair the driver.")
    names = ["name", "celsius", "errors", "used", "total"]
    return [dict(zip(names, line.split(", "), strict=True)) for line in done.stdout.splitlines()]


def gpu_complaints(host: str, gpus: list[dict[str, str]]) -> list[str]:
    found = []
    for number, gpu in enumerate(gpus):
        known = {name: int(text) for name, text in gpu.items() if text.isdigit()}  # others are [N/A] or the like
        if known.get("errors"):
            found.append(f"{host}: GPU {number} has {known['errors']} uncorrected memory errors. Leave it out.")
        if known.get("celsius", 0) >= 90:
            found.append(f"{host}: GPU {number} has {known['celsius']} °C. See to its cooling.")
        if known.get("used", 0) > known.get("total", math.inf) / 10:
            found.append(
                f"{host}: {known['used']} of {known['total']} MB of GPU {number} are in use. End what uses them."
            )
    return found


def all_reduce() -> None:
    """As a rank: the time of an all-reduce; rank 0 prints it."""
    import torch
    import torch.distributed as dist

    from pretrain.world import join

    world = join(timeout=60)
    numbers = torch.ones(MEGABYTES * 250_000, device=world.device)
    dist.all_reduce(numbers)  # connections are made
    world.barrier()
    begun = time.perf_counter()
    for _ in range(ROUNDS):
        dist.all_reduce(numbers)
    if world.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - begun) / ROUNDS
    if world.main:
        moved = 2 * (world.size - 1) / world.size * MEGABYTES / 1000
        print(
            f"all-reduce of {MEGABYTES} MB by {world.size} ranks: {seconds * 1000:.0f} ms, {moved / seconds:.2f} GB/s"
        )
    world.barrier()
    dist.destroy_process_group()


def main() -> None:
    folder = Path(sys.argv[1])
    settle_accelerator()
    if "RANK" in os.environ:
        all_reduce()
        return
    read_typed(folder)
    facts = look(load_config(folder / "config.yaml"))
    print(json.dumps({"facts": facts._asdict(), "gpus": gpus(), "cores": os.cpu_count()}))


if __name__ == "__main__":
    run(main)
