# Every command of the project. The first one sets up .venv; `make help` lists them all.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
RUNS ?= runs
AS :=
ARGS ?=

# $(call need,VARIABLE,example): stop with a hint if a variable is missing.
need = @test -n "$($(1))" || { echo "$(1)=… is missing, as in: make $@ $(2)" >&2; exit 2; }

# $(call then_report,COMMAND,SWEEP): the report follows a sweep that ended or stopped early (status 1), not one that was
# refused or interrupted.
define then_report
@echo '$(1)'
@status=0; $(1) || status=$$?; \
if [ $$status -le 1 ]; then $(PY) -m analysis report "$(2)" --root "$(RUNS)" || status=$$?; fi; exit $$status
endef

.PHONY: help
help: ## List the commands
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

.PHONY: setup
setup: $(STAMP) ## Make .venv and install what requirements.lock names (every other command does it when needed)

$(STAMP): requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and "Python 3.11 or newer is needed, $(PYTHON) is %d.%d: set PYTHON=…" % v)'
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.lock)"
	$(PY) -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@touch $@

.PHONY: sweep
sweep: $(STAMP) ## Run a sweep and report: NAME=quickstart [AS=other-name]
	$(call need,NAME,NAME=quickstart)
	$(call then_report,$(PY) -m sweeps run "$(NAME)" --runs "$(RUNS)" $(if $(AS),--as "$(AS)") $(ARGS),$(or $(AS),$(patsubst %.yaml,%,$(notdir $(NAME)))))

.PHONY: resume
resume: $(STAMP) ## Go on with a sweep that was interrupted or killed: NAME=…
	$(call need,NAME,NAME=quickstart)
	$(call then_report,$(PY) -m sweeps resume "$(NAME)" --runs "$(RUNS)" $(ARGS),$(NAME))

.PHONY: extend
extend: $(STAMP) ## Give a sweep more trials: NAME=… TRIALS=+10
	$(call need,NAME,NAME=quickstart TRIALS=+10)
	$(call need,TRIALS,NAME=quickstart TRIALS=+10)
	$(call then_report,$(PY) -m sweeps extend "$(NAME)" --trials "$(TRIALS)" --runs "$(RUNS)" $(ARGS),$(NAME))

.PHONY: report
report: $(STAMP) ## Print a sweep's report and write its page: NAME=…
	$(call need,NAME,NAME=quickstart)
	$(PY) -m analysis report "$(NAME)" --root "$(RUNS)" $(ARGS)

.PHONY: debug
debug: $(STAMP) ## One trial in this process: NAME=quickstart, or trial N of a sweep: NAME=… TRIAL=N [ARGS="debug=fdr"]
	$(call need,NAME,NAME=quickstart)
	$(PY) -m sweeps debug "$(NAME)" --runs "$(RUNS)" $(if $(TRIAL),--trial $(TRIAL)) $(ARGS)

.PHONY: validate
validate: $(STAMP) ## Check a search space for real, without running it: NAME=…
	$(call need,NAME,NAME=quickstart)
	$(PY) -m sweeps validate "$(NAME)" $(ARGS)

.PHONY: train
train: $(STAMP) ## Train one network: ARGS="experiment=vimh model=vimh_cnn data.target_width=1.0"
	$(PY) -m lhtx.train $(ARGS)

.PHONY: evaluate
evaluate: $(STAMP) ## Test a checkpoint: ARGS="ckpt_path=…"
	$(PY) -m lhtx.evaluate $(ARGS)

.PHONY: generate
generate: $(STAMP) ## Make a VIMH dataset: ARGS="--size 1000 …" (ARGS=--help lists the options)
	$(PY) -m lhtx.data.generate $(ARGS)

.PHONY: test
test: $(STAMP) ## Run the tests (under five minutes on two cores)
	$(PY) -m pytest $(ARGS)

.PHONY: test-slow
test-slow: $(STAMP) ## Run the long tests: whole sweeps, kills, the commands of the README
	$(PY) -m pytest -m slow $(ARGS)

.PHONY: lint
lint: $(STAMP) ## Check style
	$(PY) -m ruff check
	$(PY) -m ruff format --check

.PHONY: format
format: $(STAMP) ## Mend style
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

.PHONY: bench
bench: $(STAMP) ## Measure every performance claim (some minutes)
	set -e; for script in benchmarks/*.py; do echo "== $$script"; $(PY) -m benchmarks.$$(basename $$script .py); done

.PHONY: clean
clean: ## Remove caches (never data, runs or .venv)
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	rm -rf .pytest_cache .ruff_cache .hypothesis
