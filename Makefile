# make demo: see what it does; make test: see that it works; make campaign: see that every format passes
# through every command and that killed commands go on. All make .venv first.
PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --editable

.PHONY: demo test campaign settings clean

demo: $(BIN)/.scalex
	$(BIN)/python train.py

test: $(BIN)/.scalex-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy scalex train.py project.py
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile

settings: $(BIN)/.scalex
	$(BIN)/python -c "from scalex.commands.settings_table import TABLE, make_table; TABLE.write_text(make_table())"

campaign: $(BIN)/.scalex-test
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 SCALEX_CAMPAIGN=1 $(BIN)/pytest -v tests/test_doors.py
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 PYTHONPATH=.:tests $(BIN)/python tests/campaign.py

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(BIN)/.scalex: $(BIN)/python pyproject.toml
	$(INSTALL) .
	touch $@

$(BIN)/.scalex-test: $(BIN)/python pyproject.toml
	$(INSTALL) '.[test]'
	touch $@ $(BIN)/.scalex

clean:
	rm -rf $(VENV)
