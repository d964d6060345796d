# Two commands matter: `make demo` and `make test`. Each makes .venv from requirements.lock if it is missing.
.PHONY: demo test bench style lock clean

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
RUN := HF_HUB_DISABLE_TELEMETRY=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false .venv/bin/python

# The lock's copy inside .venv says which lock the environment was made from.
.venv/requirements.lock: requirements.lock
	@test -n "$(PYTHON)" || { echo "error: no Python >= 3.11 with venv found; set PYTHON=/path/to/python"; exit 2; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	cp requirements.lock .venv/requirements.lock

demo: .venv/requirements.lock
	$(RUN) recipes/demo.py

test: .venv/requirements.lock
	$(RUN) -m pytest

bench: .venv/requirements.lock
	@for benchmark in benchmarks/*.py; do [ ! -f "$$benchmark" ] || $(RUN) "$$benchmark" || exit 1; done

style: .venv/requirements.lock
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

# After changing pyproject.toml: resolve anew in an empty environment, then look at the diff before committing.
lock:
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet torch==2.13.0
	.venv-lock/bin/python -m pip install --quiet -e ".[dev]"
	{ sed -n '/^#/p' requirements.lock; \
	  .venv-lock/bin/python -m pip freeze --exclude-editable | sed 's/+cpu$$//'; } > requirements.lock.new
	mv requirements.lock.new requirements.lock && rm -rf .venv-lock

clean:
	rm -rf .venv runs
