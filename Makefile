PYTHON ?= python3
VENV ?= .venv
LOCK ?= requirements.txt
PORT ?= 8000
ARGS ?=
PIP_LOG = $(VENV)/pip.log
SECONDS ?= 600
SEED ?= 1

bin := $(VENV)/bin
lock_venv := .venv-lock
demo_venv := .venv-demo
demo_lock := project/requirements.txt

.PHONY: help demo test chaos bench check lock clean python venv chromium

help: ## show this list (the default)
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 14
	@echo 'Set PYTHON= and VENV= to use another interpreter, PORT= for the demo, ARGS= for pytest or uv.'

demo: ## serve the demo on 127.0.0.1, port 8000 or PORT=
	@$(MAKE) --no-print-directory venv VENV=$(demo_venv) LOCK=$(demo_lock) PIP_LOG=
	@$(demo_venv)/bin/python manage.py migrate --verbosity 0
	@echo 'StreamBridge demo: http://127.0.0.1:$(PORT)/ (Ctrl-C ends it)'
	@exec $(demo_venv)/bin/python -m daphne \
		-e tcp:port=$(PORT):interface=127.0.0.1:backlog=2048 project.asgi:application

# They wait more than they compute; each process has servers of its own.
test: chromium ## run the tests, or those that ARGS="-k NAME" selects
	@$(bin)/python -m pytest $(or $(ARGS),--numprocesses 6 --dist worksteal)

chaos: venv ## break servers, workers, Redis and PostgreSQL for ten minutes, or SECONDS=, by SEED=
	@$(bin)/python -m tests.chaos.chaos --seconds $(SECONDS) --seed $(SEED) $(ARGS)

bench: ## measure beside the peers for an hour; ARGS="burst replay" takes these questions only
	@$(MAKE) --no-print-directory venv VENV=.venv-bench
	@cmp -s benchmarks/requirements.txt .venv-bench/peers || { \
		echo 'Installing benchmarks/requirements.txt into .venv-bench' && \
		.venv-bench/bin/python -m pip install -r benchmarks/requirements.txt >.venv-bench/pip.log 2>&1 || \
			{ cat .venv-bench/pip.log >&2; exit 1; }; \
		cp benchmarks/requirements.txt .venv-bench/peers; \
	}
	@.venv-bench/bin/python -m benchmarks $(ARGS)

check: venv ## check format, lint and types
	$(bin)/python -m ruff format --check .
	$(bin)/python -m ruff check .
	$(bin)/python -m mypy

lock: python ## write what to install from pyproject.toml; ARGS=--upgrade takes newer versions
	@$(PYTHON) -m venv --clear $(lock_venv)
	@$(lock_venv)/bin/python -m pip install --quiet uv
	@for what in "dev $(LOCK)" "demo $(demo_lock) --constraint $(LOCK)"; do \
		set -- $$what; group=$$1 file=$$2; shift 2; \
		$(lock_venv)/bin/uv pip compile pyproject.toml --all-extras --group $$group \
			--universal --python-version 3.11 --generate-hashes \
			--custom-compile-command 'make lock' --quiet --output-file $$file "$$@" $(ARGS) || exit 1; \
	done
	@rm -rf $(lock_venv)

clean: ## remove the environments, the demo's database and all caches
	@rm -rf $(VENV) .venv-* build dist *.egg-info *.sqlite3 *.sqlite3-shm *.sqlite3-wal
	@rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -prune -exec rm -rf {} +

python:
	@$(PYTHON) -c '' 2>/dev/null || { \
		echo '$(PYTHON) does not run: install Python 3.11 or newer, or name one with PYTHON=.' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo '$(PYTHON) is too old: install Python 3.11 or newer, or name one with PYTHON=.' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo '$(PYTHON) lacks the modules venv and ensurepip: install them, on Debian with `apt-get install python3-venv`.' >&2; exit 1; }

# The stamp says which interpreter and which lock the environment was made from, and is written last: an installation
# that was interrupted is made anew.
venv: python
	@want="$$($(PYTHON) -c 'import sys; print(sys.base_prefix, sys.version)') $$(cksum < $(LOCK))"; \
	if [ "$$(cat $(VENV)/stamp 2>/dev/null)" != "$$want" ]; then \
		echo 'Installing $(LOCK) into $(VENV)'; \
		$(PYTHON) -m venv --clear $(VENV) && \
		{ $(bin)/python -m pip install --require-hashes -r $(LOCK) $(if $(PIP_LOG),>$(PIP_LOG) 2>&1) || \
			{ $(if $(PIP_LOG),cat $(PIP_LOG) >&2;) exit 1; }; } && \
		echo "$$want" >$(VENV)/stamp; \
	fi

chromium: venv
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo 'Installing Chromium'; \
		{ apt-get update && apt-get install -y --no-install-recommends chromium; } \
			>$(VENV)/apt.log 2>&1 || { cat $(VENV)/apt.log >&2; exit 1; }; \
	else \
		echo 'The tests need Chromium: install it, on Debian with `apt-get install chromium`.' >&2; exit 1; \
	fi
