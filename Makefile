# make setup | demo | test | first-run | nightly | check | bench | gpu | docs | lock | images | containers | manifests | clean. Needs Python 3.11 or newer, make and a C compiler; nothing else is assumed.
PYTHON ?= python3
# torch goes in first and pinned: an unpinned one brings the newest build with gigabytes of CUDA libraries along.
# `make setup TORCH="torch==2.13.0+cpu --extra-index-url URL"` takes a CPU build from another index.
TORCH ?= torch==2.13.0
DEMO ?= runs/demo

PIP := .venv/bin/pip --disable-pip-version-check
UV := .venv/bin/uv pip
STAMP := .venv/.installed
LOCK := requirements.lock
EXTRAS := text offline mujoco store ui kubeflow argo cluster containers
GROUPS := test bench check lock

.PHONY: setup newest lock demo test first-run nightly check bench gpu docs images containers manifests clean

setup: $(STAMP)

.venv/bin/uv:
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	sed -n '/^uv==/,/[^\\]$$/p' $(LOCK) > .venv/uv.lock # the one pin that pip installs, with its hashes
	$(PIP) install --quiet --no-deps --require-hashes -r .venv/uv.lock

$(STAMP): pyproject.toml $(LOCK) | .venv/bin/uv
	$(PIP) install --quiet $(TORCH)
	$(UV) install --compile-bytecode --python .venv/bin/python --no-deps --require-hashes --build-constraints $(LOCK) -r $(LOCK)
	$(UV) install --python .venv/bin/python --no-deps --no-build-isolation -e .
	$(UV) check --python .venv/bin/python
	.venv/bin/python -c "from manifests.tools import kubectl; kubectl()"
	.venv/bin/python -m instar.kernels.decode.cpp build
	touch $@

# The environment with the newest versions that pyproject.toml allows, in place of the locked ones.
newest: setup
	$(UV) install --compile-bytecode --python .venv/bin/python --upgrade --excludes .ci/excludes.txt \
	  -e '.[$(shell echo $(EXTRAS) | tr ' ' ,)]' $(GROUPS:%=--group %)
	$(UV) check --python .venv/bin/python

# The newest versions become the locked ones, for this environment and for the images; review the difference as code.
# `make lock UPGRADE=` keeps every pin that still fits pyproject.toml.
UPGRADE ?= --upgrade
lock: .venv/bin/uv
	$(UV) compile pyproject.toml $(EXTRAS:%=--extra %) $(GROUPS:%=--group %) $(UPGRADE) --excludes .ci/excludes.txt \
	  --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes --no-annotate --no-emit-index-url \
	  --no-emit-find-links --custom-compile-command "make lock" --quiet --output-file $(LOCK)
	$(MAKE) setup
	.venv/bin/python images/lock.py write cpu

demo: setup
	.venv/bin/instar run sec --scale tiny --out $(DEMO)
	@echo "report: $(DEMO)/report.html (one file, opens offline)"

# Files in the order of their collection: the slowest come first (tests/conftest.py), so that no worker is left alone with one.
test: setup
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not containers and not slow"

# What a new user does first, from an empty environment on, with a stopwatch. More than five minutes fail.
first-run:
	$(PYTHON) benchmarks/first_run.py

# What a change need not wait for: the slow tests, and fifty times as many random inputs.
nightly: setup
	OMP_NUM_THREADS=1 INSTAR_FUZZ_EXAMPLES=3000 .venv/bin/python -m pytest -n auto -m "slow or fuzz" --timeout 3000

check: setup
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	! git grep -nE "fmt: *(skip|off)" -- "*.py"
	.venv/bin/mypy
	.venv/bin/mypy -p manifests
	.venv/bin/pyright

bench: setup
	.venv/bin/python benchmarks/run.py --out runs/benchmarks.json

# Exit code 77 of the script, which make reports and turns into its own 2: there is no CUDA device.
gpu: setup
	.venv/bin/python benchmarks/gpu_run.py --ready
	$(UV) install --python .venv/bin/python -e '.[gpu,vllm]'
	.venv/bin/python benchmarks/gpu_run.py --out runs/gpu.json

images:
	bash images/build.sh cpu build/images

containers: setup
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -m containers tests/containers

manifests: setup
	.venv/bin/python -m manifests.check

docs: setup
	.venv/bin/python -m instar.pipelines.component_docs

clean:
	rm -rf build dist runs src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
