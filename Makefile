# `make` lists the targets. Each of them first sets up .venv by itself when it is missing, stale or broken.

PYTHON ?= python3#   the Python that .venv is made from (3.11 or newer)
STORE  ?= outputs#   trials, tracking database and artifacts
SWEEP  ?= sweeps/digits.yaml
PROFILE ?=
DATA   ?=
ARGS   ?=
PROCESSES ?= 2#      that share the tests; 0: none but pytest itself
KILLS  ?= 20#        of each kind, in `make faults`
SEED   ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test faults lint sweep-digits sweep-cifar10 sweep-small study plan report tables ui bench bench-methods bench-precision bench-profile bench-steps-growth bench-data bench-autoattack bench-evaluation bench-startup bench-floors bench-growth bench-planning bench-orchestration bench-reporting mutants pictures lock clean FORCE

# One shell word, whatever stands in it: folders with spaces and quotes are common.
quote = '$(subst ','\'',$(1))'

HAM := .venv/bin/ham
SHARED = --store $(call quote,$(STORE))
CHOICE = $(if $(PROFILE),--profile $(call quote,$(PROFILE))) $(if $(DATA),--set $(call quote,data=$(DATA)))

# ---------------------------------------------------------------- set-up
# The stamp is written last and holds the folder it was made in: a half-made environment has none, and one that was
# moved, or whose Python has gone, is noticed here and made anew.
STAMP := .venv/.complete
INTACT := $(shell test "$$(cat $(STAMP) 2>/dev/null)" = "$$(pwd)" && .venv/bin/python -c '' 2>/dev/null && echo yes)

$(STAMP): pyproject.toml requirements.lock $(if $(INTACT),,FORCE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo 'ham-sweeps needs Python 3.11 or newer; $(PYTHON) is' \
	    "$$($(PYTHON) -c 'import platform; print(platform.python_version())' 2>/dev/null || echo 'not there')." \
	    'Name another one: make PYTHON=python3.12 ...' >&2; exit 1; }
	@echo 'set-up: .venv (once; about two minutes and 6 GB)'
	@rm -f $(STAMP)
	@$(if $(INTACT),,$(PYTHON) -m venv --clear .venv)
	@.venv/bin/python -m pip install -qq --disable-pip-version-check --requirement requirements.lock
	@.venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@pwd > $(STAMP)

# ---------------------------------------------------------------- targets
help: ## list the targets and variables
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' Makefile
	@echo
	@echo '  PROFILE=smoke   a shorter version of a sweep     DATA=DIR   images to use instead of the named data set'
	@echo '  STORE=$(STORE)   where results go                 SWEEP=FILE the sweep of `make plan` and `make report`'
	@echo '  ARGS="..."      passed on to the command         PYTHON=... the Python to make .venv from'

demo: $(STAMP) ## the whole road on the digits images: train, attack, tables, report (minutes, no GPU, no download)
	@$(HAM) sweep sweeps/digits.yaml $(SHARED)
	@$(HAM) report $(SHARED)

test: $(STAMP) ## the test suite (PROCESSES= ARGS=)
	@.venv/bin/python -m pytest -q -n $(PROCESSES) --dist loadgroup $(ARGS)

faults: $(STAMP) ## kill drivers, workers, nodes and the MLflow server in mid-sweep; are the tables the same? (KILLS= SEED=)
	@HAM_KILLS=$(KILLS) HAM_SEED=$(SEED) .venv/bin/python -m pytest -q -s tests/faults $(ARGS)

lint: $(STAMP) ## ruff (rules and format) and mypy
	@.venv/bin/ruff check --quiet --output-format concise .
	@.venv/bin/ruff format --check --quiet . || { echo 'format: run .venv/bin/ruff format .' >&2; exit 1; }
	@.venv/bin/mypy --no-error-summary
	@echo 'lint: clean'

sweep-digits: $(STAMP) ## train what is missing of sweeps/digits.yaml, then report (PROFILE= DATA= ARGS=)
	@$(HAM) sweep sweeps/digits.yaml $(CHOICE) $(SHARED) $(ARGS)
	@$(HAM) report $(SHARED)

sweep-cifar10: $(STAMP) ## train what is missing of sweeps/cifar10.yaml, then report (PROFILE= DATA= ARGS=)
	@$(HAM) sweep sweeps/cifar10.yaml $(CHOICE) $(SHARED) $(ARGS)
	@$(HAM) report $(SHARED)

sweep-small: $(STAMP) ## train what is missing of the study's sweep, sweeps/cifar10_small.yaml, then report (PROFILE= DATA= ARGS=)
	@$(HAM) sweep sweeps/cifar10_small.yaml $(CHOICE) $(SHARED) $(ARGS)
	@$(HAM) report $(SHARED)

