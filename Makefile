# Chores, one word each; CI calls the same words. Values given on the command line reach the shell as environment
# variables only, so that spaces, quotes and dollars in them are text.
SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
override IMAGES := $(value IMAGES)
override MASKS := $(value MASKS)
override CLASSES := $(value CLASSES)
export IMAGES MASKS CLASSES PYTHON

.PHONY: help setup run test check bench docs

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo '  make run IMAGES=/folder CLASSES="background,gland" [MASKS=/folder]    the same on images of your own'

setup: .venv/.made .venv-label-studio/.made ## make both environments (once, and when their pins change)
	@:

run: setup ## start everything on drawn demo tissue, until Ctrl-C
	@set --; \
	if [ -n "$$IMAGES" ]; then set -- --images "$$IMAGES"; else set -- --demo; fi; \
	if [ -n "$$CLASSES" ]; then set -- "$$@" --classes "$$CLASSES"; fi; \
	if [ -n "$$MASKS" ]; then set -- "$$@" --masks "$$MASKS"; fi; \
	exec .venv/bin/mpamatch up "$$@" $(UP)

test: setup ## everything CI runs: with real servers, a real Label Studio and a browser
	@.ci/chromium
	.venv/bin/python -m pytest

check: setup ## style, types, who imports whom, contracts
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo
	.venv/bin/python -m pytest tests/contracts

bench: setup ## measure every figure that the docs quote
	@for file in benchmarks/[!_]*.py; do \
	  [ -e "$$file" ] || { echo 'no benchmarks yet'; exit 0; }; \
	  echo "== $$file"; .venv/bin/python "$$file" || exit 1; \
	done

docs: setup ## hold the docs against the product: links, commands, settings
	.venv/bin/python -m pytest tests/contracts -k docs

.venv/.made: requirements/constraints.txt pyproject.toml
	@.ci/environment .venv "$$PYTHON" -c requirements/constraints.txt -e '.[embedded,dev]'
	@touch $@

.venv-label-studio/.made: requirements/label-studio.txt
	@.ci/environment .venv-label-studio "$$PYTHON" -r requirements/label-studio.txt
	@touch $@
