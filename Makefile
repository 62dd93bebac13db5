# make setup | demo | test | check | bench | docs | images | containers | manifests | clean. Needs Python 3.11 or newer, make and a C compiler; nothing else is assumed.
PYTHON ?= python3
# torch goes in first and pinned: an unpinned one brings the newest build with gigabytes of CUDA libraries along.
# `make setup TORCH="torch==2.13.0+cpu --extra-index-url URL"` takes a CPU build from another index.
TORCH ?= torch==2.13.0
DEMO ?= runs/demo

PIP := .venv/bin/pip --disable-pip-version-check
STAMP := .venv/.installed

.PHONY: setup demo test check bench docs images containers manifests clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	$(PIP) install --quiet $(TORCH) uv
	.venv/bin/uv pip install --compile-bytecode --python .venv/bin/python -e '.[text,offline,mujoco,store,ui,kubeflow,argo,cluster,containers]' --group test --group bench --group check
	.venv/bin/python -c "from manifests.tools import kubectl; kubectl()"
	.venv/bin/python -m instar.kernels.decode.cpp build
	touch $@

demo: setup
	.venv/bin/instar run sec --scale tiny --out $(DEMO)
	@echo "report: $(DEMO)/report.html (one file, opens offline)"

test: setup
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto --dist loadfile -m "not containers"

check: setup
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/mypy -p manifests
	.venv/bin/pyright

bench: setup
	.venv/bin/python benchmarks/run.py --out runs/benchmarks.json

images:
	bash images/build.sh cpu build/images

containers: setup
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -m containers tests/containers

manifests: setup
	.venv/bin/python -m manifests.check

docs: setup
	.venv/bin/python -m instar.component_docs

clean:
	rm -rf build dist runs src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
