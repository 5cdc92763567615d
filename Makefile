# make install   the environment in .venv; where uv is there, without CUDA if there is no NVIDIA driver (TORCH=cpu or TORCH=cu128 says which)
# make demo   train, test and use a small model on photographs that come with the environment (minutes on a CPU)
# make test   everything that CI checks
# make test-matrix   every experiment in every way that the pages promise: trained, resumed, on two processes, exported
# make docs   the documentation site in site/, without a broken link
# make docs-commands   every command of every page, or one page's: make docs-commands PAGES=docs/data.md (for maintainers; long)
# make test-nightly   what takes longer: runs on several processes, faults, each extra (the faults need root)
# make bench-gpu BUDGET=480   what is measured on a GPU, as far as so many seconds go; without one, what that would be
# make evidence-gpu BUDGET=800   InvSR, CasArbi and NSARM trained on a GPU and tested, as far as so many seconds go; typed again, it goes on
# make test-faults   two nodes that lose power, cables and disks, 20 times (half an hour; needs root)
# make test-minimum   the quick tests, and compiled code, with the oldest versions that pyproject.toml allows, in .venv-minimum (needs uv)
# make test-python VERSION=3.13   the quick tests with that Python, in .venv-3.13 (needs uv)
# make test-iqa   the metrics of the extra iqa against pyiqa itself, in .venv-iqa (needs uv; pyiqa is for noncommercial purposes only)
# make coverage   which part of the code the quick tests run
# All first make the environment in .venv, and do nothing about it the second time.

PYTHON ?= python3
BIN := .venv/bin
EXTRAS := app,dev,docs,heic,jxl,onnx,s3,spandrel,video
UV_OPTIONS = --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[$(EXTRAS)]'
BUDGET ?= 480
DEMO := configs/experiment/quickstart.yaml
export NO_ALBUMENTATIONS_UPDATE := 1
# Where it is set, as in many containers, each process of the tests would compile all tests again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: install demo docs docs-commands test test-matrix test-nightly test-faults test-minimum test-python test-iqa coverage bench-gpu evidence-gpu
.PHONY: checks lint types pytest clean

install: .venv/.installed

# uv where it is there (seconds), else pip; with pip in it, for the extras that pages and errors name. uv looks for torch in
# PyTorch's own index, without CUDA where there is no NVIDIA driver; what that index does not give comes from the usual one.
# The constraints are the versions that CI tested. Compiled once, because where PYTHONDONTWRITEBYTECODE is set, as in many
# containers, each command would compile all of torch again: 20 seconds.
.venv/.installed: pyproject.toml constraints.txt
	@if command -v uv >/dev/null; then \
	  ([ -x $(BIN)/python ] || uv venv --seed --python '>=3.11' .venv) && \
	  uv pip install --torch-backend $(or $(TORCH),auto) $(UV_OPTIONS) || \
	    { [ -z "$(TORCH)" ] && echo "trying again without the choice of torch" >&2 && uv pip install $(UV_OPTIONS); }; \
	else \
	  [ -z "$(TORCH)" ] || { echo "TORCH=$(TORCH) needs uv: pip install uv" >&2; exit 2; }; \
	  $(PYTHON) -c 'import sys; sys.exit("Enlarger needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ...") if sys.version_info < (3, 11) else 0' && \
	  ([ -x $(BIN)/pip ] || $(PYTHON) -m venv --clear .venv) && \
	  $(BIN)/python -m pip install --quiet --upgrade pip && \
	  $(BIN)/python -m pip install -c constraints.txt -e '.[$(EXTRAS)]'; \
	fi
	@touch $@

demo: install
	$(BIN)/python main.py fit --config $(DEMO)
	$(BIN)/python main.py predict --config $(DEMO) --data.predict "$$($(BIN)/python -c 'import importlib.util as u; print(u.find_spec("sklearn").submodule_search_locations[0])')/datasets/images"
	$(BIN)/python main.py test --config $(DEMO)

# What runs on one core goes beside the tests, which run on two.
test: install
	@$(MAKE) --no-print-directory -j 2 checks pytest

checks: lint types docs

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: install
	$(BIN)/mypy

# Not --quiet, which takes broken links for right. The same commit gives the same bytes; a source archive has none.
# Material would say at each build that it will end in 2027 (docs/decisions.md).
docs: install
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null || echo 0) NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-commands: install
	$(BIN)/python -m tests.docs.commands $(PAGES)

# Two processes of one thread each: the tests are many and small. What torch frees is kept for the next tensor, which glibc
# would otherwise map again each time: one processor second in twenty.
pytest: install
	OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=268435456 MALLOC_TRIM_THRESHOLD_=1073741824 $(BIN)/pytest -n 2 --dist worksteal

# One recipe or way alone, with what it says: .venv/bin/python -m tests.matrix mini/invsr --way ddp --keep FOLDER
test-matrix: install
	$(BIN)/python -m tests.matrix $(if $(JSON),--json $(JSON))

# The faults alone: on busy cores a node would be late, and taken for lost.
test-nightly: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m '(slow or network) and not gpu' --ignore tests/distributed/test_faults.py
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow tests/distributed/test_faults.py
	@$(MAKE) --no-print-directory test-iqa

# Its report is committed.
test-faults: install
	OMP_NUM_THREADS=1 KILLS=20 ENLARGER_FAULTS=benchmarks/results/faults.json $(BIN)/pytest -s -m slow tests/distributed/test_faults.py

# Python 3.11, and of each package that pyproject.toml names the oldest one.
MINIMUM := .venv-minimum
$(MINIMUM)/.installed: pyproject.toml
	uv venv --clear --python 3.11 $(MINIMUM)
	uv pip install --compile-bytecode --resolution lowest-direct --python $(MINIMUM)/bin/python -e '.[dev,onnx,s3,spandrel,video]'
	@touch $@

test-minimum: $(MINIMUM)/.installed
	OMP_NUM_THREADS=1 $(MINIMUM)/bin/python -m pytest -q -n 2 --dist worksteal
	$(MINIMUM)/bin/python -m pytest -q -m slow tests/degradations/test_recipes.py -k compiled

# The versions that CI tested, with another Python.
VERSION ?= 3.13
.venv-$(VERSION)/.installed: pyproject.toml constraints.txt
	uv venv --clear --python $(VERSION) .venv-$(VERSION)
	uv pip install --compile-bytecode --python .venv-$(VERSION)/bin/python -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

test-python: .venv-$(VERSION)/.installed
	OMP_NUM_THREADS=1 .venv-$(VERSION)/bin/python -m pytest -q -n 2 --dist worksteal

# pyiqa is not among EXTRAS, so that nothing else runs these tests.
.venv-iqa/.installed: pyproject.toml constraints.txt
	uv venv --clear --python '>=3.11' .venv-iqa
	uv pip install --compile-bytecode --python .venv-iqa/bin/python -c constraints.txt -e '.[$(EXTRAS),iqa]'
	@touch $@

test-iqa: .venv-iqa/.installed
	OMP_NUM_THREADS=1 .venv-iqa/bin/python -m pytest -q tests/callbacks/metrics/test_iqa.py

# Workers of loaders, and commands that tests start, count too.
coverage: install
	rm -f .coverage .coverage.*
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal --cov --cov-report=term-missing:skip-covered

bench-gpu: install
	$(BIN)/python -m benchmarks.gpu --budget $(BUDGET)

evidence-gpu: install
	$(BIN)/python -m benchmarks.photographs --table benchmarks/configs/photographs_cuda.yaml --budget $(BUDGET)

clean:
	rm -rf .venv .venv-* build site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
