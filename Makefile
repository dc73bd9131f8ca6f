# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
export RAY_DISABLE_DOCKER_CPU_WARNING = 1

.PHONY: demo test check chaos bench clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

# The whole chain on the bundled model.
demo: $(STAMP)
	$(BIN)/loco-sweep demo

# Tests run with a home of their own: Ray writes a token there.
test: $(STAMP)
	HOME=$$(mktemp -d) $(BIN)/python -m pytest $(TESTS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Long fault soaks.
chaos: $(STAMP)
	HOME=$$(mktemp -d) $(BIN)/python -m pytest -m chaos tests

bench: $(STAMP)
	$(BIN)/python benchmarks/throughput.py

clean:
	rm -rf .venv build *.egg-info demo-results
