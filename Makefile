# Every command of the project. The first one sets up .venv; `make help` lists them all, with their short names.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
RUNS ?= runs
AS :=
NAME :=
PORT :=
CONFIRM :=
ARGS ?=

# $(call need,VARIABLE,example): stop with a hint if a variable is missing.
need = @test -n "$($(1))" || { echo "$(1)=… is missing, as in: make $@ $(2)" >&2; exit 2; }

# $(call then_report,COMMAND,SWEEP): the report follows a sweep that ended or stopped early (status 1), not one that was
# refused or interrupted. A sweep that is copied elsewhere has its report copied, too.
define then_report
@echo '$(1)'
@status=0; $(1) || status=$$?; \
if [ $$status -le 1 ]; then $(PY) -m analysis report "$(2)" --root "$(RUNS)" || status=$$?; \
if [ -e "$(RUNS)/$(2)/.mirrored.json" ]; then $(PY) -m sweeps push "$(2)" --runs "$(RUNS)" || :; fi; fi; exit $$status
endef

# $(call remove,DIRECTORY): for good, and so only with CONFIRM=yes.
define remove
@if [ ! -e "$(1)" ]; then echo "there is no $(1)/, nothing to remove"; \
elif [ "$(CONFIRM)" = yes ]; then rm -rf "$(1)" && echo "removed $(1)/"; \
else echo "$(1)/ holds $$(du -sh "$(1)" | cut -f1) in $$(find "$(1)" -type f | wc -l) files; nothing was removed." \
"To remove it for good: make $@ CONFIRM=yes" >&2; exit 2; fi
endef

.PHONY: help
help: ## List the commands
	@grep -hE '^##@ |^[a-z][a-z0-9 -]*:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:[^#]*## /|/' \
	| cat <(printf '=%s\n' $(ALIASES)) - <(printf '%s\n' $(ROWS)) \
	| awk -F '|' '/^=/{also[$$2] = ", " substr($$1, 2); next} /^##@ /{printf "\n%s\n", substr($$0, 5); next} \
	{gsub(" ", ", ", $$1); printf "  %-36s %s\n", $$1 also[$$1], $$2}'

##@ Sweeps

.PHONY: sweep
sweep: $(STAMP) ## Run a sweep and report: NAME=quickstart [AS=other-name]
	$(call need,NAME,NAME=quickstart)
	$(call then_report,$(PY) -m sweeps run "$(NAME)" --runs "$(RUNS)" $(if $(AS),--as "$(AS)") $(ARGS),$(or $(AS),$(patsubst %.yaml,%,$(notdir $(NAME)))))

.PHONY: resume
resume: $(STAMP) ## Go on with a sweep that was interrupted or killed: NAME=…
	$(call need,NAME,NAME=quickstart)
	$(call then_report,$(PY) -m sweeps resume "$(NAME)" --runs "$(RUNS)" $(ARGS),$(NAME))

.PHONY: extend
extend: $(STAMP) ## Give a sweep more, also after its end: NAME=… TRIALS=+10, or of its budget HOURS=+1 EPOCHS=+100 COST=+5
	$(call need,NAME,NAME=quickstart TRIALS=+10)
	@test -n "$(TRIALS)$(HOURS)$(EPOCHS)$(COST)" || { echo "TRIALS=…, HOURS=…, EPOCHS=… or COST=… is missing, as in: make $@ NAME=$(NAME) TRIALS=+10" >&2; exit 2; }
	$(call then_report,$(PY) -m sweeps extend "$(NAME)" $(if $(TRIALS),--trials "$(TRIALS)") $(if $(HOURS),--hours "$(HOURS)") $(if $(EPOCHS),--epochs "$(EPOCHS)") $(if $(COST),--cost "$(COST)") --runs "$(RUNS)" $(ARGS),$(NAME))

.PHONY: retry
retry: $(STAMP) ## Run the failed trials of a sweep again: NAME=… [ONLY=oom]
	$(call need,NAME,NAME=quickstart)
	$(call then_report,$(PY) -m sweeps retry "$(NAME)" $(if $(ONLY),--only "$(ONLY)") --runs "$(RUNS)" $(ARGS),$(NAME))

.PHONY: continue
continue: $(STAMP) ## Train a trial further from its last checkpoint: NAME=… TRIAL=N EPOCHS=+10
	$(call need,NAME,NAME=quickstart TRIAL=3 EPOCHS=+10)
	$(call need,TRIAL,NAME=quickstart TRIAL=3 EPOCHS=+10)
	$(call need,EPOCHS,NAME=quickstart TRIAL=3 EPOCHS=+10)
	$(call then_report,$(PY) -m sweeps continue "$(NAME)" --trial "$(TRIAL)" --epochs "$(EPOCHS)" --runs "$(RUNS)" $(ARGS),$(NAME))

