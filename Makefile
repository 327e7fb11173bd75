# Curator. `make` lists what there is; everything works from a clone in any folder, again and again.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo serve test lint format lock recipe

generator := envs/generator/.venv/bin/python
verifier := envs/verifier/.venv/bin/python
uv := $(shell command -v uv || echo envs/.uv/bin/uv)
environments := generator verifier downloader training

help: ## this list
	@echo "Curator: compute at inference time for text-to-music generation"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## build the two environments that everything needs (nothing to do when they are there)
	@envs/setup.sh generator verifier

demo: setup ## search with the built-in stack: a table, a figure, clips to listen to
	@$(generator) benchmark.py --profile builtin --method baseline best_of_n sbs lookahead \
		--verifier tags --server auto --num_samples 16 --candidates 8 --duration 5 \
		--output results/demo-$$(date +%Y%m%d-%H%M%S)

serve: setup ## the verifier server on port 8000
	@$(verifier) verifier_server.py

test: setup ## every test, each suite in its environment (PYTEST="-x -k wire" for some)
	@envs/setup.sh downloader
	@envs/chromium.sh >/dev/null || true
	@$(generator) tests/run.py $(PYTEST)

lint: setup ## ruff, its formatting and mypy
	$(generator) -m ruff check .
	$(generator) -m ruff format --check .
	$(generator) -m mypy src *.py

format: setup ## let ruff mend what it can
	$(generator) -m ruff check --fix .
	$(generator) -m ruff format .

lock: ## make every requirements.lock from its requirements.in (UPGRADE=--upgrade for newer versions)
	@for name in $(environments); do \
		echo "lock: $$name"; \
		(cd envs/$$name && $(abspath $(uv)) pip compile --quiet $(UPGRADE) \
			--python-version 3.11 --python-platform x86_64-manylinux_2_28 \
			--no-emit-index-url --no-header --override overrides.txt \
			requirements.in --output-file requirements.lock) || exit 1; \
	done

soundfont := /usr/share/sounds/sf2/FluidR3_GM.sf2

recipe: setup ## make the built-in model anew in build/recipe (hours; resumes; see builtin/)
	@envs/setup.sh training
	@test -f $(soundfont) || { echo "recipe: apt install libfluidsynth3 fluid-soundfont-gm"; exit 1; }
	@set -e; for step in scores corpus train_codec train_lm "train_codec --refine" export make_prompts; do \
		echo "recipe: $$step"; \
		envs/training/.venv/bin/python -m builtin.recipe.$$step --work build/recipe; \
	done
	@echo "recipe: evaluate"
	@$(generator) -m builtin.recipe.evaluate --work build/recipe
