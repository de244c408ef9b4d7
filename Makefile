# What a developer does here, one verb each; `make help` lists them. Needed: Go,
# gcc, Node.js with npm, make. All else is fetched, pinned, on first use.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := default

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
COMMIT  ?= $(shell git rev-parse HEAD 2>/dev/null)
LISTEN  ?= 127.0.0.1:8470
BENCH   ?= .
# Per package: a test that hangs should say so before a person gives up.
TEST_TIMEOUT        ?= 5m
INTEGRATION_TIMEOUT ?= 40m
SOAK_TIMEOUT        ?= 3h

# The tools are a module of their own, so that what they need never decides a
# version in the product.
tools = cd tools && GOWORK=off $(GO)
tool  = GOWORK=off $(GO) tool -modfile=tools/go.mod
lint  = $(CURDIR)/.cache/bin/golangci-lint

modules = ./... ./proto/... ./integration/...
# Where goroutines live; the rest has none, or links the engine and gains little.
racy = ./kit/... ./services/...
# The embedded engine exists for this platform only; elsewhere a program is
# built without it and needs --clickhouse.
embeds := $(filter Linux/x86_64,$(shell uname -s)/$(shell uname -m))
cache  := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/lockstep

.PHONY: default
default: build lint test

.PHONY: help
help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  make              build, lint and test"

.PHONY: build
build: bin/lockstep ## bin/lockstep, one file with the ClickHouse engine inside

bin/lockstep: .cache/lockstep tools/attach/main.go
	@mkdir -p bin
ifneq ($(embeds),)
	@$(MAKE) engine
	$(tools) run ./attach -binary ../.cache/lockstep -output ../$@
else
	cp .cache/lockstep $@
endif

# Go knows best what is stale; the file changes only when the program does.
.cache/lockstep: FORCE
	@mkdir -p .cache
	$(GO) build -ldflags '-s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)' -o $@.new ./cmd/lockstep
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

.PHONY: FORCE
FORCE:

.PHONY: engine
engine: ## fetch the pinned ClickHouse engine into the user's cache (once, 170 MB)
ifneq ($(embeds),)
	@tools/engine/fetch.sh
endif

# The language that the rules in proto/ are written in. Its Go code is a
# requirement of proto/go.mod; a test there says when the two are not the same.
protovalidate = github.com/bufbuild/protovalidate@v1.2.2
validate      = buf/validate/validate.proto
# What callers and stored messages were promised, as descriptors. A promise that
# must be broken is deleted here, and the change says so.
contract      = proto/contract.binpb

.PHONY: gen
gen: ## hold proto/ against what was promised and generate code from it
	@$(tools) mod download $(protovalidate)
	@mkdir -p .cache/proto/$(dir $(validate))
	@cp -f "$$($(tools) list -m -f '{{.Dir}}' $(protovalidate))/proto/protovalidate/$(validate)" .cache/proto/$(validate)
	$(tool) buf lint
	$(if $(wildcard $(contract)),$(tool) buf breaking proto --against $(contract) --exclude-imports)
	$(tool) buf generate proto
	$(tool) buf build proto --exclude-source-info --output $(contract)

.PHONY: gen-check
gen-check: gen ## fail when proto/ and what is generated from it are not what is committed
	@git diff --exit-code -- proto || { echo 'proto/ is not what is committed: commit what `make gen` wrote' >&2; exit 1; }
	@new=$$(git ls-files --others --exclude-standard -- proto); \
	if [ -n "$$new" ]; then echo "files under proto/ are not committed: $$new" >&2; exit 1; fi

$(lint): tools/go.mod tools/go.sum
	@mkdir -p $(@D)
	$(tools) build -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	@touch $@

.PHONY: archtest
archtest: ## check the forbidden arrows between folders
	$(tools) run ./archtest -C ..

.PHONY: lint
lint: archtest $(lint) ## archtest, gofmt, vet and the linters of .golangci.yml
	$(lint) run $(modules)
	cd tools && GOWORK=off $(lint) run ./...

.PHONY: fmt
fmt: ## gofmt every file
	gofmt -l -w $$(git ls-files --cached --others --exclude-standard '*.go' | grep -v '^proto/gen/')

.PHONY: test
test: export RAPID_SEED ?= 1
test: engine ## all tests that need no Docker, Kubernetes or browser
	$(GO) test -race -timeout $(TEST_TIMEOUT) $(racy)
	rest=$$($(GO) list $(modules) | grep -vE '/lockstep/(kit|services)/'); $(GO) test -timeout $(TEST_TIMEOUT) $$rest
	$(tools) test ./...

.PHONY: check
check: gen-check lint test ## what must hold before a change lands

.PHONY: integration
integration: build ## every source and the story on real parts; installs Docker and builds Kubernetes where they are missing
	$(GO) vet -tags integration ./integration/...
	$(GO) test -tags integration -count=1 -p 1 -v -timeout $(INTEGRATION_TIMEOUT) ./integration/...

.PHONY: demo
demo: build ## the same story for a person to watch
	$(GO) run ./integration/cmd/demo

.PHONY: run
run: build ## a server for development, its data in the user's cache
	bin/lockstep server --data-dir $(cache)/dev --listen $(LISTEN)

.PHONY: bench
bench: build ## benchmarks; BENCH=<regexp> chooses
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -p 1 ./domain/... ./kit/... ./codec/... ./adapters/... ./services/... ./integration/bench

.PHONY: soak
soak: export LOCKSTEP_SOAK = 1
soak: export RAPID_CHECKS ?= 5000
soak: export LOCKSTEP_GATE_RUNS ?= 40000
soak: engine ## laws, statistics and fault suites at full size, on new seeds (tens of minutes)
	$(GO) test -count=1 -timeout $(SOAK_TIMEOUT) ./domain/... ./codec ./topology ./kit/... ./adapters/... ./services/...

.PHONY: clean
clean: ## remove what was built (not the engine and data in the user's cache)
	rm -rf bin .cache
