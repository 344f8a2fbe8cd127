# Two commands for newcomers. Each makes its own virtual environment and installs what it needs.
PYTHON ?= python3
DEMO_ENV := .venv-demo
DEV_ENV := .venv
DOCS_ENV := .venv-docs

.PHONY: help demo test lint docs figures clean

help:
	@echo "make demo   compare exit policies on the real cache that ships (no torch needed)"
	@echo "make test   set up a development environment and run the tests"
	@echo "make lint   ruff, pyright and the import layers (after make test)"
	@echo "make docs   build the documentation site into site/, strictly"
	@echo "make figures  draw the pictures of README, docs and examples anew (after make test; minutes)"
	@echo "make clean  remove the environments and what the demo made"

demo: $(DEMO_ENV)/ready
	$(DEMO_ENV)/bin/policyopt demo --out demo

test: $(DEV_ENV)/ready
	$(DEV_ENV)/bin/python -m pytest -n auto

lint: $(DEV_ENV)/ready
	$(DEV_ENV)/bin/ruff check .
	$(DEV_ENV)/bin/ruff format --check .
	$(DEV_ENV)/bin/pyright
	$(DEV_ENV)/bin/lint-imports

docs: $(DOCS_ENV)/ready
	NO_MKDOCS_2_WARNING=1 $(DOCS_ENV)/bin/mkdocs build --strict --quiet

figures: $(DEV_ENV)/ready
	$(DEV_ENV)/bin/python benchmarks/figures.py

$(DEMO_ENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "policyopt needs Python 3.11 or newer: make demo PYTHON=python3.11")'
	$(PYTHON) -m venv $(DEMO_ENV)
	$(DEMO_ENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[fit]'
	@touch $@

$(DEV_ENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "policyopt needs Python 3.11 or newer: make test PYTHON=python3.11")'
	$(PYTHON) -m venv $(DEV_ENV)
	$(DEV_ENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(DOCS_ENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "policyopt needs Python 3.11 or newer: make docs PYTHON=python3.11")'
	$(PYTHON) -m venv $(DOCS_ENV)
	$(DOCS_ENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

clean:
	rm -rf $(DEMO_ENV) $(DEV_ENV) $(DOCS_ENV) demo site
