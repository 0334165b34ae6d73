# Every target sets itself up on a fresh machine: a virtual environment in .venv, pinned by constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test check docs clean

help:
	@echo "make demo    train a tiny spiking transformer on real images and look at it (3 minutes)"
	@echo "make test    all tests"
	@echo "make check   lint, types and documentation"
	@echo "make docs    the documentation as a site, in site/"
	@echo "make clean   remove the virtual environment and what the targets made"

demo: $(VENV)/.installed
	$(BIN)/spikevit demo

test: $(VENV)/.installed
	$(BIN)/pytest -n 2 --dist worksteal

check: $(VENV)/.installed docs
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs build dist site
