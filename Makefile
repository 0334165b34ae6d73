# Every target sets itself up on a fresh machine: a virtual environment in .venv, pinned by constraints.txt. The demo
# installs what training needs; the other targets add the rest to the same environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP = $(BIN)/pip install --disable-pip-version-check -c constraints.txt
# Where there is no GPU, PIP_EXTRA_INDEX_URL of torch's wheels without CUDA (its installation page) saves gigabytes.

.PHONY: help demo test check docs clean

help:
	@echo "make demo    train a tiny spiking transformer on real images and look at it (3 minutes)"
	@echo "make test    all tests"
	@echo "make check   lint, types and documentation"
	@echo "make docs    the documentation as a site, in site/"
	@echo "make clean   remove the virtual environment and what the targets made"

demo: $(VENV)/.demo
	$(BIN)/spikevit demo

test: $(VENV)/.installed
	$(BIN)/pytest -n 2 --dist worksteal

check: $(VENV)/.installed docs
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(VENV)/.demo: pyproject.toml constraints.txt
	@echo "Installing what the demo needs into $(VENV): 1.3 GB, about two minutes"
	$(PYTHON) -m venv $(VENV)
	$(PIP) --no-compile torch==2.13.0
	$(PIP) --no-compile -e '.[train]'
	touch $@

$(VENV)/.installed: $(VENV)/.demo
	@echo "Installing what tests, checks and documentation need: 1 GB, some minutes"
	$(PIP) -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs build dist site
