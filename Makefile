# Needs make and Python 3.11 to 3.13; everything else is installed into .venv with the versions of constraints.txt.
# PYTHON=/path/to/python3 chooses the Python; ARGS=... is handed to JupyterLab, pytest or the notebook runner.
PY := .venv/bin/python
# Two workers; the tests of a file, and the cells of a notebook, go to the same one. ARGS="-n 0" does without.
PYTEST := -m pytest -n 2 --dist loadfile --nbval-lax --nbval-current-env --nbval-cell-timeout=600

.PHONY: help lab test notebooks lint format latest clean setup

help:
	@echo "make lab        open JupyterLab at the first lesson"
	@echo "make test       check the code's style, then run the unit tests and every notebook"
	@echo "make notebooks  run every notebook again and keep its outputs (one: ARGS=notebooks/01_segment.ipynb)"
	@echo "make lint       check the code's style alone"
	@echo "make format     put the code's style right, as far as that goes by itself"
	@echo "make latest     run the tests with the newest versions of everything, in .venv-latest"
	@echo "make clean      remove the environments and caches"

setup:
	@sh .ci/setup .venv constraints.txt

lab: setup
	@$(PY) -m minildm lab $(ARGS)

test: lint
	@$(PY) $(PYTEST) $(ARGS)

notebooks: setup
	@$(PY) .ci/notebooks.py $(ARGS)

lint: setup
	@$(PY) -m ruff check --quiet . && $(PY) -m ruff format --check --quiet . || \
		{ echo "minildm: the code's style is off (above). make format puts most of it right." >&2; exit 1; }

format: setup
	@$(PY) -m ruff check --quiet --fix . ; $(PY) -m ruff format --quiet .

latest:
	@sh .ci/setup .venv-latest
	@.venv-latest/bin/python $(PYTEST) $(ARGS)

clean:
	@rm -rf .venv/bin .venv .venv-latest/bin .venv-latest .pytest_cache .ruff_cache .hypothesis
	@find minildm tests notebooks benchmarks .ci -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
