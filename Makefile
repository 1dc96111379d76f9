# Two commands do for a fresh machine: `make demo` and `make test`. Both install what is missing first.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
PYTHON := .venv/bin/python
# Guests and a private libvirtd need root; whoever is not gets it from sudo, and no file of root's in the tree.
AS_ROOT := $(if $(filter-out 0,$(shell id -u)),sudo env PYTHONDONTWRITEBYTECODE=1 PYTEST_ADDOPTS='-p no:cacheprovider')

.PHONY: help setup setup-browser setup-docs pictures demo up test test-fast fault fuzz soak proof sandbox lint audit bench bench-quick docs docs-links docs-reference docs-errors docs-cli docs-session clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing (Debian packages, .venv, the witness guest); quick when nothing is
	@scripts/setup.sh

setup-browser: ## setup, and a Chromium for the tests of the console
	@scripts/setup.sh browser

setup-docs: ## setup, and what builds the documents
	@scripts/setup.sh docs

demo: setup ## the story: a real guest, snapshots with and without memory, rollback, tree, delete
	@$(AS_ROOT) $(PYTHON) scripts/demo.py

up: setup ## the service with the witness guest in the foreground, for trying things out
	@$(AS_ROOT) $(PYTHON) scripts/demo.py up

test: setup-browser setup-docs ## the whole test suite, real guests included
	$(AS_ROOT) $(PYTHON) scripts/lanes.py whole

test-fast: setup ## unit and contract tests on one database, no guest, no service, under a minute
	@$(PYTHON) scripts/lanes.py fast -q

fault: setup ## kill and fail every step of every operation on real guests; writes the table in docs/operating.md
	$(AS_ROOT) $(PYTHON) tests/fault/run.py --write docs/operating.md

REQUESTS ?= 20000
fuzz: setup ## ask every call of the OpenAPI document at random, REQUESTS=n times (schemathesis)
	$(AS_ROOT) $(PYTHON) tests/fuzz/run.py --requests $(REQUESTS)

MINUTES ?= 10
soak: setup ## random steps against the model for MINUTES=n minutes, with fresh seeds
	$(AS_ROOT) $(PYTHON) scripts/soak.py --minutes $(MINUTES)

sandbox: setup ## run packaging/stillframe.service under a real systemd, in a container, and take a guest through it
	$(AS_ROOT) $(PYTHON) scripts/sandbox.py

proof: setup ## 300 snapshots with memory at 512 MiB to 4 GiB under write load, each gone back to, and 50 rounds in a row; about half an hour
	$(AS_ROOT) $(PYTHON) scripts/proof.py

pictures: setup-browser ## take the pictures of the console that the documents show
	$(AS_ROOT) env STILLFRAME_PICTURES=docs/images $(PYTHON) -m pytest -q tests/browser

lint: setup ## ruff, mypy --strict, import-linter, bandit
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/bandit -q -r src

audit: setup ## ask PyPI for known vulnerabilities of what uv.lock names; needs its network service, see docs/security.md
	@# --strict: a package that could not be asked about is a failure, not a clean one
	"$$(command -v uv || echo build/uv/bin/uv)" export -q --frozen --all-groups --no-emit-project -o build/audit.txt
	.venv/bin/pip-audit --strict --disable-pip --require-hashes --progress-spinner off -r build/audit.txt

bench: setup ## measure against virsh, qemu-img and bare QEMU for half an hour, and write docs/benchmarks.md
	$(AS_ROOT) $(PYTHON) benchmarks/bench.py --write docs/benchmarks.md

bench-quick: setup ## see within three minutes that the benchmark works; its figures mean nothing, and are not written
	@$(AS_ROOT) $(PYTHON) benchmarks/bench.py --quick

docs: setup-docs ## build the documents as a site, into build/site; a dead link is an error
	@# the warning is about the future of MkDocs, not about these documents
	@NO_MKDOCS_2_WARNING=1 build/docs/bin/mkdocs build --strict --quiet
	@echo "docs: build/site/index.html"

docs-links: setup ## list the addresses elsewhere that the documents point to; no test asks for them
	@$(PYTHON) scripts/links.py

docs-reference: setup ## write docs/reference from the API's document, the settings and the Python client
	$(PYTHON) scripts/reference.py

docs-errors: setup ## write docs/errors.md from the error catalogue
	$(PYTHON) -m stillframe.domain.errors_page >docs/errors.md.new
	mv docs/errors.md.new docs/errors.md

docs-cli: setup ## write docs/cli.md from the commands
	$(PYTHON) -m stillframe.cli.reference >docs/cli.md.new
	mv docs/cli.md.new docs/cli.md

docs-session: setup ## write docs/session.txt, a day at the terminal on a real guest
	$(AS_ROOT) env STILLFRAME_SESSION=docs/session.txt $(PYTHON) -m pytest -q tests/integration/test_session.py

clean: ## remove everything that was built or installed into this directory
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests benchmarks scripts -name __pycache__ -prune -exec rm -rf {} +
