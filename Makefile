# The course's commands. `make` alone lists them. GNU make 3.81 or later; on Windows from Git Bash.
#
# Settings, as `make lab PYTHON=python3.12`:
#   PYTHON     the interpreter the environment is made of; without it the first one found that is new enough
#   VENV       the environment's folder
#   ARGS       further arguments of the command that the target runs

VENV ?= .venv
PYTHON ?=
ARGS ?=
export PYTHON

ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
RUN := $(BIN)/python -m
STAMP := $(VENV)/.installed

# JupyterLab refuses to run as root unless told that it may, as in a container.
LAB_AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

.DEFAULT_GOAL := help
.PHONY: help env lab test check notebooks build site bench lock clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

env: $(STAMP)  ## build the environment, or bring it up to date

lab: $(STAMP)  ## open JupyterLab on the course
	$(RUN) jupyter lab $(LAB_AS_ROOT) $(ARGS)

test: $(STAMP)  ## run every test, and every lecture and solution in a kernel of its own
	$(RUN) pytest -n 2 $(ARGS)

check: $(STAMP)  ## the quick tests and all notebooks in one warm interpreter, while you write
	$(RUN) course_lib.staff.warm --tests $(ARGS)

notebooks: $(STAMP)  ## run every lecture and solution in a kernel of its own, and nothing else
	$(RUN) pytest -n 2 tests/test_notebooks.py lectures solutions $(ARGS)

build: $(STAMP)  ## make all notebooks from their sources
	$(RUN) course_lib.cli build $(ARGS)

site: $(STAMP)  ## build the readable course, site/_build/html
	$(RUN) course_lib.cli site $(ARGS)

bench: $(STAMP)  ## print how fast things are, each as a ratio to a reference of the same run
	$(RUN) course_lib.staff.bench $(ARGS)

lock: $(STAMP)  ## find the newest versions again and pin them (needs uv)
	uv pip compile --universal --python-version 3.11 --all-extras --upgrade --no-header --no-annotate pyproject.toml -o requirements.lock

clean:  ## remove caches and build output; the environment and your answers stay
	rm -rf .cache .pytest_cache .hypothesis build dist site/_build
	find . -path ./$(VENV) -prune -o -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -print0 | xargs -0 rm -rf

# What is pinned first, then the course itself, which brings no dependency and needs no build environment of its own. uv is fast; pip may be
# the only one that is set up to find packages here, so it takes over where uv is missing or fails.
$(STAMP): pyproject.toml requirements.lock
	@set -e; \
	if [ ! -x "$(BIN)/python" ] && [ ! -x "$(BIN)/python.exe" ]; then \
	    for candidate in "$$PYTHON" python3 python3.13 python3.12 python3.11 python3.14 python "py -3"; do \
	        [ -n "$$candidate" ] || continue; \
	        if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found=$$candidate; break; fi; \
	        if [ "$$candidate" = "$$PYTHON" ]; then echo "PYTHON=$$PYTHON is no Python 3.11 or later" >&2; exit 1; fi; \
	    done; \
	    if [ -z "$${found:-}" ]; then echo "no Python 3.11 or later: install one, or name it: make lab PYTHON=/path/to/python3" >&2; exit 1; fi; \
	    echo "environment: $(VENV), made of $$($$found --version)"; \
	    $$found -m venv $(VENV) || { \
	        rm -rf "$(VENV)"; \
	        if command -v uv >/dev/null 2>&1; then uv venv --seed --python "$$found" $(VENV); \
	        else echo "$$found cannot make an environment (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; fi; \
	    }; \
	fi; \
	install_with_uv() { \
	    command -v uv >/dev/null 2>&1 \
	    && uv pip install --quiet --python "$(BIN)/python" -r requirements.lock \
	    && uv pip install --quiet --python "$(BIN)/python" --no-deps --no-build-isolation -e .; \
	}; \
	install_with_pip() { \
	    $(RUN) pip install --quiet --disable-pip-version-check -r requirements.lock \
	    && $(RUN) pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .; \
	}; \
	echo "environment: installing what requirements.lock pins"; \
	install_with_uv || install_with_pip
	@touch $(STAMP)
