# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
export RAY_DISABLE_DOCKER_CPU_WARNING = 1

.PHONY: demo test browser slurm check docs chaos bench clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

# The whole chain on the bundled model.
demo: $(STAMP)
	$(BIN)/loco-sweep demo

# Tests run with a home of their own: Ray writes a token there. Those of the pages need Chromium, those of Slurm a Slurm,
# and they say so without.
# Two at a time, a file in one process: its tests share what is dear to make. Long files come first, as collected.
test: $(STAMP) browser slurm
	HOME=$$(mktemp -d) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(TESTS)

browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && apt-get update -q && apt-get install -q -y --no-install-recommends chromium; } \
	  || echo "no Chromium on PATH: tests of the report and of the viewer are skipped"

# The tests start daemons of their own.
slurm:
	@command -v slurmctld >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && apt-get update -q && apt-get install -q -y --no-install-recommends slurm-wlm; } \
	  || echo "no Slurm on PATH: its tests are skipped"

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry loco_core orchestrator cluster
	$(BIN)/deptry tests benchmarks tools --exclude "^$$" --ignore DEP002,DEP004

# The documentation site, in build/site: pages that follow from the code are written, all are built without a network,
# and a link that leads nowhere fails.
docs: $(STAMP)
	$(BIN)/python -m tools.docs
	$(BIN)/python -m zensical build --strict --clean
	$(BIN)/python -m tools.docs.links build/site

# Long fault soaks.
chaos: $(STAMP)
	HOME=$$(mktemp -d) $(BIN)/python -m pytest -m chaos tests

bench: $(STAMP)
	$(BIN)/python benchmarks/throughput.py

clean:
	rm -rf .venv .cache build *.egg-info demo-results
