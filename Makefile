# make demo: see what it does; make test: see that it works; make campaign: see that every format passes
# through every command and that killed commands go on. All make .venv first. make wheel: build the wheel,
# install it alone into a new environment and run its commands. make docs: build docs/_build/html, with all notebooks run.
PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --editable

.PHONY: demo test docs campaign settings wheel constraints clean

demo: $(BIN)/.scalex
	$(BIN)/python train.py

test: $(BIN)/.scalex-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy scalex train.py project.py
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile

docs: $(BIN)/.scalex-docs
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/sphinx-build --fail-on-warning --keep-going --nitpicky docs docs/_build/html

settings: $(BIN)/.scalex
	$(BIN)/python -c "from scalex.commands.settings_table import TABLE, make_table; TABLE.write_text(make_table())"

campaign: $(BIN)/.scalex-test
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 SCALEX_CAMPAIGN=1 $(BIN)/pytest -v tests/test_doors.py
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 PYTHONPATH=.:tests $(BIN)/python tests/campaign.py

wheel: $(BIN)/.scalex-test
	rm -rf dist .wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(PYTHON) -m venv .wheel
	.wheel/bin/pip install --quiet --constraint constraints.txt dist/scalex-*.whl
	cd .wheel && bin/scalex --version && bin/scalex train --help > help.txt && bin/scalex doctor
	cd .wheel && bin/scalex train dataset.n_cells=300 model.max_steps=50 output=demo
	cd .wheel && bin/python -c 'import scalex; scalex.demo_cells(300, seed=1).write_h5ad("query.h5ad")'
	cd .wheel && bin/scalex project reference=demo dataset.path=query.h5ad dataset.batch_key=batch output=projected
	rm -rf .wheel

constraints: wheel
	$(BIN)/python -m pip install --quiet --dry-run --ignore-installed --report dist/report.json dist/scalex-*.whl
	$(BIN)/python -c 'import json; \
		found = sorted((one["metadata"]["name"].lower(), one["metadata"]["version"].partition("+")[0]) \
			for one in json.load(open("dist/report.json"))["install"]); \
		print("# The versions that the tests ran with on Linux and Python 3.11: pip install . -c constraints.txt. Made by: make constraints"); \
		print(*(f"{name}=={number}" for name, number in found if name != "scalex"), sep="\n")' > constraints.txt

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(BIN)/.scalex: $(BIN)/python pyproject.toml
	$(INSTALL) .
	touch $@

$(BIN)/.scalex-test: $(BIN)/python pyproject.toml
	$(INSTALL) '.[test]'
	touch $@ $(BIN)/.scalex

$(BIN)/.scalex-docs: $(BIN)/python pyproject.toml
	$(INSTALL) '.[docs]'
	touch $@ $(BIN)/.scalex

clean:
	rm -rf $(VENV) docs/_build docs/api/generated
