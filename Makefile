# `make` lists the targets. A fresh machine needs Python 3.11 or later, pip and make.
#
# A stamp file in the virtual environment records what was installed there, so
# that the second time needs no network. Another interpreter: make PYTHON=python3.12 …

PYTHON ?=
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest
# What compare runs in `make demo`, and what else it is told.
DEMO ?= examples/echo.py
DEMO_OPTIONS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-long test-versions check format docs docs-figures docs-costs docs-errors docs-ipc docs-ledger docs-ports docs-sim docs-sim-figures docs-speed docs-stack golden bench coverage compiled uncompiled test-compiled build clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' Makefile | expand -t 18

demo: $(VENV)/.installed-demo ## compare the I/O models on this machine: a table and a picture
	@mkdir -p demo
	@$(BIN)/underlay compare $(DEMO) --html demo/compare.html --json demo/compare.json $(DEMO_OPTIONS)
	@echo "The picture: $(CURDIR)/demo/compare.html"

test: $(VENV)/.installed-test ## all tests but the long ones; also style, types, contracts and docs
	@$(PYTEST)

test-long: $(VENV)/.installed-test ## the tests that take minutes
	@$(PYTEST) -m long

test-versions: ## the tests on each CPython from 3.11 to 3.14 that is found here
	@found=; for version in 3.11 3.12 3.13 3.14; do \
	  python=$$(command -v python$$version || ls -d $$HOME/.pyenv/versions/$$version.*/bin/python 2>/dev/null | tail -n 1); \
	  if [ -z "$$python" ] || ! $$python -c '' 2>/dev/null; then \
	    python=$$(ls -d $$HOME/.pyenv/versions/$$version.*/bin/python 2>/dev/null | tail -n 1); fi; \
	  if [ -z "$$python" ]; then echo "CPython $$version: not found, passed over"; continue; fi; \
	  found=1; echo "CPython $$version: $$python"; \
	  $(MAKE) --no-print-directory test PYTHON=$$python VENV=.venv-$$version || exit 1; \
	done; \
	if [ -z "$$found" ]; then echo "no CPython from 3.11 to 3.14 was found" >&2; exit 2; fi

check: $(VENV)/.installed-test ## style, types, contracts and docs only
	@$(PYTEST) tests/test_house.py tests/docs

format: $(VENV)/.installed-test ## let ruff put the files in order
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

docs: $(VENV)/.installed-test ## build the documentation into docs/_build
	@$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "The pages: $(CURDIR)/docs/_build/html/index.html"

docs-figures: $(VENV)/.installed-test ## draw the swim lanes of docs/models.md and the pictures of docs/tcp.md from real runs
	@$(BIN)/python benchmarks/swimlanes.py --out docs/figures
	@$(BIN)/python benchmarks/tcp_states.py --out docs/figures
	@$(BIN)/python benchmarks/tcp_life.py --out docs/figures

docs-costs: $(VENV)/.installed-test ## measure the costs that docs/models.md and docs/costs.md show; takes a quarter of an hour
	@$(PIP_INSTALL) --editable '.[bench]'
	@$(BIN)/python benchmarks/loops.py --rounds 5 --seconds 0.7 --markdown docs/figures/costs.md
	@$(BIN)/python benchmarks/costs.py --rounds 15 --markdown docs/figures/switches.md --svg docs/figures/switches.svg

docs-stack: $(VENV)/.installed-test ## measure the user-space stack, as docs/stack.md shows it; as root
	@$(BIN)/python benchmarks/stack.py --rounds 3 --seconds 0.7 --markdown docs/figures/stack.md

docs-speed: $(VENV)/.installed-test ## measure underlay speed beside iperf3, as docs/speed.md shows it
	@$(BIN)/python benchmarks/speed.py --rounds 5 --seconds 2 --markdown docs/figures/speed.md

docs-errors: $(VENV)/.installed-test ## play docs/sim-errors.md anew, on two kernels and on the simulator; as root
	@$(BIN)/python -m tests.sim.errors_page

