# What the people who work on commitcast type. `make all` is what CI runs.
PYTHON  ?= python3
VENV    ?= .venv
BIN      = $(VENV)/bin
LOWEST   = .venv-lowest
TYPING   = build/typing/commitcast

# Where versions matter: what talks to a library of others, in each of its ways. The fastapi of `lowest` is the newest for the
# lowest starlette. Deprecations are ignored there: old libraries use what newer ones of others mean to remove.
OF_LOWEST = tests/gateway/server/sockets/test_websockets_compat.py tests/gateway/server/test_connections.py tests/gateway/server/http/test_http.py tests/gateway/server/test_server.py \
	tests/gateway/client/test_asyncio.py tests/gateway/client/test_blocking.py tests/gateway/client/test_requests.py \
	tests/gateway/server/test_delivery.py tests/gateway/server/test_drain.py tests/gateway/test_tls.py tests/tools/test_protocol_documents.py \
	tests/gateway/server/access/test_jwt.py tests/gateway/server/http/test_asgi.py tests/actors/commands tests/actors/test_sources_in_runtime.py \
	tests/persistence/sqlite/test_opening.py tests/persistence/sqlite/test_schema.py

.PHONY: help all install links format lint types test everything rest lowest pykka-suite coverage faults rounds orders bench protocol build clean

help:            ## show this
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 14

all: test everything lint types pykka-suite build lowest  ## everything that CI runs

install:         ## make the virtual environment with everything
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -e ".[test,dev]"

links:           ## the folders under their import name, for type checkers
	@mkdir -p $(TYPING)
	@for p in actors gateway persistence; do ln -sfn ../../../$$p $(TYPING)/$$p; done
	@for p in __init__.py __main__.py py.typed; do ln -sfn ../../../api/$$p $(TYPING)/$$p; done

format:          ## lay the code out
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint:            ## look for mistakes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: links     ## check the types
	$(BIN)/mypy

test:            ## the suite, in the README's own words
	sh -ec "$$(sed -n '/^Install it for development/,/^## /p' README.md | sed -n '/^```sh/,/^```/p' | sed '/^```/d')"

everything:      ## all shapes and many more seeds of the tests of which `make test` runs a sample
	COMMITCAST_EVERYTHING=1 $(BIN)/pytest -q -n 6 --timeout 240 -m sampled

rest:            ## what of that `make test` leaves out that has the same COMMITCAST_SEED
	COMMITCAST_EVERYTHING=rest $(BIN)/pytest -q -n 6 --timeout 240 -m sampled

lowest:          ## the tests where versions matter, with the lowest versions that setup.cfg allows
	@mkdir -p build
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(PYTHON) tests/tools/lowest_versions.py setup.cfg auth http > build/lowest.txt
	$(LOWEST)/bin/pip install -q -c build/lowest.txt -e ".[auth,http]" \
		fastapi==0.115.2 httpx hypothesis jsonschema pytest pytest-timeout pytest-xdist
	$(LOWEST)/bin/pytest -q -n 6 -m 'not newest' -W ignore::DeprecationWarning $(OF_LOWEST)

pykka-suite:     ## Pykka's own tests against our actors, but for the differences that are meant
	@mkdir -p build/pykka
	$(BIN)/pip install -q pytest-mock
	$(BIN)/pip download -q --no-deps --no-binary :all: -d build/pykka "pykka==$$($(BIN)/python -c 'import importlib.metadata as m; print(m.version("pykka"))')"
	$(BIN)/python tests/pykka_suite/run.py build/pykka/pykka-*.tar.gz

coverage:        ## the suite with branch coverage
	$(BIN)/coverage run -m pytest -q
	$(BIN)/coverage report --skip-covered

faults:          ## only the tests that break disks and processes
	$(BIN)/pytest -m fault

rounds:          ## kill hosts and servers under load, fifty times each; some ten minutes
	$(BIN)/pytest -q -m slow tests/faults

orders:          ## 3,000 orders of everything that can happen to the hub, to agents, and to a server and its hosts
	COMMITCAST_EXAMPLES=3000 $(BIN)/pytest -q -n 2 --timeout=3600 tests/gateway/hub/test_hub.py tests/gateway/process/test_batches.py \
		tests/gateway/process/test_casting.py tests/actors/test_schedules.py tests/actors/test_served_schedules.py tests/actors/test_far_writer.py

protocol:        ## write what is made from the frame types: schemas, and the tables of docs/protocol.md
	$(BIN)/python tests/tools/protocol_documents.py

bench:           ## measure it against bare SQLite, with a plot; some ten minutes; or ARGS="--scenario closed --json"
	@mkdir -p build
	$(BIN)/python tests/benchmarks/run.py $(if $(ARGS),$(ARGS),--plot build/bench.png) --folder build

build:           ## build the wheel, install it elsewhere, and run the demo from it
	bash .ci/wheel

clean:           ## remove what was made
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
