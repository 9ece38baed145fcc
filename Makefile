# The only entry points that people type. `make help` lists them.

PG        ?= 15
PG_CONFIG ?= /usr/lib/postgresql/$(PG)/bin/pg_config

TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
export PG PG_CONFIG
export PATH := $(TARGET)/tools/bin:$(PATH)
# pgrx builds against this server; one value everywhere, so that no step throws away another's build.
export PGRX_PG_CONFIG_PATH := $(PG_CONFIG)
# build.rs does what this would do, for the one crate that needs it.
export CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND := 1

PG_TEST := cargo run --quiet --package pg_test --bin
# Versions that are type-checked with the bindings that pgrx carries: Debian 12 has no headers for them.
OTHER_VERSIONS := 16 17 18

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo demo-stop test test-unit test-regress test-isolation test-e2e test-install install installcheck \
        bench lint deny fmt prerequisites clean

help:
	@echo 'make demo          two throw-away clusters, a migration, and what the warehouse does about it'
	@echo 'make demo-stop     stops them'
	@echo 'make test          everything: unit tests, pg_regress, isolation specs, end to end'
	@echo 'make install       a release build into the server of PG_CONFIG=$(PG_CONFIG)'
	@echo 'make installcheck  pg_regress against a running server, named by PGHOST, PGPORT, PGUSER, PGPASSWORD'
	@echo 'make bench         the figures, beside what people use today; writes target/bench/*.json'
	@echo 'make deny          licences and advisories of the dependencies'
	@echo 'make lint          rustfmt, clippy, and a type-check for Postgres $(OTHER_VERSIONS)'

prerequisites:
	@pg_test/prerequisites cargo-pgrx

demo: prerequisites
	@$(PG_TEST) pg_test -- install
	@$(PG_TEST) demo

demo-stop:
	@$(PG_TEST) demo -- stop

test: test-unit test-regress test-isolation test-e2e
	@echo 'All tests passed.'

test-unit: prerequisites
	major=$$('$(PG_CONFIG)' --version | sed 's/[^0-9]*\([0-9]*\).*/\1/') && \
	  cargo test --package startup_wh --lib --no-default-features --features "pg$$major" -- $(TESTS)

test-install:
	@pg_test/prerequisites cargo-pgrx test-extensions pg_cron
	@$(PG_TEST) pg_test -- install

test-regress: test-install
	@$(PG_TEST) pg_test -- regress $(TESTS)

test-isolation: test-install
	@$(PG_TEST) pg_test -- isolation $(TESTS)

test-e2e: test-install
	cargo test --package pg_test --no-fail-fast $(TESTS)

# install(1) puts a new file in the old one's place; writing over a library would crash the servers that run it.
install: prerequisites
	rm -rf '$(TARGET)/package'
	cargo pgrx package --package startup_wh --pg-config '$(PG_CONFIG)' --out-dir '$(TARGET)/package'
	@cd '$(TARGET)/package' && \
	if [ -w "$$('$(PG_CONFIG)' --pkglibdir)" ]; then as=; else as=sudo; fi && \
	find . -type f | while read -r file; do \
	  echo "Installing $${file#.}"; $$as install -D -m 644 "$$file" "$${file#.}" </dev/null || exit 1; \
	done

installcheck: prerequisites
	@$(PG_TEST) pg_test -- installcheck $(TESTS)

bench:
	@pg_test/prerequisites cargo-pgrx pg_cron dlt
	@$(PG_TEST) pg_test -- install --release
	@$(PG_TEST) bench

lint: prerequisites
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	@for version in $(OTHER_VERSIONS); do \
	  echo "Type-checking for Postgres $$version"; \
	  DOCS_RS=1 RUSTC_WRAPPER='$(CURDIR)/.cargo/rustc-docsrs' CARGO_TARGET_DIR='$(TARGET)/docsrs' RUSTFLAGS='-Dwarnings' \
	    cargo check --quiet --package startup_wh --no-default-features --features pg$$version || exit 1; \
	done

# Apart from lint: it takes long to build, and asks the network for advisories.
deny:
	@cargo deny --version >/dev/null 2>&1 || cargo install cargo-deny --locked --debug --root '$(TARGET)/tools'
	cargo deny check

fmt:
	cargo fmt --all

clean:
	cargo clean
