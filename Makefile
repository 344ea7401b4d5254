# Each target sets up what it needs: a virtual environment in .venv with the pinned packages.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Processes that share out the tests, each with what it needs of memory and the rules engine.
PROCESSES ?= 2
SHARED := -n $(PROCESSES) --dist loadfile
# What the browser tests saw of report and dashboard; .ci/run leaves it as an artefact.
export DISTCALIB_SCREENSHOTS ?= $(CURDIR)/build/screenshots
QUICK := not slow and not slurm and not browser and not postgres and not gpu

.PHONY: setup demo test test-full lint docs bench screenshots peer peer-bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; say make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { $(PYTHON) -m pip install --user virtualenv && $(PYTHON) -m virtualenv $(VENV); }
	@echo "installing into $(VENV), about 3 GB: two to five minutes"
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/distcalib run demo --output runs/demo

test: $(STAMP)
	$(BIN)/python -m pytest $(SHARED) -m "$(QUICK)"

test-full: $(STAMP)
	$(BIN)/python -m pytest $(SHARED) -m "(slow or slurm or browser or postgres) and not gpu"

lint: $(STAMP)
	$(BIN)/ruff format --check distcalib tests benchmarks peer deploy docs/*.py
	$(BIN)/ruff check distcalib tests benchmarks peer deploy docs/*.py
	$(BIN)/mypy
	$(BIN)/lint-imports

# The pages of docs/ as a site in build/docs; a warning is an error, and no network is needed.
docs: $(STAMP)
	$(BIN)/python -m sphinx -q -E -W --keep-going -b html docs build/docs

screenshots: $(STAMP)
	$(BIN)/python docs/screenshots.py runs/demo

bench: $(STAMP)
	$(BIN)/python -m pytest benchmarks --benchmark-only

# Against policyengine_us_data's own matrix builder, in an environment of its own (Python 3.12). A ready one:
# make peer PEER_PYTHON=/its/bin/python PEER_DATABASE=/its/policy_data.db
PEER_PYTHON ?= .peer/env/bin/python
PEER_DATABASE ?= .peer/policy_data.db
PEER_READY := test -x $(PEER_PYTHON) && test -e $(PEER_DATABASE)

peer: $(STAMP)
	@$(PEER_READY) || peer/make_environment.sh .peer $(PEER_PYTHON312)
	DISTCALIB_PEER=$(PEER_PYTHON) DISTCALIB_PEER_DATABASE=$(PEER_DATABASE) $(BIN)/python -m pytest tests/peer

peer-bench: $(STAMP)
	@$(PEER_READY) || peer/make_environment.sh .peer $(PEER_PYTHON312)
	$(BIN)/python benchmarks/peer_matrix.py --peer $(PEER_PYTHON) --database $(PEER_DATABASE)

clean:
	rm -rf runs build/docs build/screenshots .pytest_cache .mypy_cache .ruff_cache