.PHONY: promote
promote: $(STAMP) ## Write the best trial as a Hydra experiment: NAME=… [TRIAL=N] [AS=experiment]
	$(call need,NAME,NAME=quickstart)
	$(PY) -m sweeps promote "$(NAME)" $(if $(TRIAL),--trial "$(TRIAL)") $(if $(AS),--as "$(AS)") --runs "$(RUNS)" $(ARGS)

.PHONY: export
export: $(STAMP) ## A sweep's trials and histories as tables: NAME=… [ARGS="--format parquet --out DIRECTORY"]
	$(call need,NAME,NAME=quickstart)
	$(PY) -m analysis export "$(NAME)" --root "$(RUNS)" $(ARGS)

.PHONY: reproduce
reproduce: $(STAMP) ## Train a trial again and compare it with what was recorded: NAME=… TRIAL=N
	$(call need,NAME,NAME=quickstart TRIAL=3)
	$(call need,TRIAL,NAME=quickstart TRIAL=3)
	$(PY) -m sweeps reproduce "$(NAME)" "$(TRIAL)" --runs "$(RUNS)" $(ARGS)

.PHONY: list
list: $(STAMP) ## List the sweeps: state, trials by their ends, best value
	$(PY) -m sweeps list --runs "$(RUNS)" $(ARGS)

.PHONY: status
status: $(STAMP) ## Tell how a sweep stands, also while it runs elsewhere: NAME=… [ARGS=--watch]
	$(call need,NAME,NAME=quickstart)
	$(PY) -m sweeps status "$(NAME)" --runs "$(RUNS)" $(ARGS)

.PHONY: stop
stop: $(STAMP) ## End a sweep that runs in another terminal, or on a cluster: NAME=… [ADDRESS=…]
	$(call need,NAME,NAME=quickstart)
	$(PY) -m sweeps stop "$(NAME)" $(if $(ADDRESS),--address "$(ADDRESS)") --runs "$(RUNS)" $(ARGS)

.PHONY: dashboard
dashboard: $(STAMP) ## Show a sweep's study in the browser, on this machine only: NAME=… [PORT=8080]
	$(call need,NAME,NAME=quickstart)
	$(PY) -m sweeps dashboard "$(NAME)" $(if $(PORT),--port "$(PORT)") --runs "$(RUNS)" $(ARGS)

