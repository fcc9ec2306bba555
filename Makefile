# Everything a developer types; .ci/run types the same.

VERSION = $(shell packaging/version)
# Packages built twice from one commit are the same.
export SOURCE_DATE_EPOCH = $(shell git log -1 --format=%ct)

# Architectures to package, as Go names them.
ARCHS ?= amd64 arm64
# Where packages are made.
DIST ?= dist
# How long each fuzz target runs, and those of which packages.
FUZZTIME ?= 60s
FUZZED ?= ./...
# How often make proof runs each scenario, and which: a regular expression.
ROUNDS ?= 10
RUN ?= .
# The kernel that make test-quick has guests with.
KERNEL ?= newest

GO_BUILD = CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION)"
GO_TOOL  = go tool -modfile=tools/go.mod
SUDO     = $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: help build test test-quick demo proof lint package package-lint package-rpm package-twice bench fuzz clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-15s%s\n", $$1, $$2 }' Makefile

build: ## Build bin/vfio-hotplug, one static program
	$(GO_BUILD) -o bin/vfio-hotplug ./cmd/vfio-hotplug

test: need-gcc ## Run unit, race, contract and guest tests, the package in Debian 12 and 13; fetches QEMU, kernels and Debian
	go run ./internal/vmtest/vmsetup -systems
	go vet ./...
	go run ./internal/vmtest/suite

test-quick: need-gcc ## Run unit and race tests, and guest tests on one KERNEL without the package: what one runs while working
	go run ./internal/vmtest/vmsetup $(KERNEL)
	go run ./internal/vmtest/suite -guests $(KERNEL) -quick

demo: ## Boot a guest, plug drives into it and watch them come up
	go run ./internal/vmtest/vmsetup newest
	go run ./internal/vmtest/demo

proof: ## Run the guest scenarios in large numbers, or only those of RUN=; resumes where it stopped
	go run ./internal/vmtest/vmsetup -systems
	go run ./internal/vmtest/proof -rounds $(ROUNDS) -run '$(RUN)'

lint: need-shellcheck need-mandoc ## Check format, code, scripts, manual pages and modules
	@unformatted=$$(gofmt -l .) && test -z "$$unformatted" || { echo "gofmt -w $$unformatted"; exit 1; }
	go vet ./...
	$(GO_TOOL) staticcheck ./...
	git ls-files --cached --others --exclude-standard | \
		xargs awk 'FNR == 1 && /^#!.*sh$$/ { print FILENAME }' | xargs shellcheck
	mandoc -T lint -W warning packaging/man/*
	go mod tidy -diff
	cd tools && go mod tidy -diff

package: build ## Make dist/*.deb and dist/*.rpm
	rm -rf $(DIST)
	@set -e; for arch in $(ARCHS); do $(MAKE) --no-print-directory package-$$arch; done

# What rpm calls an architecture.
rpm_amd64 = x86_64
rpm_arm64 = aarch64
# The one that this machine can run.
NATIVE = $(shell go env GOHOSTARCH)

package-%: stage = $(DIST)/stage/$*
package-%: build need-dpkg-deb need-rpm
	mkdir -p $(stage) dist/stage
	GOOS=linux GOARCH=$* $(GO_BUILD) -o $(stage)/vfio-hotplug ./cmd/vfio-hotplug
	for page in packaging/man/*; do gzip -9nc "$$page" >"$(stage)/$${page##*/}.gz" || exit; done
	for shell in bash zsh fish; do bin/vfio-hotplug completion $$shell >"$(stage)/completion.$$shell" || exit; done
	sed -e 's/@VERSION@/$(VERSION)/' -e "s/@DATE@/$$(date -ud @$$SOURCE_DATE_EPOCH +%FT%TZ)/" packaging/changelog.yaml >dist/stage/changelog.yaml
	set -e; for packager in deb rpm; do \
		ARCH=$* VERSION=$(VERSION) STAGE=$(stage) $(GO_TOOL) nfpm package --packager $$packager --target $(DIST)/; \
	done
	packaging/same-files $(DIST)/*_$*.deb $(DIST)/*.$(rpm_$*).rpm

package-lint: need-lintian need-rpmlint need-cpio need-systemd-analyze need-udevadm package ## Check the packages as distributions do
	packaging/lint dist/*.deb dist/*.rpm

package-rpm: need-rpm need-systemd-analyze package ## Install, upgrade and erase the rpm in a root of its own
	sed '$$a# newer' packaging/policy.toml >dist/stage/policy.toml
	sed 's|packaging/policy.toml|dist/stage/policy.toml|' nfpm.yaml >dist/stage/newer.yaml
	ARCH=$(NATIVE) VERSION=$(VERSION)+newer STAGE=dist/stage/$(NATIVE) \
		$(GO_TOOL) nfpm package --config dist/stage/newer.yaml --packager rpm --target dist/stage/newer.rpm
	packaging/rpm-life dist/*.$(rpm_$(NATIVE)).rpm dist/stage/newer.rpm

package-twice: package ## Show that the packages are the same when they are built again
	cd dist && sha256sum *.deb *.rpm >../bin/first.sha256
	$(MAKE) --no-print-directory package
	cd dist && sha256sum -c ../bin/first.sha256

bench: ## Measure the parser of uevents, the policy's decision and udev's helper
	go test -run '^$$' -bench . -benchmem ./internal/uevent ./policy ./cmd/vfio-hotplug

fuzz: ## Run each fuzz target for FUZZTIME, one after the other
	@set -e; targets=$$(go test -list '^Fuzz' $(FUZZED)) || { echo "$$targets"; exit 1; }; \
	echo "$$targets" | awk '/^Fuzz/ { f[n++] = $$1 } /^ok/ { for (i = 0; i < n; i++) print $$2, f[i]; n = 0 }' | \
	while read -r package target; do \
		echo "$$package $$target"; \
		tools/fuzz "$$package" "$$target" $(FUZZTIME); \
	done

clean: ## Remove what the other targets made here
	rm -rf bin $(DIST)

# A program that is not installed is, through apt.
need-gcc: packages = gcc libc6-dev
need-dpkg-deb: packages = dpkg
need-udevadm: packages = udev
need-systemd-analyze: packages = systemd
need-%: packages = $*
need-%:
	@command -v $* >/dev/null || { \
		echo "$* is missing; installing $(packages)"; \
		$(SUDO) apt-get update -qq && \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $(packages); \
	}
