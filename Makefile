# Curator. `make` lists what there is; everything works from a clone in any folder, again and again.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup setup-ray demo serve test lint format lock recipe results doctor gpu-check

generator := envs/generator/.venv/bin/python
verifier := envs/verifier/.venv/bin/python
uv := $(shell command -v uv || echo envs/.uv/bin/uv)
environments := generator verifier downloader training

help: ## this list
	@echo "Curator: compute at inference time for text-to-music generation"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## build the two environments that everything needs (nothing to do when they are there)
	@envs/setup.sh generator verifier

setup-ray: ## the same and Ray, for several machines or GPUs (76 MB more; stays on later set-ups)
	@envs/setup.sh generator verifier --extra ray

demo: setup ## search with the built-in stack: a table, a figure, clips to listen to
	@$(generator) benchmark.py --profile builtin --method baseline best_of_n sbs lookahead \
		--verifier $(recommended) --server auto --num_samples 16 --candidates 8 --duration 5 \
		--judges msd_cosine_codec msd_kld_codec mtt_vgg \
		--output results/demo-$$(date +%Y%m%d-%H%M%S)

serve: setup ## the verifier server on port 8000
	@$(verifier) verifier_server.py

test: setup ## every test, each suite in its environment (FAST=1: no slow ones; JOBS=1: no two at once; PYTEST="-x -k wire")
	@envs/setup.sh downloader
	@envs/chromium.sh >/dev/null || true
	@$(generator) tests/run.py $(PYTEST)

lint: setup ## ruff, its formatting, mypy, directions of imports, the weight of a clone
	$(generator) -m ruff check .
	$(generator) -m ruff format --check .
	$(generator) -m mypy src *.py
	$(generator) -c 'from importlinter.cli import lint_imports_command as lint; lint()'
	@git ls-files -z | xargs -0 stat --format=%s | awk '{ size += $$1 } END { \
		printf "tracked files: %.1f MB; at most 66.5\n", size / 1e6; exit size > 66.5e6 }'

format: setup ## let ruff mend what it can
	$(generator) -m ruff check --fix .
	$(generator) -m ruff format .

compile = $(abspath $(uv)) pip compile --quiet $(UPGRADE) --python-version 3.11 \
	--python-platform x86_64-manylinux_2_28 --no-emit-index-url --no-header

# An extra adds to an environment, and changes no version that is in it.
lock: ## make every requirements.lock from its requirements.in (UPGRADE=--upgrade for newer versions)
	@for name in $(environments); do \
		echo "lock: $$name"; \
		(cd envs/$$name && $(compile) --override overrides.txt \
			requirements.in --output-file requirements.lock) || exit 1; \
	done
	@for name in generator verifier; do \
		(cd envs/$$name && $(compile) --constraint requirements.lock \
			../ray.in --output-file ray.lock) || exit 1; \
	done

RESULTS ?= results/again
on_builtin = --profile builtin --server auto --duration 5 --output "$(RESULTS)"
recommended = tags+pmi
sums = tags+perplexity tags+pmi tags+tags_vgg tags+tags_vgg+pmi
judges = msd_cosine_codec msd_kld_codec msd_kld msd_vgg_kld_codec mtt_vgg msd_vgg_kld msd_cosine
confirmations = results/builtin/confirmation.toml results/builtin/confirmation-medoid.toml
one_sample = --num_samples 64 --pool_size 4 --budgets 1 2 4 --prefixes none