docs-ipc: $(VENV)/.installed-dev ## write the tables of docs/ipc.md anew: the kinds, and what a message costs, plain and compiled
	@$(PIP_INSTALL) --editable '.[bench]'
	@$(BIN)/underlay ipc --markdown > docs/figures/ipc-kinds.md
	@$(BIN)/python benchmarks/ipc.py --rounds 5 --markdown docs/figures/ipc-costs.md
	@$(BIN)/python hatch_build.py underlay_channels
	@$(BIN)/python benchmarks/ipc.py --rounds 5 --markdown docs/figures/ipc-costs-compiled.md; \
	  status=$$?; $(MAKE) --no-print-directory uncompiled; exit $$status

docs-sim: ## measure simulated hosts beside simloop, plain and compiled, as docs/sim.md shows them; needs CPython 3.12
	@python=$$(command -v python3.12 || ls -d $$HOME/.pyenv/versions/3.12.*/bin/python 2>/dev/null | tail -n 1); \
	if [ -n "$$python" ] && ! $$python -c '' 2>/dev/null; then \
	  python=$$(ls -d $$HOME/.pyenv/versions/3.12.*/bin/python 2>/dev/null | tail -n 1); fi; \
	if [ -z "$$python" ]; then echo "no CPython 3.12 was found, which simloop needs" >&2; exit 2; fi; \
	$(MAKE) --no-print-directory docs-sim-figures PYTHON=$$python VENV=.venv-3.12

docs-sim-figures: $(VENV)/.installed-dev
	@$(PIP_INSTALL) simloop
	@$(BIN)/python benchmarks/sim.py --rounds 3 --markdown docs/figures/sim.md
	@$(BIN)/python hatch_build.py
	@$(BIN)/python benchmarks/sim.py --rounds 3 --markdown docs/figures/sim-compiled.md; \
	  status=$$?; $(MAKE) --no-print-directory uncompiled; exit $$status

docs-ports: $(VENV)/.installed-test ## measure ten thousand sockets beside ss, as docs/ports.md shows them; as root
	@$(BIN)/python benchmarks/ports.py --markdown docs/figures/ports.md

docs-ledger: $(VENV)/.installed-test ## write docs/rfc9293.md anew: each MUST of TCP, and its tests
	@$(BIN)/python -m tests.stack.ledger

golden: $(VENV)/.installed-test ## measure TCP over bad links: the golden table and docs/figures/loss-grid.md
	@$(BIN)/python benchmarks/loss_grid.py --update

bench: $(VENV)/.installed-test ## measure the loops beside uvloop and the standard loop
	@$(BIN)/python benchmarks/loops.py

coverage: $(VENV)/.installed-test ## which lines and branches the tests reach
	@$(PYTEST) --cov --cov-report=
	@$(BIN)/python -m coverage report

compiled: $(VENV)/.installed-dev ## compile wire, stack, a bit of sim and the channels in place by mypyc: the same, faster; needs a C compiler
	@$(BIN)/python hatch_build.py

uncompiled: ## remove what `make compiled` made
	@python3 hatch_build.py --clean

test-compiled: compiled ## the tests of wire, stack and the channels on their compiled form, which is removed again
	@$(PYTEST) tests/wire tests/stack tests/sim tests/ipc $(addprefix tests/conformance/test_,channels.py named_channels.py synchronisation.py); status=$$?; $(MAKE) --no-print-directory uncompiled; exit $$status

build: $(VENV)/.installed-dev ## the wheel and the source archive, into dist
	@$(BIN)/python -m hatchling build -d dist

clean: ## remove what these targets made, the virtual environments included
	rm -rf .venv .venv-* build dist demo docs/_build .coverage* htmlcov .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@.ci/venv $(VENV) $(PYTHON)

# pyproject.toml names what to install; a change there installs again.
$(VENV)/.installed-demo: pyproject.toml | $(BIN)/python
	@echo "Installing underlay and what the demo needs into $(VENV) ..."
	@$(PIP_INSTALL) --editable '.[demo]'
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	@echo "Installing underlay and what its tests need into $(VENV) ..."
	@$(PIP_INSTALL) --editable '.[test,lint,docs]'
	@touch $@ $(VENV)/.installed-demo

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	@echo "Installing underlay and what its developers need into $(VENV) ..."
	@$(PIP_INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/.installed-test $(VENV)/.installed-demo
