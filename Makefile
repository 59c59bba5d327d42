# Targets:
#   test           runs the tests of every module, for every commit.
#   nightly        runs the tests that take longer: those named TestNightly….
#   soak           attacks a server for a minute behind each door. It is a part
#                  of nightly, without the race detector, which would need more of
#                  the machine than the attackers.
#   check          is what CI does before the tests: format, vet, staticcheck,
#                  tidiness, the size of the API, and the platforms that CI does
#                  not have.
#   release-check  installs the modules as a user will, once they are tagged.
#   fuzz           runs each fuzz test for a short time.
#   bench          compares wsguard with the bare library and its peers.

GO ?= go
MODULES := $(sort $(dir $(shell find . -name go.mod -not -path '*/node_modules/*')))
# The race detector needs cgo and a C compiler.
RACE := $(shell if [ "$$($(GO) env CGO_ENABLED)" = 1 ] && command -v "$$($(GO) env CC)" >/dev/null 2>&1; then echo -race; fi)
# More flags for go test. CI has -vet=off, because check has vetted everything before.
TESTFLAGS ?=
FUZZTIME ?= 20s
# The packages that have nightly tests.
SOAK := ./internal/interop/soak/
NIGHTLY = $(filter-out $(SOAK),$(sort $(dir $(shell grep -rl --include='*_test.go' --exclude-dir=node_modules '^func TestNightly' .))))
# These modules are what users build. The others are tests of ours, which run on
# the platforms of CI only. So do these examples, because their dependencies take
# long to compile.
USED := $(filter-out ./bench/ ./internal/% ./examples/frameworks/ ./examples/graphql/ ./examples/otel/,$(MODULES))
PLATFORMS := linux/386,windows/amd64,darwin/arm64,freebsd/amd64
# The root package may have this many exported constants, variables, functions and
# types, as go doc -short counts them, and methods together. Documentation may
# have any number of lines.
MAXAPI := 130
export GOWORK := off

.PHONY: test nightly soak check lint api platforms test386 release-check fuzz bench
test:
	@for m in $(MODULES); do echo "== $$m"; (cd $$m && $(GO) test $(RACE) $(TESTFLAGS) -shuffle=on -timeout 30m ./...) || exit 1; done
	@echo "== ./ through the second door"; WSGUARD_DOOR=wrap $(GO) test $(RACE) $(TESTFLAGS) -short -shuffle=on -timeout 30m .

nightly:
	@for d in $(NIGHTLY); do echo "== $$d"; (cd $$d && WSGUARD_NIGHTLY=1 $(GO) test $(RACE) $(TESTFLAGS) -v -count=1 -run '^TestNightly' -timeout 30m .) || exit 1; done
	@$(MAKE) soak

soak:
	@echo "== $(SOAK)"; cd $(SOAK) && WSGUARD_NIGHTLY=1 $(GO) test $(TESTFLAGS) -v -count=1 -run '^TestNightly' -timeout 30m .

# The first two run no tests, so they may run at the same time.
check:
	@$(MAKE) -j2 lint platforms
	@$(MAKE) test386

lint: api
	@out=$$(gofmt -l .); if [ -n "$$out" ]; then echo "gofmt: $$out"; exit 1; fi
	@for m in $(MODULES); do echo "== $$m"; (cd $$m && $(GO) vet ./... && $(GO) mod tidy -diff) || exit 1; done
	@for m in $(MODULES); do (cd $$m && staticcheck ./...) || exit 1; done
	@if [ "$$($(GO) list -m -f '{{if not .Indirect}}{{.Path}}{{end}}' all | grep -c .)" -ne 4 ]; then echo "the core has direct dependencies beside its three"; exit 1; fi

api:
	@names=$$($(GO) doc -short . | grep -cE '^ *(func|type|var|const)'); methods=$$($(GO) doc -all . | grep -cE '^func \('); \
	if [ $$((names + methods)) -gt $(MAXAPI) ]; then \
		echo "the root package exports $$names names and $$methods methods: at most $(MAXAPI) together"; exit 1; \
	fi

# vet would compile the standard library for each platform.
platforms:
	cd internal/release && $(GO) run ./platforms $(PLATFORMS) $(abspath $(USED))

# Linux on amd64 also runs programs for 386, unless the kernel is built without that. There is no
# race detector for them.
test386:
	@if [ "$$($(GO) env GOHOSTOS)/$$($(GO) env GOHOSTARCH)" = linux/amd64 ] && CGO_ENABLED=0 GOOS=linux GOARCH=386 $(GO) test -run '^$$' ./reason >/dev/null 2>&1; then \
		echo "== test ./ linux/386"; \
		CGO_ENABLED=0 GOOS=linux GOARCH=386 $(GO) test -shuffle=on -timeout 30m $$($(GO) list ./... | grep -v /examples/); \
	else \
		echo "the tests do not run for 386: this machine is not linux/amd64, or its kernel runs no 386 programs"; \
	fi

# See docs/releasing.md.
release-check:
	cd internal/release && $(GO) run . ../..

fuzz:
	@for pkg in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "== $$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
		done; \
	done

bench:
	cd bench && $(GO) run .