# Latency comes first, on a machine that nothing has warmed yet.
# On a CPU, as they were made, also where there is a GPU.
results: export CUDA_VISIBLE_DEVICES =
results: setup ## make the runs of results/builtin anew, in results/again (hours; resumes)
	$(generator) latency_experiment.py $(on_builtin) --num_samples 3 --verifier tags
	$(generator) latency_experiment.py $(on_builtin) --num_samples 3 --verifier tags --budgets 16 \
		--repetitions 3 --method baseline best_of_n sbs dvts halving smc power waves
	$(generator) benchmark.py $(on_builtin) --num_samples 64 --candidates 8 \
		--verifier $(recommended) --method baseline best_of_n sbs lookahead --save_audio none
	$(generator) verifier_experiment.py $(on_builtin) --num_samples 64 --pool_size 32 \
		--budgets 1 2 4 8 16 --verifiers perplexity pmi tags tags_vgg \
		--judges $(judges) spread_msd kad_msd --sums $(sums) --validity
	$(generator) verifier_experiment.py $(on_builtin) --num_samples 64 --pool_size 0 \
		--method sbs lookahead --sweep_verifiers pmi tags+pmi \
		--budgets 16 --beam_widths 4 --lookahead_ks 1 --seeds 42 43 44
	$(generator) verifier_experiment.py $(on_builtin) --num_samples 64 --pool_size 0 \
		--method dvts halving smc power waves --sweep_verifiers pmi tags+pmi \
		--budgets 16 --beam_widths 4
	$(generator) verifier_experiment.py $(on_builtin) --num_samples 64 --pool_size 0 \
		--method dvts halving smc power waves --sweep_verifiers tags+pmi \
		--budgets 16 --beam_widths 4 --seeds 43
	for temperature in 0.7 0.85; do $(generator) verifier_experiment.py $(on_builtin) \
		$(one_sample) --verifiers perplexity pmi tags --temperature $$temperature || exit 1; done
	$(generator) verifier_experiment.py $(on_builtin) \
		$(one_sample) --verifiers perplexity tags --guidance 1
	for guidance in 5 7; do $(generator) verifier_experiment.py $(on_builtin) \
		$(one_sample) --verifiers perplexity pmi tags --guidance $$guidance || exit 1; done
	$(generator) verifier_experiment.py $(on_builtin) --prompts builtin/confirmation/prompts.csv \
		--num_samples 256 --pool_size 16 --budgets 1 2 4 8 --prefixes none \
		--verifiers perplexity pmi tags "medoid(tags)" --sums tags+pmi "tags+pmi+medoid(tags)"
	$(generator) -m src.reports "$(RESULTS)"/pool-builtin-m32-* \
		--sums $(sums) --sweep "$(RESULTS)"/sweep-builtin-*
	$(generator) -m src.reports.comparison "$(RESULTS)"/pool-builtin-m32-* \
		"$(RESULTS)"/pool-builtin-m4-* --selectors perplexity pmi tags tags+pmi
	for asked in $(confirmations); do \
		$(generator) -m src.reports.confirmation $$asked "$(RESULTS)"/pool-builtin-m16-* || exit 1; done
	@$(generator) -m src.reports.reproduction "$(RESULTS)" results/builtin

# Not by way of setup: it is for machines where that does not work.
doctor: ## what is there and what works on this machine: one table (ARGS="--model facebook/musicgen-small")
	@$(or $(wildcard $(generator)),python3) -m src.experiments.doctor $(ARGS)

# Where nothing is set up, any Python 3.11 with torch will do.
gpu-check: ## is the decoder right, exact and fast on this machine's GPU? (six minutes; needs torch alone)
	$(or $(wildcard $(generator)),python3) perf/gpu.py --output results/gpu

soundfont := /usr/share/sounds/sf2/FluidR3_GM.sf2

recipe: setup ## make the built-in model anew in build/recipe (hours; resumes; see builtin/)
	@envs/setup.sh training
	@test -f $(soundfont) || { echo "recipe: apt install libfluidsynth3 fluid-soundfont-gm"; exit 1; }
	@set -e; for step in scores corpus train_codec train_lm "train_codec --refine" export make_prompts "make_prompts --confirmation"; do \
		echo "recipe: $$step"; \
		envs/training/.venv/bin/python -m builtin.recipe.$$step --work build/recipe; \
	done
	@echo "recipe: evaluate"
	@$(generator) -m builtin.recipe.evaluate --work build/recipe
