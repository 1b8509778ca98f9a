# Two commands for a newcomer: `make run` and `make test`. Each sets up what it needs.
PYTHON ?= python3
# Test processes: one more than there are cores, as the tests of SLURM mostly wait.
JOBS ?= $(shell expr 1 + $$(nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2))
BIN := .venv/bin
# For `make gpu`: the Python named on the command line, else that of .venv, else python3 with its own
# torch. OPTIONS="--part golden" runs one part only.
GPU_PYTHON = $(if $(and $(wildcard .venv/.ready),$(filter file,$(origin PYTHON))),$(BIN)/python,$(PYTHON))
OPTIONS ?=

.DEFAULT_GOAL := help
.PHONY: setup setup-cluster run experiments report test test-fast gpu lint format train clean help

.venv/.ready: pyproject.toml constraints.txt
	@scripts/setup.sh $(PYTHON)

setup: .venv/.ready ## create .venv and install the pinned packages

setup-cluster: ## the same on scratch, once for all jobs; .venv becomes a link (SCRATCH=folder)
	@scripts/setup.sh --cluster "$(PYTHON)" "$(SCRATCH)"

run: .venv/.ready ## decode the nine baseline configurations here, publish them, print the tables
	@$(BIN)/snakemake --profile profiles/local --config restore=false experiment=00_baseline
	@$(BIN)/fastdllm table --experiment 00_baseline

experiments: .venv/.ready ## run whatever is missing of all experiments, publish it, write the report
	@$(BIN)/snakemake --profile profiles/local
	@$(BIN)/fastdllm report

report: .venv/.ready ## write artifacts/report.html, the plots and comparisons.csv from published runs
	@$(BIN)/fastdllm report

test: .venv/.ready ## test the decoder against recorded traces, and everything else
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

test-fast: .venv/.ready ## the tests that start no process, no Snakemake and no SLURM
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow"

gpu: ## test and measure the decoder on a GPU, in 9 minutes; installs nothing
	@$(GPU_PYTHON) -m benchmarks.gpu $(OPTIONS)

lint: .venv/.ready ## check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: .venv/.ready ## format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

train: .venv/.ready ## train models/tiny again (under 45 minutes on 2 cores; users never need it)
	@$(BIN)/snakemake --profile profiles/local train

clean: ## remove caches; results, artifacts and .venv stay
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build ./*.egg-info
	@find fastdllm tests training -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
