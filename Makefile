# Two commands: `make demo` and `make test`. Both make .venv first.
PYTHON ?= python3
PIP = .venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-gpu bench-peers bench-peers-data clean

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

# FFCV is compiled on the spot and needs, on Debian: apt-get install g++ pkg-config libturbojpeg0-dev libopencv-dev
PEERS_DATA_PIP = .venv-peers-data/bin/pip install --quiet --disable-pip-version-check -c constraints.txt
bench-peers-data:
	$(PYTHON) -m venv .venv-peers-data
	$(PEERS_DATA_PIP) torch torchvision==0.28.0 kornia kornia_rs setuptools wheel
	if pkg-config --exists libturbojpeg opencv4; then $(PEERS_DATA_PIP) --no-build-isolation ffcv; \
	else echo "FFCV is left out: libturbojpeg and OpenCV are not there to compile it with"; fi

clean:
	rm -rf .venv .venv-peers .venv-peers-data build .mypy_cache .ruff_cache .pytest_cache
