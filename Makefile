# `make demo` and `make test` are all that a newcomer needs; CI runs the second through .ci/run.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := precalign gpu analysis cli

.PHONY: demo test lint types unit wheel docs proofs browser clean

demo: $(VENV)/ready
	$(BIN)/precalign analyze analysis/demo/novel.safetensors -o demo-report --overwrite

test: lint types unit wheel docs

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy cannot follow setuptools' package-dir, so it is shown a tree of links in the installed shape.
types: $(VENV)/ready
	rm -rf build/types && mkdir -p build/types
	cp -as $(CURDIR)/precalign build/types/precalign
	for folder in gpu analysis cli; do cp -as $(CURDIR)/$$folder build/types/precalign/$$folder; done
	cd build/types && MYPYPATH=. $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache -p precalign

unit: $(VENV)/ready
	$(BIN)/pytest -n auto --dist worksteal

wheel: $(VENV)/ready
	rm -rf build/lib build/bdist* dist
	$(BIN)/python -m build --wheel --no-isolation --outdir dist .
	$(BIN)/python tests/check_wheel.py dist/*.whl

docs: $(VENV)/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site

# Hours: every exhaustive run, its counts written to docs/proofs.md.
proofs: $(VENV)/ready
	$(BIN)/pytest -m long -p no:randomly --write-proofs

# The report's tests drive a headless Chromium; without one they are skipped with that reason.
browser:
	apt-get update -qq && apt-get install -y -qq chromium

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --upgrade pip setuptools wheel
	$(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[torch,kernels,models,scale]' --group dev
	touch $@

clean:
	rm -rf build dist site .mypy_cache .pytest_cache .ruff_cache
	find $(PACKAGES) -name '*.nb[ci]' -delete
