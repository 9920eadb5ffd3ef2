# What people type. `make help` lists it; `cumul --help` has the same and more.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
DEMO ?=
CONFIG ?= configs/demo$(DEMO:%=-%).yaml
ARGS ?=
HOSTFILE ?=
HOSTS := $(HOSTFILE:%=--hostfile=%)
CUMUL := .venv/bin/cumul

.DEFAULT_GOAL := help
.PHONY: help setup extras demo plan corpus stage1 stage2 stage3 doctor compare evaluate export results test test-all check bench clean

help: ## list the targets
	@echo 'make TARGET [CONFIG=configs/mine.yaml] [ARGS="section.key=value …"] [HOSTFILE=hosts]'
	@sed -n 's/^\([a-z][a-z0-9 -]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 24

setup: .venv/.installed ## make .venv with exact pins (demo and test do it too)

.venv/.installed: requirements.txt pyproject.toml
	@echo 'setting up .venv (minutes the first time)'
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed: make setup PYTHON=…")'
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

extras: .venv/.extras ## add what is optional: taggers, Ray, what the tests drive a browser with

.venv/.extras: .venv/.installed requirements-extras.txt
	@echo 'adding the optional packages to .venv'
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-extras.txt
	@touch $@

demo: setup ## everything on the demo corpus: train, evaluate, export (DEMO=zh, DEMO=en-scratch: others)
	@$(CUMUL) train $(CONFIG) $(ARGS)
	@$(CUMUL) results $(CONFIG) $(ARGS)
	@$(CUMUL) export $(CONFIG) $(ARGS)

plan: setup ## what a run will take, before anything runs
	@$(CUMUL) plan $(CONFIG) $(ARGS)

corpus: setup ## documents to labelled instances
	@$(CUMUL) corpus build $(CONFIG) $(ARGS)

stage1 stage2 stage3: setup ## train one stage, on top of the one before
	@$(CUMUL) train $(CONFIG) $(ARGS) --stage $(@:stage%=%) $(HOSTS)

doctor: setup ## do the hosts of HOSTFILE fit together?
	@$(CUMUL) doctor $(CONFIG) $(ARGS) $(HOSTS)

compare: CONFIG = configs/compare/demo.yaml
compare: setup ## schedules compared, with a report (CONFIG=configs/compare/demo.yaml; ARGS="--at-once 2")
	@$(CUMUL) compare $(CONFIG) $(ARGS)

evaluate: setup ## every task again, after every finished stage
	@$(CUMUL) evaluate $(CONFIG) $(ARGS)

results: setup ## the table of a run
	@$(CUMUL) results $(CONFIG) $(ARGS)

export: setup ## the last finished stage as a Hugging Face checkpoint
	@$(CUMUL) export $(CONFIG) $(ARGS)

test: extras ## the tests, but not those that take minutes
	@OMP_NUM_THREADS=1 .venv/bin/python -m pytest --quiet --numprocesses auto --maxprocesses 4 --dist worksteal

test-all: extras ## all tests
	@.venv/bin/python -m pytest --quiet -m ''

check: setup ## style and types
	@.venv/bin/ruff check --quiet .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

bench: extras ## how fast training is, beside Hugging Face's Trainer (ARGS="--device cuda": on a GPU)
	@.venv/bin/python bench/train.py $(ARGS)

clean: ## remove caches; never runs, corpora or .venv
	@rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
