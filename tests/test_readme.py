"""Whatever the README says can be typed, parses; whatever it shows, exists."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from finetune import load_suite
from launch.cli import app
from pretrain.compare.experiment import load_compare
from pretrain.config import Config, load_config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
INLINE = re.findall(r"`((?:cumul|make) [^`]+)`", README)
TYPED = [line.split("#")[0].strip() for line in re.findall(r"^    (?:\$ )?((?:cumul|make) .+)$", README, re.M)]
COMMANDS = sorted({*INLINE, *TYPED})
LAYOUT = re.findall(r"^    (\S+?)/? {2,}\S", README.split("## Layout")[1], re.M)


def test_the_readme_says_something():
    assert {"make demo", "make test"} <= set(COMMANDS)
    assert len(LAYOUT) > 8


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
def test_make_knows_the_target(command):
    run = subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("cumul")])
def test_cumul_understands_the_command(command):
    words = shlex.split(command)[1:]
    parser = get_command(app)
    while hasattr(parser, "commands"):
        parser = parser.commands[words.pop(0)]
    given = parser.make_context(parser.name, words).params
    if "suite" in given:
        load_suite(ROOT / given["suite"], given["set_"] or ())
        return
    path = ROOT / given["config"]
    load = load_compare if parser.name == "compare" else load_config
    load(path if path.exists() else None, given["overrides"] or ())


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", README, re.S))
def test_the_configurations_shown_are_valid(block):
    Config.model_validate(yaml.safe_load(block))


@pytest.mark.parametrize("path", LAYOUT)
def test_the_layout_shown_exists(path):
    assert (ROOT / path).exists()


SUITES = sorted((ROOT / "configs/downstream").iterdir())
CONFIGS = sorted({*(ROOT / "configs").rglob("*.yaml")} - {*SUITES})


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_loads(path):
    config = (load_compare if path.parent.name == "compare" else load_config)(path)
    assert config.name == "-".join(path.relative_to(ROOT / "configs").with_suffix("").parts)


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_every_suite_loads(path):
    assert load_suite(path)


def test_every_target_is_explained():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.search(r"^\.PHONY: (.+)$", makefile, re.M)[1].split())
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    assert all(re.search(rf"\b{re.escape(target)}\b", shown) for target in targets)
