# Two commands: `make demo` and `make test`. Both make .venv first.
PYTHON ?= python3
PIP = .venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-gpu bench-peers clean

demo: .venv/demo
	.venv/bin/torchspeed train digits

test: .venv/dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/python -m pytest

# On a GPU machine, with the PyTorch that it has.
test-gpu:
	PYTHONPATH=src $(PYTHON) -m pytest -m gpu

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/demo: .venv/bin/pip pyproject.toml constraints.txt
	$(PIP) -e '.[digits]'
	touch $@

.venv/dev: .venv/bin/pip pyproject.toml constraints.txt
	$(PIP) -e '.[dev]'
	touch $@

# What the benchmarks compare with, in an environment of its own.
bench-peers:
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install --quiet --disable-pip-version-check -c constraints.txt torch accelerate lightning

clean:
	rm -rf .venv .venv-peers build .mypy_cache .ruff_cache .pytest_cache
