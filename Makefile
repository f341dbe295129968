# Everyday commands, run from the root of a checkout; CONTRIBUTING.md says which to run when.
# PYTHON is the environment that the README's install line makes; another one: `make check PYTHON=python3`.
PYTHON ?= .venv/bin/python
# Tests run in two processes; of a file all in one of them.
TWO = -n 2 --dist loadgroup --no-loadscope-reorder
# Files of which no test is fast, and whose import of vLLM alone takes ten seconds.
IMPORT_VLLM = --ignore-glob='tests/test_burst*' --ignore=tests/test_gpu.py --ignore=tests/test_shared_prefix.py

.PHONY: check test-fast test coverage docs docs-commands gpu-smoke clients simulations

check:  # lint, format and types: seconds
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

test-fast:  # what starts no engine and takes no second: 70 to 110 s, by the host
	$(PYTHON) -m pytest $(TWO) -m "not engine and not slow" $(IMPORT_VLLM)

test:  # everything that runs without a GPU: 17 to 20 minutes on two cores
	$(PYTHON) -m pytest $(TWO)

coverage:  # of the tests' own processes, without the commands that they start
	$(PYTHON) -m pytest $(TWO) --cov

docs:  # the site, to .cache/site/html; needs no network
	$(PYTHON) docs/site/build.py

docs-commands:  # every command of the README and docs/ that this machine can run: 40 minutes on two busy cores
	GPUQA_DOCS_COMMANDS=1 $(PYTHON) -m pytest -s tests/test_docs_commands.py

gpu-smoke:  # on a machine with a GPU and vLLM's CUDA build
	$(PYTHON) -m pytest -m gpu

clients:  # the real load tools against a real server, each in an environment of its own; the first time needs a package index
	for tool in guidellm aiperf; do test -x .cache/clients/$$tool/bin/$$tool || { \
	  python3 -m venv .cache/clients/$$tool && \
	  .cache/clients/$$tool/bin/pip install -q --no-compile --no-deps -r requirements/clients/$$tool.txt; } || exit 1; done
	GPUQA_CLIENTS=.cache/clients $(PYTHON) -m pytest -s tests/test_clients.py

simulations:  # how often verdicts and races are right (-s shows the rates that the docs state), and 35 kills of studies
	$(PYTHON) -m pytest -s tests/test_verdict_simulation.py
	PYTHONPATH=tests $(PYTHON) experiments/verdict/simulate.py
	PYTHONPATH=tests $(PYTHON) experiments/verdict/devices.py
	PYTHONPATH=tests $(PYTHON) experiments/verdict/constraint_power.py
	PYTHONPATH=tests $(PYTHON) experiments/prompt_search/simulate_search.py
	$(PYTHON) experiments/verdict/reproduce_rates.py
	$(PYTHON) experiments/verdict/compare_rates.py
	GPUQA_REPLAYS=200 $(PYTHON) -m pytest -s tests/test_racing.py -k "recorded or generated"
	GPUQA_BURST_SCHEDULES=200 $(PYTHON) -m pytest tests/test_burst.py
	GPUQA_KILLS=20 $(PYTHON) -m pytest tests/test_survival.py -k kills_lose
	GPUQA_WORKER_KILLS=5 $(PYTHON) -m pytest tests/test_survival.py -k two_workers
