# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
export RAY_DISABLE_DOCKER_CPU_WARNING = 1

.PHONY: demo test browser check chaos bench clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

# The whole chain on the bundled model.
demo: $(STAMP)
	$(BIN)/loco-sweep demo

# Tests run with a home of their own: Ray writes a token there. Those of the pages need Chromium, and say so without.
# Two at a time, a file in one process: its tests share what is dear to make. Long files come first, as collected.
test: $(STAMP) browser
	HOME=$$(mktemp -d) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(TESTS)

browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && apt-get update -q && apt-get install -q -y --no-install-recommends chromium; } \
	  || echo "no Chromium on PATH: tests of the report and of the viewer are skipped"

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry loco_core orchestrator cluster
	$(BIN)/deptry tests benchmarks --exclude "^$$" --ignore DEP002,DEP004

# Long fault soaks.
chaos: $(STAMP)
	HOME=$$(mktemp -d) $(BIN)/python -m pytest -m chaos tests

bench: $(STAMP)
	$(BIN)/python benchmarks/throughput.py

clean:
	rm -rf .venv build *.egg-info demo-results
