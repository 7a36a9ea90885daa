# Everything a newcomer or a CI machine needs; `make help` lists it.
.DEFAULT_GOAL := help
.PHONY: help run demo test suite soak bench lint format clean setup broker chromium clients
SHELL := /bin/sh
BIN := .venv/bin
ARGS ?=

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: ## start limehub with the packages in plugins/ and a broker; ARGS="--worker NAME"
	@scripts/setup
	@exec $(BIN)/python -m scripts.run $(ARGS)

demo: ## a CRM at work for the server of `make run`; ARGS="--rate 100 --fail-rate 0.2"
	@$(BIN)/limehub publish --demo --fail-rate 0.05 $(ARGS)

test: setup broker chromium clients ## linters, types and the whole test suite; ARGS="-k retry"
	@$(MAKE) --no-print-directory --jobs 2 --keep-going lint suite

suite:
	@scripts/suite $(ARGS)

soak: setup broker chromium clients ## the test suite with full durations and more rounds
	@LIMEHUB_SOAK=1 $(BIN)/python -m pytest $(ARGS)

bench: setup broker ## limehub beside its peers; SECTIONS="p1000 p10" ROUNDS=3 PEERS="limehub yapw"
	@scripts/bench-setup
	@$(BIN)/python -m benchmarks $(if $(SECTIONS),--sections $(SECTIONS)) \
	  $(if $(PEERS),--peers $(PEERS)) $(if $(ROUNDS),--rounds $(ROUNDS))

lint: setup ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy --strict --exclude '^benchmarks/peers/' scripts tests/support benchmarks

format: setup ## put the code into its one format
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

clean: ## remove .venv, the private broker with its data, and caches
	@rm -rf .venv .limehub .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

setup:
	@scripts/setup dev

# A machine without RabbitMQ skips the tests that need it, but not in CI.
broker:
	@scripts/install-rabbitmq || [ "$$CI" != true ]

clients:
	@scripts/install-clients || [ "$$CI" != true ]

chromium:
	@scripts/install-chromium || [ "$$CI" != true ]
