# Everything works from an empty clone: each target makes what it needs and keeps it.
# PYTHON=… chooses the Python of .venv; without it the first supported one is taken.
BIN := .venv/bin
PEERS := .venv-peers/bin

# Meant for another Python or another installation.
unexport PYTHONHOME PYTHONPATH PIP_PREFIX PIP_ROOT PIP_TARGET CDPATH
export PIP_USER = 0

.DEFAULT_GOAL := help
.PHONY: help run demo backprop serve test test-all soak bench bench-train bench-serve docs lock

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# The scripts of .venv name its folder: in a folder that was moved or copied they would run those of the old one.
ifneq (,$(shell grep -qsF "$$(pwd -P)/.venv/bin/python" $(BIN)/pip || echo moved))
.PHONY: $(BIN)/.ready
endif
$(BIN)/.ready: requirements.lock pyproject.toml
	@infra/setup.sh "$(PYTHON)"
	@touch $@

# One by one where not all can be had: a library that is missing becomes a row that says so, and is tried again next time.
$(PEERS)/.ready: benchmarks/peers/requirements.txt | $(BIN)/.ready
	@echo "Setting up .venv-peers with what we compare with; this takes a few minutes and happens once."
	@$(BIN)/python -m venv .venv-peers
	@$(PEERS)/python -m pip install --quiet --disable-pip-version-check -r $< && touch $@ || grep -v '^#' $< | \
		xargs -n 1 $(PEERS)/python -m pip install --quiet --disable-pip-version-check -c $< || true

run: $(BIN)/.ready ## train, release the best, see it answer
	@$(BIN)/relearn run $(ARGS)

demo: $(BIN)/.ready ## the whole loop in two minutes: drift, feedback, retraining, rollback
	@$(BIN)/python -m infra.demo

backprop: $(BIN)/.ready ## backpropagation with numbers: tables and figures of a small network, or of your image
	@$(BIN)/python -m infra.backprop $(ARGS)

serve: $(BIN)/.ready ## start the prediction API of what was released
	@$(BIN)/relearn serve $(ARGS)

test: $(BIN)/.ready ## lint, format, types and the tests
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet
	$(BIN)/mypy --no-error-summary
	$(BIN)/pytest -m "not slow and not series" -n 4 $(ARGS)

test-all: $(BIN)/.ready ## the same, slow proofs included; fails where a program is missing
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet
	$(BIN)/mypy --no-error-summary
	$(BIN)/pytest --nothing-missing -m "not series" $(ARGS)

soak: $(BIN)/.ready ## long series of tests: kills, full MNIST; until Ctrl-C, continues where it was stopped
	@$(BIN)/python -m benchmarks.series $(ARGS)

bench: $(BIN)/.ready ## measure, and write benchmarks/results/
	$(BIN)/python -m benchmarks $(or $(ARGS),throughput commands accuracy tutorial gate swap drift)

bench-train: $(BIN)/.ready $(PEERS)/.ready ## compare our training with other libraries
	$(BIN)/python -m benchmarks $(or $(ARGS),train time_to_accuracy scale)

bench-serve: $(BIN)/.ready $(PEERS)/.ready ## compare our server with others, its limits, and a soak test; requires wrk
	$(BIN)/python -m benchmarks $(or $(ARGS),serve batch cold_start overload soak)

docs: $(BIN)/.ready ## write the reference pages of docs/ from the code
	$(BIN)/python -m infra.make_docs

lock: $(BIN)/.ready ## pin every dependency anew
	UV_CACHE_DIR=.cache/uv $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --extra dev \
		--no-strip-extras --no-annotate --no-header --output-file requirements.lock pyproject.toml
	sed -i -E '/^(nvidia-[^m]|cuda-|triton)/d' requirements.lock  # of a CUDA build, which pins its own