.PHONY: pull
pull: $(STAMP) ## Bring the copy of a sweep here, to go on with it: NAME=… FROM=s3://bucket/sweeps
	$(call need,NAME,NAME=quickstart FROM=s3://bucket/sweeps)
	$(call need,FROM,NAME=quickstart FROM=s3://bucket/sweeps)
	$(PY) -m sweeps pull "$(NAME)" --from "$(FROM)" --runs "$(RUNS)" $(ARGS)

.PHONY: push
push: $(STAMP) ## Copy a sweep elsewhere, as `results` does while it runs: NAME=… [TO=s3://bucket/sweeps]
	$(call need,NAME,NAME=quickstart)
	$(PY) -m sweeps push "$(NAME)" $(if $(TO),--to "$(TO)") --runs "$(RUNS)" $(ARGS)

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

##@ Sweeps on a cluster

# $(on_cluster): stop with a hint if a sweep or its cluster is not named.
define on_cluster
$(call need,NAME,NAME=quickstart ADDRESS=http://127.0.0.1:8265)
$(call need,ADDRESS,NAME=$(NAME) ADDRESS=http://127.0.0.1:8265)
endef

SUBMIT = $(PY) -m sweeps submit "$(NAME)" --address "$(ADDRESS)" --runs "$(RUNS)" $(if $(AS),--as "$(AS)") $(ARGS)

.PHONY: submit
submit: $(STAMP) ## Run a sweep on a Ray cluster and report: NAME=… ADDRESS=http://127.0.0.1:8265 [AS=other-name]
	$(on_cluster)
	$(if $(findstring --no-wait,$(ARGS)),$(SUBMIT),$(call then_report,$(SUBMIT),$(or $(AS),$(patsubst %.yaml,%,$(notdir $(NAME))))))

.PHONY: attach
attach: $(STAMP) ## Follow a submitted sweep again, fetch it and report: NAME=… ADDRESS=…
	$(on_cluster)
	$(call then_report,$(PY) -m sweeps attach "$(NAME)" --address "$(ADDRESS)" --runs "$(RUNS)" $(ARGS),$(NAME))

.PHONY: fetch
fetch: $(STAMP) ## Copy a sweep from a cluster into runs/, also while it runs: NAME=… ADDRESS=… [ARGS="--checkpoints all"]
	$(on_cluster)
	$(PY) -m sweeps fetch "$(NAME)" --address "$(ADDRESS)" --runs "$(RUNS)" $(ARGS)

.PHONY: cluster
cluster: $(STAMP) ## Render cluster/*.yaml and slurm.sbatch from cluster/settings.yaml
	$(PY) -m sweeps render $(ARGS)

##@ One network

.PHONY: train
train: $(STAMP) ## Train one network: ARGS="experiment=vimh model=vimh_cnn data.target_width=1.0"
	$(PY) -m lhtx.train $(ARGS)

.PHONY: evaluate
evaluate: $(STAMP) ## Test a checkpoint: ARGS="ckpt_path=…"
	$(PY) -m lhtx.evaluate $(ARGS)

.PHONY: predict
predict: $(STAMP) ## A table of a checkpoint's predictions: ARGS="ckpt_path=…"
	$(PY) -m lhtx.predict $(ARGS)

.PHONY: suite
suite: $(STAMP) ## Train experiments one after another and tabulate them: NAME="digits" [ARGS="trainer.max_epochs=3"]
	$(call need,NAME,NAME=digits)
	$(PY) -m lhtx.suite $(NAME) $(ARGS)

.PHONY: diagram
diagram: $(STAMP) ## Summary and picture of a network: ARGS="model=vimh_cnn" (ARGS=--sizes: every model's size)
	$(PY) -m lhtx.diagram $(ARGS)

.PHONY: tensorboard
tensorboard: $(STAMP) ## TensorBoard of logs/ or of a sweep, on this machine only: [NAME=quickstart] [PORT=6006]
	$(PY) -m lhtx.tensorboard $(if $(NAME),"$(RUNS)/$(NAME)") $(if $(PORT),--port "$(PORT)") $(ARGS)

.PHONY: configs
configs: ## List the options of data, model and experiment
	@cd lhtx/configs && for group in data model experiment; do echo "$$group="; \
	ls $$group | grep -v '^_' | sed -n 's/\.yaml$$//p' | tr '\n' ' ' | fold -s -w 100 | sed 's/^/  /'; echo; done

##@ Data

.PHONY: generate
generate: $(STAMP) ## Make a VIMH dataset: ARGS="--size 1000 …" (ARGS=--help lists the options)
	$(PY) -m lhtx.data.generate $(ARGS)

.PHONY: view
view: $(STAMP) ## A contact sheet of a VIMH dataset: ARGS="DIRECTORY [--count 25]"
	$(PY) -m lhtx.data.view $(ARGS)

##@ The project

.PHONY: setup
setup: $(STAMP) ## Make .venv and install what requirements.lock names (every other command does it when needed)

$(STAMP): requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and "Python 3.11 or newer is needed, $(PYTHON) is %d.%d: set PYTHON=…" % v)'
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.lock)"
	$(PY) -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@touch $@

.PHONY: test
test: $(STAMP) ## Run the tests (under five minutes on two cores)
	$(PY) -m pytest -n 2 $(ARGS)

.PHONY: test-slow
test-slow: $(STAMP) ## Run the long tests: whole sweeps, kills, the commands of the README
	$(PY) -m pytest -m slow -n 2 --dist loadfile $(ARGS)

.PHONY: test-all
test-all: test test-slow ## Run all tests

.PHONY: lint
lint: $(STAMP) ## Check style
	$(PY) -m ruff check
	$(PY) -m ruff format --check

.PHONY: format
format: $(STAMP) ## Mend style
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

.PHONY: bench
bench: $(STAMP) ## Measure every performance claim, all of them whatever is broken (ARGS=--quick: can all be measured?)
	@failed=; for script in benchmarks/*.py; do name=$$(basename $$script .py); echo "== $$name"; \
	$(PY) -m benchmarks.$$name $(ARGS) || failed="$$failed $$name"; done; \
	if [ -n "$$failed" ]; then echo "broken, or not to be measured:$$failed" >&2; exit 1; fi

.PHONY: faults
faults: $(STAMP) ## Kill, fill and damage what a sweep needs, and see that nothing is lost (ARGS=--write: docs/reliability.md)
	$(PY) -m benchmarks.faults $(ARGS)

.PHONY: clean
clean: ## Remove caches (never data, logs, runs or .venv)
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	rm -rf .pytest_cache .ruff_cache .hypothesis

.PHONY: clean-logs
clean-logs: ## Remove logs/ with its checkpoints (asks for CONFIRM=yes)
	$(call remove,logs)

.PHONY: clean-data
clean-data: ## Remove data/, generated and downloaded (asks for CONFIRM=yes)
	$(call remove,data)

# The table of shortcuts. One row makes a long target, its short name and its line in the help:
# $(call row, short, long, module and its arguments, text without commas)
# $(call all, short, long, targets that it runs, text), $(call section, heading of the rows that follow)
# $(call alias, short, long) gives a target that stands above a short name.
row = $(eval $(call command,$(strip $(1)),$(strip $(2)),$(strip $(3)),$(strip $(4))))
all = $(eval $(call group,$(strip $(1)),$(strip $(2)),$(strip $(3)),$(strip $(4))))
alias = $(eval $(call shortcut,$(strip $(1)),$(strip $(2))))
section = $(eval ROWS += "\#\#@ $(strip $(1))")

define command
.PHONY: $(2) $(1)
$(2) $(1): $$(STAMP)
	$$(PY) -m $(3) $$(ARGS)
ROWS += "$(2) $(1)|$(4)"
endef

define group
.PHONY: $(2) $(1)
$(2) $(1): $(3)
ROWS += "$(2) $(1)|$(4)"
endef

define shortcut
.PHONY: $(1)
$(1): $(2)
ALIASES += "$(1)|$(2)"
endef

$(call alias, h,  help)
$(call alias, tr, train)
$(call alias, td, diagram)
$(call alias, tb, tensorboard)
$(call alias, lc, configs)
$(call alias, dv, view)
$(call alias, t,  test)
$(call alias, ts, test-slow)
$(call alias, ta, test-all)
$(call alias, f,  format)
$(call alias, c,  clean)
$(call alias, cl, clean-logs)
$(call alias, cd, clean-data)

EXPERIMENT := lhtx.train experiment
QUICK := trainer.max_epochs=1 trainer.limit_train_batches=10 trainer.limit_val_batches=5 trainer.limit_test_batches=5
SHORT := trainer.min_epochs=1 trainer.max_epochs=5

$(call section, Shortcuts: does it train? Ten batches)
$(call row, tq,   train-quick,          $(EXPERIMENT)=mnist_sdn $(QUICK),      SimpleDenseNet on MNIST)
$(call row, tqc,  train-quick-cnn,      $(EXPERIMENT)=mnist_cnn $(QUICK),      SimpleCNN on MNIST)
$(call row, tqv,  train-quick-vit,      $(EXPERIMENT)=mnist_vit $(QUICK),      Vision transformer on MNIST)
$(call row, tqcn, train-quick-convnext, $(EXPERIMENT)=mnist_convnext $(QUICK), ConvNeXt V2 on MNIST)
$(call row, tqvh, train-quick-vimh,     $(EXPERIMENT)=vimh $(QUICK),           SimpleCNN on VIMH)
$(call row, tqd,  train-quick-digits,   $(EXPERIMENT)=digits_cnn $(QUICK),     SimpleCNN on scikit-learn's digits)
$(call all, tqa,  train-quick-all,      tq tqc tqv tqcn tqvh tqd,              All of the above)

$(call section, Shortcuts: experiments)
$(call row, esdn,    exp-sdn,                   $(EXPERIMENT)=mnist_sdn,                   SimpleDenseNet on MNIST)
$(call row, ecm,     exp-cnn-mnist,             $(EXPERIMENT)=mnist_cnn,                   SimpleCNN on MNIST)
$(call row, evit,    exp-vit,                   $(EXPERIMENT)=mnist_vit,                   Vision transformer on MNIST)
$(call row, excn,    exp-convnext,              $(EXPERIMENT)=mnist_convnext,              ConvNeXt V2 on MNIST)
$(call row, ev995,   exp-vit-995,               $(EXPERIMENT)=mnist_vit_995,               The recipe for 99.5 % on MNIST)
$(call row, ecnb,    exp-convnext-benchmark,    $(EXPERIMENT)=mnist_benchmark_convnext,    ConvNeXt V2 on MNIST for 100 epochs)
$(call row, emhcm,   exp-multihead-cnn-mnist,   $(EXPERIMENT)=mnist_multihead_cnn,         MNIST with three heads)
$(call row, ec10c,   exp-cifar10-cnn,           $(EXPERIMENT)=cifar10_cnn,                 SimpleCNN on CIFAR-10)
$(call row, emhcc10, exp-multihead-cnn-cifar10, $(EXPERIMENT)=cifar10_multihead_cnn,       CIFAR-10 with four heads)
$(call row, cb100cc, cifar100-coarse-cnn,       $(EXPERIMENT)=cifar100_coarse_cnn,         SimpleCNN on the superclasses of CIFAR-100)
$(call row, evimh,   exp-vimh,                  $(EXPERIMENT)=vimh,                        Soft targets on VIMH)
$(call row, evimho,  exp-vimh-ordinal,          $(EXPERIMENT)=vimh_ordinal,                Ordinal loss on VIMH)
$(call row, evimhr,  exp-vimh-regression,       $(EXPERIMENT)=vimh_normalized_regression,  Regression heads on VIMH)
$(call row, ca,      compare-arch, lhtx.suite mnist_sdn mnist_cnn mnist_vit mnist_convnext $(SHORT), Four architectures on MNIST for five epochs)

$(call section, Shortcuts: CIFAR benchmarks)
$(call row, cb10c,     cifar10-cnn,          $(EXPERIMENT)=cifar10_benchmark_cnn,           SimpleCNN on CIFAR-10)
$(call row, cb10cn,    cifar10-convnext,     $(EXPERIMENT)=cifar10_benchmark_convnext,      ConvNeXt V2 on CIFAR-10)
$(call row, cb10v,     cifar10-vit,          $(EXPERIMENT)=cifar10_benchmark_vit,           Vision transformer on CIFAR-10)
$(call row, cb10e,     cifar10-efficientnet, $(EXPERIMENT)=cifar10_benchmark_efficientnet,  EfficientNet on CIFAR-10)
$(call row, cb100c,    cifar100-cnn,         $(EXPERIMENT)=cifar100_benchmark_cnn,          SimpleCNN on CIFAR-100)
$(call row, cb100cn,   cifar100-convnext,    $(EXPERIMENT)=cifar100_benchmark_convnext,     ConvNeXt V2 of 1 M on CIFAR-100)
$(call row, cb100v,    cifar100-vit,         $(EXPERIMENT)=cifar100_benchmark_vit,          Vision transformer on CIFAR-100)
$(call row, cb100e,    cifar100-efficientnet, $(EXPERIMENT)=cifar100_benchmark_efficientnet, EfficientNet on CIFAR-100)
$(call row, cb100sdn,  cifar100-sdn,         $(EXPERIMENT)=cifar100_benchmark_sdn,          SimpleDenseNet on CIFAR-100)
$(call row, cb100cn10m, cifar100-convnext-10m, $(EXPERIMENT)=cifar100_benchmark_convnext model=cifar100_convnext_10m, ConvNeXt V2 of 10 M on CIFAR-100)

$(call section, Shortcuts: CIFAR in five epochs)
$(call row, cbq10c,   cifar10-quick-cnn,       $(EXPERIMENT)=cifar10_benchmark_cnn $(SHORT),       SimpleCNN on CIFAR-10)
$(call row, cbq10cn,  cifar10-quick-convnext,  $(EXPERIMENT)=cifar10_benchmark_convnext $(SHORT),  ConvNeXt V2 on CIFAR-10)
$(call row, cbq100c,  cifar100-quick-cnn,      $(EXPERIMENT)=cifar100_benchmark_cnn $(SHORT),      SimpleCNN on CIFAR-100)
$(call row, cbq100sdn, cifar100-quick-sdn,     $(EXPERIMENT)=cifar100_benchmark_sdn $(SHORT),      SimpleDenseNet on CIFAR-100)
$(call row, cbq100cc, cifar100-quick-coarse,   $(EXPERIMENT)=cifar100_coarse_cnn $(SHORT),         The superclasses of CIFAR-100)
$(call all, cbqa,     cifar-quick-all,         cbq10c cbq10cn cbq100c cbq100sdn cbq100cc,          All of the above)
$(call all, allqt,    all-quick-tests,         tqa cbqa,                                           Every quick run)

$(call section, Shortcuts: benchmark suites and their tables)
$(call row, cbs,    benchmark-suite,    lhtx.suite cifar,    Every benchmark of CIFAR-10 and CIFAR-100)
$(call row, cbsm,   benchmark-mnist,    lhtx.suite mnist_benchmarks, The benchmarks of MNIST)
$(call row, cbs10,  benchmark-cifar10,  lhtx.suite cifar10,  The benchmarks of CIFAR-10)
$(call row, cbs100, benchmark-cifar100, lhtx.suite cifar100, The benchmarks of CIFAR-100)
