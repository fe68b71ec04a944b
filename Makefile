# Two commands to begin with: `make demo` shows the whole thing once, `make up` runs the service until Ctrl-C.
# Each sets up .venv first, from the package index alone, and finds it ready the next time.

PY = .venv/bin/python
IMAGES ?=
CLASS ?=
DEMO_ITERATIONS ?=

.PHONY: demo up test check screenshots setup lock clean
.DEFAULT_GOAL := demo

demo: setup
	$(PY) -m worker.demo --images "$(IMAGES)" --class "$(CLASS)" $(if $(DEMO_ITERATIONS),--iterations $(DEMO_ITERATIONS))

up: setup
	exec .venv/bin/opad up

test: setup
	$(PY) -m pytest

check: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

# needs a browser (chromium) on PATH; learns an example first, some minutes on a CPU
screenshots: setup
	$(PY) -m bench.screenshots

setup:
	@.ci/setup

# torch stays out of the locks: its builds for CPU and for NVIDIA differ in hash, so its version alone is pinned
COMPILE = .venv/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
    --override .venv/without-torch.txt --no-emit-package torch --no-emit-package sympy \
    --no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet

lock: setup
	$(PY) -m pip install --quiet uv==0.13.9
	echo "torch ; sys_platform == 'never'" > .venv/without-torch.txt
	$(COMPILE) --all-extras -o requirements.lock
	$(COMPILE) -c requirements.lock -o docker/api.lock
	$(COMPILE) -c requirements.lock --extra ml -o docker/worker.lock

clean:
	rm -rf .venv demo build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