study: $(STAMP) ## the study's text and pictures in docs/study, and its report in outputs/study, anew from its recorded trials
	@$(HAM) import docs/study/trials.tar.gz --store outputs/study
	@$(HAM) report --sweep cifar10_small --store outputs/study --document docs/study/README.md.j2

plan: $(STAMP) ## what is done, what is missing and what it will cost (SWEEP= PROFILE= DATA= ARGS=)
	@$(HAM) plan $(call quote,$(SWEEP)) $(CHOICE) $(SHARED) $(ARGS)

report: $(STAMP) ## all tables and figures and the HTML page from what is in the store (ARGS=)
	@$(HAM) report $(SHARED) $(ARGS)

tables: $(STAMP) ## the tables only: Markdown, LaTeX and CSV (ARGS=)
	@$(HAM) report $(SHARED) --tables $(ARGS)

ui: $(STAMP) ## the MLflow UI on the store, on 127.0.0.1 (ARGS=)
	@$(HAM) ui $(SHARED) $(ARGS)

bench: $(STAMP) ## seconds per AT and HAM step, ours against the released code's passes and a textbook loop (ARGS=)
	@.venv/bin/python -m benchmarks.steps $(ARGS)

bench-methods: $(STAMP) ## seconds per training step of every method, and its passes, against AT (ARGS=)
	@.venv/bin/python -m benchmarks.methods $(ARGS)

bench-precision: $(STAMP) ## does bf16 reach fp32 within the seeds' spread, and how many examples change sides? (ARGS=)
	@.venv/bin/python -m benchmarks.precision $(ARGS)

bench-profile: $(STAMP) ## where the time of a training epoch goes: the share in kernels, and what remains (ARGS=)
	@.venv/bin/python -m benchmarks.profiling $(ARGS)

bench-steps-growth: $(STAMP) ## passes, seconds and memory against epochs, images and attack steps (ARGS=)
	@.venv/bin/python -m benchmarks.growth_steps $(ARGS)

bench-data: $(STAMP) ## seconds to decode and to load images, and the share of augmentation in an AT step (DATA= ARGS=)
	@.venv/bin/python -m benchmarks.data $(if $(DATA),$(call quote,$(DATA))) $(ARGS)

bench-autoattack: $(STAMP) ## seconds of AutoAttack against pyautoattack called directly, with equal results (ARGS=)
	@.venv/bin/python -m benchmarks.autoattack $(ARGS)

bench-evaluation: $(STAMP) ## seconds of PGD-20 against its bare passes, seconds and memory as the images double (ARGS=)
	@.venv/bin/python -m benchmarks.evaluation $(ARGS)

bench-startup: $(STAMP) ## seconds of ham --help, of ham plan, and until a training takes its first step (ARGS=)
	@.venv/bin/python -m benchmarks.startup $(ARGS)

bench-floors: $(STAMP) ## peak rates of this machine and the least time a training step can take on it (ARGS=)
	@.venv/bin/python -m benchmarks.floors $(ARGS)

bench-growth: $(STAMP) ## seconds and memory of ham sweep as the trials double, plotted (ARGS=)
	@.venv/bin/python -m benchmarks.growth $(ARGS)

bench-planning: $(STAMP) ## seconds and memory of ham plan and status with 10,000 trials, of ham sweep with 1,000 finished ones (ARGS=)
	@.venv/bin/python -m benchmarks.planning $(ARGS)

bench-orchestration: $(STAMP) ## seconds of ham sweep against a bare loop of two processes over the same trials (ARGS=)
	@.venv/bin/python -m benchmarks.orchestration $(ARGS)

bench-reporting: $(STAMP) ## seconds and memory of ham report on records of 100, 1,000 and 10,000 runs (ARGS=)
	@.venv/bin/python -m benchmarks.reporting $(ARGS)

mutants: $(STAMP) ## flip signs and drop terms in the parts of methods: does a test fail each time? (ARGS="--most 300")
	@.venv/bin/python -m tests.mutants $(ARGS)

pictures: $(STAMP) ## take the docs' pictures of the report anew, in Chromium, from the digits sweep in STORE (after `make demo`)
	@$(HAM) report $(SHARED) > /dev/null
	@.venv/bin/python docs/plot_weights.py
	@.venv/bin/python -m tests.pictures $(call quote,$(STORE))/report

lock: $(STAMP) ## remake requirements.lock from pyproject.toml (ARGS=--upgrade for the newest versions)
	@.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --extra dev \
	  --output-file requirements.lock pyproject.toml $(ARGS)

clean: ## remove .venv and caches; results in the store stay
	@rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
