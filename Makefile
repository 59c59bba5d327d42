# Targets:
#   test     the tests of all modules, for every commit
#   nightly  the tests that take longer: those named TestNightly…
#   check    gofmt, vet, staticcheck and tidiness of all modules
#   fuzz     a short run of each fuzz test
#   bench    wsguard beside the bare library and its peers

GO ?= go
MODULES := $(sort $(dir $(shell find . -name go.mod -not -path '*/node_modules/*')))
# The race detector needs cgo and a C compiler.
RACE := $(shell if [ "$$($(GO) env CGO_ENABLED)" = 1 ] && command -v "$$($(GO) env CC)" >/dev/null 2>&1; then echo -race; fi)
FUZZTIME ?= 20s
# The packages that have nightly tests.
NIGHTLY = $(sort $(dir $(shell grep -rl --include='*_test.go' --exclude-dir=node_modules '^func TestNightly' .)))
export GOWORK := off

.PHONY: test nightly check fuzz bench
test:
	@for m in $(MODULES); do echo "== $$m"; (cd $$m && $(GO) test $(RACE) -shuffle=on -timeout 30m ./...) || exit 1; done

nightly:
	@for d in $(NIGHTLY); do echo "== $$d"; (cd $$d && WSGUARD_NIGHTLY=1 $(GO) test $(RACE) -v -count=1 -run '^TestNightly' -timeout 30m .) || exit 1; done

check:
	@out=$$(gofmt -l .); if [ -n "$$out" ]; then echo "gofmt: $$out"; exit 1; fi
	@for m in $(MODULES); do echo "== $$m"; (cd $$m && $(GO) vet ./... && $(GO) mod tidy -diff) || exit 1; done
	@for m in $(MODULES); do (cd $$m && staticcheck ./...) || exit 1; done
	@lines=$$($(GO) doc -all . | wc -l); if [ $$lines -gt 700 ]; then echo "go doc -all prints $$lines lines, at most 700"; exit 1; fi
	@if [ "$$($(GO) list -m -f '{{if not .Indirect}}{{.Path}}{{end}}' all | grep -c .)" -ne 4 ]; then echo "the core has direct dependencies beside its three"; exit 1; fi

fuzz:
	@for pkg in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "== $$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
		done; \
	done

bench:
	cd bench && $(GO) run .
