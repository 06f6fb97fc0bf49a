# make alone lists the targets. Every one sets up the environment if that is needed.
SHELL := bash
PROFILE ?= cpu
SEED ?= 0
PAIRS ?= 8
FRACTION ?= 0.1
OUT ?= results/mine/selection

# The active environment, or .venv. Ready means: made from this very lock, whatever the files' times say.
ENVIRONMENT := $(or $(VIRTUAL_ENV),$(CONDA_PREFIX),$(CURDIR)/.venv)
READY := $(ENVIRONMENT)/.gateau-$(firstword $(shell cat requirements.lock scripts/environment.sh | cksum))
PYTHON_RUN := PYTHONPATH="$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH}" "$(ENVIRONMENT)/bin/python" -m
STUDY := $(PYTHON_RUN) gateau_lib.run
PYTEST := $(PYTHON_RUN) pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
ROOMS := $(notdir $(patsubst %/__init__.py,%,$(wildcard gateau_lib/*/__init__.py)))
# Names of profiles: gpu+PAIR with a pair of the registry, rehearse-gpu and rehearse-paper on fabricated models and data.
named = $(if $(REHEARSE),rehearse-)$(1)$(if $(PAIR),+$(PAIR))
OPTIONS := --seed $(SEED) $(if $(NOTEBOOK),--notebook $(NOTEBOOK)) $(foreach s,$(SET),--set '$s') $(if $(PLAN),--plan)
SCORING := $(if $(SHORT),--short "$(SHORT)") $(if $(LONG),--long "$(LONG)") $(if $(ADAPTIVE),--adaptive) \
	$(if $(FORMAT),--format $(FORMAT)) $(if $(IDS),--ids $(IDS)) $(if $(TURN),--turn $(TURN)) \
	$(foreach r,$(RENAME),--rename '$r') \
	$(if $(ENGINE),--engine $(ENGINE)) $(if $(WORKERS),--workers $(WORKERS)) $(if $(PLAN),--plan $(filter-out 1,$(PLAN)))
CHOOSING := --fraction $(FRACTION) $(if $(DEDUP),--dedup $(DEDUP)) $(if $(PER_SOURCE),--per-source)

.PHONY: help reproduce smoke cpu gpu paper evidence status verify keys test unit coverage lint types format select env lock readme site lab \
	bench families gpu-checks demo-kill audit clean

help: ## this list
	@echo "make TARGET [PROFILE=$(PROFILE)] [SEED=$(SEED)] [NOTEBOOK=NN] [SET='name=value ...'] [PLAN=1] [PAIR=name] [REHEARSE=1]"
	@sed -n 's/^\([a-z -]*\):[^#]*## /\1\t/p; s/^## /\t/p' $(MAKEFILE_LIST) | awk -F'\t' '{printf "  %-20s %s\n", $$1, $$2}'

reproduce: $(READY) ## bring results/PROFILE up to date: runs the notebooks that are stale, in order
	@$(STUDY) $(call named,$(PROFILE)) $(OPTIONS)

smoke cpu gpu paper: $(READY) ## the same at that scale; PLAN=1 only prints cost and what is missing; gpu takes PAIR=name, gpu and paper REHEARSE=1
	@$(STUDY) $(call named,$@) $(OPTIONS)

evidence: $(READY) ## the study for PAIRS=8 pairs of models, what the verdicts rest on; SEED=50 for others, COMPARE=50 for how they agree with those
	@$(PYTHON_RUN) gateau_lib.evidence --pairs $(PAIRS) --seed $(SEED) $(if $(COMPARE),--compare $(filter-out 1,$(COMPARE)))

status: $(READY) ## what is stale, and why
	@$(STUDY) $(call named,$(PROFILE)) $(OPTIONS) --status

verify: $(READY) ## compare results/PROFILE and results/evidence with the checksums in their manifests
	@$(STUDY) $(call named,$(PROFILE)) --seed $(SEED) --verify

keys: $(READY) ## the content keys of all code that makes results, to compare before and after a move
	@$(STUDY) $(call named,$(PROFILE)) --keys

test: lint ## everything: lint, unit tests, guards, the smoke study, nbval, rehearsals; RECORD=1 notes the time
	@$(if $(RECORD),GATEAU_TESTS=results/tests.json )$(PYTEST) $(TESTS)

unit: $(READY) ## the tests of the fast loop, without studies; TESTS="tests/methods -k hmg" for some of them
	@$(PYTEST) -m "not slow" $(TESTS)

lint: types ## ruff, the direction of imports, types; changes nothing
	@$(PYTHON_RUN) ruff check .
	@$(PYTHON_RUN) ruff format --check --quiet . || { echo "error: not formatted: make format" >&2; exit 1; }
	@"$(ENVIRONMENT)/bin/lint-imports" --no-logo

types: $(READY) ## mypy over the library
	@$(PYTHON_RUN) mypy gateau_lib

format: $(READY) ## ruff's formatter, and its safe fixes
	@$(PYTHON_RUN) ruff check --fix .
	@$(PYTHON_RUN) ruff format .

coverage: $(READY) ## which share of each room's lines the unit tests run
	@$(PYTEST) -m "not slow" -q --cov --cov-report= $(TESTS)
	@for room in . $(ROOMS); do printf '%-14s' "$$room"; \
		$(PYTHON_RUN) coverage report --format=total --include="gateau_lib/$$([ $$room = . ] || echo $$room/)*.py"; done

select: $(READY) ## score and select your data: DATA=my.jsonl [FRACTION=0.1] [OUT=folder] [SHORT=model LONG=model]
##  [FORMAT=sharegpt] [IDS=line] [TURN=1] [RENAME='tools=unread ...'] [DEDUP=0.8] [PER_SOURCE=1] [ADAPTIVE=1] [WORKERS=N processes] [ENGINE=ray] [PLAN=1]
	@test -n "$(DATA)" || { echo "error: name your data: make select DATA=my.jsonl FRACTION=$(FRACTION) OUT=folder" >&2; exit 2; }
	@printf '%s\n' "$(FRACTION)" "$(or $(DEDUP),1)" | awk '!/^[0-9.]+(e-?[0-9]+)?$$/ || $$1 <= 0 || $$1 > 1 { exit 1 }' || \
		{ echo "error: FRACTION and DEDUP must lie in (0, 1], such as FRACTION=0.1 DEDUP=0.8" >&2; exit 2; }
	@$(PYTHON_RUN) gateau_lib.score "$(DATA)" $(SCORING) --out "$(OUT)/scores.parquet"
	@$(if $(PLAN),:,$(PYTHON_RUN) gateau_lib.select "$(OUT)/scores.parquet" --data "$(DATA)" $(CHOOSING) --out "$(OUT)/selected.jsonl")

env: $(READY) ## only the environment; [PYTHON=python3.12] [TORCH_INDEX=address of torch wheels]
	@echo "environment: $(ENVIRONMENT)"

$(READY):
	@PYTHON="$(PYTHON)" TORCH_INDEX="$(TORCH_INDEX)" scripts/environment.sh "$(ENVIRONMENT)" "$@"

lock: $(READY) ## bring requirements.lock up to pyproject.toml, pins stay; UPGRADE=1 takes the newest of everything (needs the registry)
	@"$(ENVIRONMENT)/bin/python" -m pip install -q pip-tools
	@$(PYTHON_RUN) piptools compile --quiet $(if $(UPGRADE),--upgrade) --output-file=requirements.lock pyproject.toml

readme: $(READY) ## write the generated parts of README.md, from results/cpu, and of docs/cluster.md, docs/gpu.md and docs/scale.md
	@$(PYTHON_RUN) gateau_lib.pages

site: $(READY) ## the executed cpu notebooks as web pages in docs/_build/html; works offline
	@$(PYTHON_RUN) sphinx -q -b html docs docs/_build/html && echo "open docs/_build/html/index.html"

lab: $(READY) ## JupyterLab on the course; the chapters are one folder up
	@$(PYTHON_RUN) jupyterlab notebooks --allow-root --LabApp.default_url=/lab/tree/course

bench: $(READY) ## measure scoring speed on this machine (lm-eval and py-data-juicer too, where installed)
	@$(PYTHON_RUN) gateau_lib.bench

families: $(READY) ## try every causal family of the installed transformers against eager attention; writes docs/families.md
	@PYTHONPATH="$(CURDIR):$(CURDIR)/tests" "$(ENVIRONMENT)/bin/python" tests/every_family.py $(FAMILY)

gpu-checks: $(READY) ## measure what a GPU does with the library, in minutes; TINY=1 only tries it, on any machine
	@$(PYTHON_RUN) gateau_lib.gpu_checks $(if $(TINY),--tiny)

demo-kill: $(READY) ## kill a scoring run at random moments and show that its table has the same bytes; one to three minutes
	@PYTHONPATH="$(CURDIR)" "$(ENVIRONMENT)/bin/python" scripts/demo_kill.py

audit: $(READY) ## the packages' licences, and their known vulnerabilities where a network allows
	@"$(ENVIRONMENT)/bin/python" -m pip install -q pip-audit 2>/dev/null || true
	@"$(ENVIRONMENT)/bin/python" scripts/audit.py

clean: ## remove caches and what smoke runs left; keeps the environment and the evidence in results
	@rm -rf results/*/cache results/smoke results/smoke-* results/rehearse-* results/evidence-smoke* results/cards-tiny docs/_build docs/notebooks docs/claims docs/_static/figures docs/_static/theory docs/library docs/project docs/_extra
	@rm -rf .pytest_cache .ruff_cache .hypothesis .mypy_cache .import_linter_cache .coverage*
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
