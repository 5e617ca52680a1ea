# Two commands: `make compare` trains and compares five layouts on MovieLens-100K, `make test` checks everything.
# Both make the virtual environment first when it is missing or out of date.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: compare test test-portable test-combinations test-page test-serve-page test-serve test-schema check docs clean

compare: $(READY)
	$(BIN)/plait compare ml-100k --layouts item,interleaved,pc,lac,lac_patched --seeds 2 --out runs/ml-100k

# Commands that tests start read what another one compiled, whatever the shell says of bytecode.
test: $(READY) check
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# The quick part again, with kernels of another processor: what demands equal bits of them fails here or there.
test-portable: $(READY)
	ATEN_CPU_CAPABILITY=default OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/nn tests/layouts tests/metrics

# Every combination of layout, trunk, positions and exposure, where `make test` meets each two or three of their choices.
test-combinations: $(READY)
	PLAIT_EVERY_COMBINATION=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/properties/test_combinations.py

# The report's page in headless Chromium at three widths, by day and night, and printed, with axe-core. Needs Debian's
# chromium (or CHROMIUM=path) and npm. Pictures lie in runs/page/pictures.
test-page: $(READY)
	@command -v "$${CHROMIUM:-chromium}" > /dev/null || { echo "no chromium: apt-get install chromium, or name one in CHROMIUM"; exit 1; }
	@command -v npm > /dev/null || { echo "no npm: apt-get install npm"; exit 1; }
	cd tests/browser && npm install --silent --no-audit --no-fund --no-package-lock
	PYTHONPATH=tests:tests/compare $(BIN)/python tests/browser/pages.py runs/page/pages
	node tests/browser/check.mjs runs/page/pages runs/page/pictures

# The service's page in headless Chromium, used as a person does, at three widths, by day and night, with axe-core. Needs
# what test-page does. Pictures lie in runs/page/service.
test-serve-page: $(READY)
	@command -v "$${CHROMIUM:-chromium}" > /dev/null || { echo "no chromium: apt-get install chromium, or name one in CHROMIUM"; exit 1; }
	@command -v npm > /dev/null || { echo "no npm: apt-get install npm"; exit 1; }
	cd tests/browser && npm install --silent --no-audit --no-fund --no-package-lock
	PYTHONPATH=.:tests:tests/service:tests/compare OMP_NUM_THREADS=1 \
		node tests/browser/service_page.mjs $(BIN)/python runs/page/service

# The service again, for longer: more requests that are wrong, more kills, and a real Redis that is killed. Needs Debian's
# redis-server (or REDIS=path).
test-serve: $(READY)
	@command -v "$${REDIS:-redis-server}" > /dev/null || { echo "no redis-server: apt-get install redis-server, or name one in REDIS"; exit 1; }
	PLAIT_FUZZ_CASES=10000 PLAIT_KILLS=100 PLAIT_REDIS="$${REDIS:-redis-server}" OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest tests/store tests/service tests/cli/test_cli_serve.py

# 10,000 cases that Schemathesis makes of the service's description. It gets an environment of its own.
test-schema: $(READY)
	$(PYTHON) -m venv .venv/schemathesis
	.venv/schemathesis/bin/python -m pip install --quiet schemathesis==4.32.5
	rm -rf runs/schema
	PYTHONPATH=.:tests:tests/service:tests/compare OMP_NUM_THREADS=1 $(BIN)/python tests/service/schema_cases.py \
		.venv/schemathesis/bin/schemathesis runs/schema

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	for page in docs/reference/*.py; do $(BIN)/python $$page > $${page%.py}.md || exit 1; done
	$(BIN)/python -m plait.papers.results_page > plait/papers/RESULTS.md

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[report,serve,test]'
	touch $(READY)

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
