# make demo: train, evaluate and report on generated heads.
# make test: all tests but those that start whole programs or train.  make test-all: those too, as the continuous check.
# make docs: the documentation site, in build/site.  make test-matrix: the wheel in fresh environments of each Python.
# All make their own environment in .venv first; PYTHON=... picks the interpreter (3.11 to 3.13).
SHELL := /bin/bash
SUITABLE := import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3 python; do "$$p" -c '$(SUITABLE)' 2>/dev/null && echo $$p && break; done)
RUN := .venv/bin/python

.PHONY: demo test test-all test-matrix docs lint clean
demo: .venv/ready
	$(RUN) train.py --config=configs/phantom_demo.py --workdir=runs/demo
	$(RUN) evaluate.py --checkpoint=runs/demo --out=runs/demo/evaluation
	@echo "The report: $(CURDIR)/runs/demo/evaluation/report.html"

test: .venv/ready
	$(RUN) -m ruff check .
	$(RUN) -m pyrefly check
	$(RUN) -m pytest -n 2 --dist worksteal

test-all: .venv/ready
	$(RUN) -m ruff check .
	$(RUN) -m pyrefly check
	$(RUN) -m pytest -n 2 --dist worksteal -m 'not kill and not processes'

test-matrix: .venv/ready
	$(RUN) -m benchmarks.matrix

docs: .venv/docs
	$(RUN) docs/build.py -q

lint: .venv/ready
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .
	$(RUN) -m pyrefly check

.venv/ready: requirements.txt pyproject.toml setup.py
	@test -n "$(PYTHON)" || { echo "No Python 3.11 to 3.13 with venv found: install one (apt-get install python3 python3-venv; brew install python@3.13; uv python install 3.13), or name it with make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet uv
	.venv/bin/uv pip install --quiet --compile-bytecode --python .venv/bin/python --editable '.[test]'
	@touch $@

.venv/docs: .venv/ready
	.venv/bin/uv pip install --quiet --python .venv/bin/python --editable '.[docs]'
	@touch $@

clean:
	rm -rf .venv runs build/docs build/site build/notebooks build/examples
