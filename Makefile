# Chores, one word each; CI calls the same words. Values given on the command line reach the shell as environment
# variables only, so that spaces, quotes and dollars in them are text.
SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
override IMAGES := $(value IMAGES)
override MASKS := $(value MASKS)
override CLASSES := $(value CLASSES)
override LABELS := $(value LABELS)
override START := $(value START)
override GROUPS := $(value GROUPS)
export IMAGES MASKS CLASSES LABELS START GROUPS PYTHON

.PHONY: help setup run test check bench docs adapter

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo '  make run IMAGES=/folder CLASSES="background,gland" [MASKS=/folder] [LABELS=polygon] [START=blank]'
	@echo '                                            the same on images of your own; LABELS: brush, bitmask or polygon;'
	@echo '                                            START: blank or encoder, without the starter model'
	@echo "                                            GROUPS='(case-[0-9]+)': what in a path says whose tissue it is"

setup: .venv/.made .venv-label-studio/.made ## make both environments (once, and when their pins change)
	@:

run: setup ## start everything on drawn demo tissue, until Ctrl-C
	@set --; \
	if [ -n "$$IMAGES" ]; then set -- --images "$$IMAGES"; else set -- --demo; fi; \
	if [ -n "$$CLASSES" ]; then set -- "$$@" --classes "$$CLASSES"; fi; \
	if [ -n "$$MASKS" ]; then set -- "$$@" --masks "$$MASKS"; fi; \
	if [ -n "$$LABELS" ]; then set -- "$$@" --label-type "$$LABELS"; fi; \
	if [ -n "$$START" ]; then set -- "$$@" --start "$$START"; fi; \
	if [ -n "$$GROUPS" ]; then set -- "$$@" --group-pattern "$$GROUPS"; fi; \
	exec .venv/bin/mpamatch up "$$@" $(UP)

test: setup adapter ## everything CI runs: real servers, Label Studio and a browser; then on servers of others
	@.ci/chromium
	@.ci/servers
	@.ci/both-profiles

check: setup ## style, types, who imports whom
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo

bench: setup ## measure every figure that the docs quote
	@for file in benchmarks/[!_]*.py; do \
	  [ -e "$$file" ] || { echo 'no benchmarks yet'; exit 0; }; \
	  echo "== $$file"; .venv/bin/python "$$file" || exit 1; \
	done

adapter: .venv-label-studio-ml/.made ## make the environment of HumanSignal's own ML server, for its adapter
	@:

docs: setup ## hold the docs against the product: links, commands, settings
	.venv/bin/python -m pytest tests/contracts -k docs

.venv/.made: requirements/constraints.txt pyproject.toml
	@.ci/environment .venv "$$PYTHON" -c requirements/constraints.txt -e '.[embedded,text,dev]'
	@touch $@

.venv-label-studio/.made: requirements/label-studio.txt
	@.ci/environment .venv-label-studio "$$PYTHON" -r requirements/label-studio.txt
	@touch $@

.venv-label-studio-ml/.made: requirements/label-studio-ml.txt
	@.ci/environment .venv-label-studio-ml "$$PYTHON" -r requirements/label-studio-ml.txt
	@touch $@
