# make setup | demo | test | check | bench | clean. Needs Python 3.11 or newer, make and a C compiler; nothing else is assumed.
PYTHON ?= python3
TORCH ?= torch==2.13.0
# Without an NVIDIA driver the CPU build of torch is taken: the default Linux build brings gigabytes of CUDA libraries along.
# `make setup TORCH_INDEX=` takes the default build anyway. An index that does not answer is skipped.
TORCH_INDEX ?= $(shell command -v nvidia-smi >/dev/null 2>&1 || echo https://download.pytorch.org/whl/cpu)
DEMO ?= runs/demo

PIP := .venv/bin/pip --disable-pip-version-check
STAMP := .venv/.installed

.PHONY: setup demo test check bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX),$(PIP) install --quiet --no-deps --retries 1 --extra-index-url $(TORCH_INDEX) $(TORCH))
	$(PIP) install --quiet $(TORCH) uv
	.venv/bin/uv pip install --python .venv/bin/python -e '.[text,store]' --group test --group check
	touch $@

demo: setup
	.venv/bin/instar run sec --scale tiny --out $(DEMO)
	@echo "report: $(DEMO)/report.html (one file, opens offline)"

test: setup
	.venv/bin/python -m pytest

check: setup
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/pyright

bench: setup
	.venv/bin/python benchmarks/run.py --out runs/benchmarks.json

clean:
	rm -rf build dist runs src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
