# hak2k: build, demonstrate, test.  `make help` lists the targets.
#
# Variables (defaults):
#   PYTHON        python3   the interpreter .venv is made from; 3.11 or newer
#   PYTEST_ARGS   (none)    more arguments for pytest, e.g. "-k handover -x"
#   TEST_LIMIT    1500      seconds after which `make test` is ended as hung
#   FUZZ_SECONDS  600       seconds for each fuzz target
#   SIM_SCHEDULES 100000    schedules of faults for `make sim`
#   HAK2K_DEBUG, HAK2K_SANITIZE     see setup.py
#   V             0         1: show the output of installers and compilers

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
PYTEST_ARGS ?=
TEST_LIMIT ?= 1500
FUZZ_SECONDS ?= 600
SIM_SCHEDULES ?= 100000
V ?= 0

VENV := .venv
BIN := $(VENV)/bin
B := build/make
export DEBIAN_FRONTEND := noninteractive
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export PIP_ROOT_USER_ACTION := ignore

# Debian packages by what needs them; docs/dependencies.md says why.
APT_BUILD := gcc libc6-dev make libssl-dev linux-libc-dev clang libbpf-dev
APT_RUN := nftables libnftables1 conntrack iproute2 iputils-ping procps netbase systemd
APT_DOCS := mandoc
APT_FUZZ := clang libclang-rt-14-dev
APT_M32 := gcc-multilib
APT_PEER := libmnl0 libnetfilter-conntrack3 libnetfilter-cthelper0 libnetfilter-queue1 libnfnetlink0 libsystemd0
APT_LOG := $(B)/apt.log

CORE_SRC := $(sort $(wildcard csrc/*.c csrc/*.h csrc/bpf/* hak2k/*.pyx hak2k/*.pxd))
CORE_KIND := $(if $(filter-out 0,$(HAK2K_SANITIZE)),sanitize,$(if $(filter-out 0,$(HAK2K_DEBUG)),debug,release))

say = printf '%s\n' '$(subst ','\'',$(1))'

# $(call quietly,LOG,COMMAND): the output goes to LOG, and is shown if it fails.
ifeq ($(V),0)
quietly = { $(2); } >'$(1)' 2>&1 </dev/null || { rc=$$?; tail -n 60 '$(1)' >&2; echo "make: failed; the whole output is in $(1)" >&2; exit $$rc; }
else
quietly = { $(2); } </dev/null
endif

# A part of the tree that a target needs.
need = test -e '$(1)' || { echo 'make: $(1) is missing' >&2; exit 1; }

# $(call apt,PACKAGES): install those that are missing, and say so.
define apt
missing=; for p in $(1); do \
	[[ $$(dpkg-query -W -f='$${db:Status-Status}' "$$p" 2>/dev/null) == installed ]] || missing+=" $$p"; \
done; \
if [[ -n $$missing ]]; then \
	if [[ $$(id -u) != 0 ]]; then \
		echo "make: Debian packages are missing:$$missing" >&2; \
		echo "make: run this as root, or as root first: apt-get install$$missing" >&2; exit 1; \
	fi; \
	echo "apt: installing$$missing"; mkdir -p $(B); \
	{ $(call quietly,$(APT_LOG),install() { apt-get install -y -q --no-install-recommends $$missing; }; \
		ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 && install || { apt-get update -q && install; }); }; \
fi
endef

PYTHON_CHECK = import sys; sys.version_info >= (3, 11) or sys.exit("is older than 3.11"); \
	import os, sysconfig, venv, ensurepip; \
	os.path.exists(sysconfig.get_path("include") + "/Python.h") or sys.exit("has no C headers")

.PHONY: help
help: ## this list
	@echo 'As root on Debian 12:  make demo   make test'
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r t d; do printf '  %-8s %s\n' "$$t" "$$d"; done
	@echo
	@sed -n '3,11s/^# \{0,1\}//p' $(firstword $(MAKEFILE_LIST))

# ---- what is installed --------------------------------------------------------

.PHONY: deps
deps: apt-deps $(B)/venv ## install what is missing: Debian packages, .venv from PyPI

.PHONY: apt-deps
apt-deps:
	@$(call apt,$(APT_BUILD) $(APT_RUN))
	@if ! '$(PYTHON)' -c '$(PYTHON_CHECK)' 2>/dev/null; then $(call apt,python3 python3-venv python3-dev); fi
	@why=$$('$(PYTHON)' -c '$(PYTHON_CHECK)' 2>&1) || { \
		echo "make: $(PYTHON) cannot be used: $$(tail -n 1 <<<"$$why")" >&2; \
		echo 'make: name another, such as: make PYTHON=/usr/bin/python3' >&2; exit 1; }

# The environment follows the dependency groups; the package itself is put into
# it by the build below.
$(B)/venv: pyproject.toml | apt-deps
	@mkdir -p $(B)
	@if ! $(BIN)/python -c 'import pip' 2>/dev/null; then \
		echo 'venv: making $(VENV)'; \
		'$(PYTHON)' -m venv --clear $(VENV); \
	fi
	@echo 'venv: installing from PyPI'
	@$(call quietly,$(B)/pip.log,$(BIN)/python -m pip install -U 'pip>=25.1' && $(BIN)/python -m pip install --group build --group test --group lint)
	@touch $@

# ---- build ----------------------------------------------------------------------

.PHONY: build
build: deps $(B)/core-$(CORE_KIND) ## compile the core, leave the commands in .venv/bin

$(B)/core-$(CORE_KIND): $(CORE_SRC) setup.py pyproject.toml $(B)/venv | apt-deps
	@$(call need,hak2k/_core.pyx)
	@echo 'build: hak2k._core ($(CORE_KIND))'
	@[[ -e $@ ]] || rm -f hak2k/_core*.so
	@rm -f $(B)/core-*
	@$(call quietly,$(B)/build.log,$(BIN)/python -m pip install --no-build-isolation -v -e .)
	@sed -n 's/^ *\(.*: warning: .*\)/\1/p' $(B)/build.log >&2
	@touch $@

# conntrackd, which the measurements set beside hak2k.  Unpacked, not installed: the
# package would start a daemon on this host.
PEER := build/bench/conntrackd
.PHONY: peer
peer: apt-deps $(PEER)/usr/sbin/conntrackd

$(PEER)/usr/sbin/conntrackd:
	@$(call apt,$(APT_PEER))
	@echo 'apt: unpacking conntrackd into $(PEER)'
	@rm -rf $(PEER); mkdir -p $(PEER) $(B)
	@$(call quietly,$(B)/peer.log,cd $(PEER) && fetch() { apt-get download -q conntrackd; }; \
		fetch || { apt-get update -q && fetch; }; dpkg-deb -x conntrackd_*.deb .)
	@touch $@

# ---- use ------------------------------------------------------------------------

.PHONY: demo
demo: build ## two firewalls, the active one dies, no connection is lost
	@$(call need,hak2k/demo)
	@$(BIN)/python -m hak2k.demo

.PHONY: test
test: build peer ## all tests, C and Python, on the real kernel (root, under ten minutes)
	@$(call root)
	@$(call need,tests/c/Makefile)
	@echo 'test: C'
	@$(MAKE) -C tests/c test
	@echo 'test: pytest'
	@$(limited) -m pytest -n 2 --dist loadscope --no-loadscope-reorder \
		-m 'not soak and not host' $(PYTEST_ARGS) </dev/null || $(again)
	@$(limited) -m pytest -m host $(PYTEST_ARGS) </dev/null || $(again)

limited = timeout --foreground -k 30 $(TEST_LIMIT) $(BIN)/python
# 1: tests failed, and the run was not broken off.  5: PYTEST_ARGS chose none of them.
again = case $$? in 1) $(limited) -m tests.again </dev/null ;; 5) ;; *) false ;; esac

.PHONY: soak
soak: build ## what takes minutes: a hundred swaps, a minute without links (root)
	@$(call root)
	@$(BIN)/python -m pytest -m soak $(PYTEST_ARGS) </dev/null

root = [[ $$(id -u) == 0 ]] || { echo 'make: $@ makes network namespaces: run it as root' >&2; exit 1; }

.PHONY: sim
sim: build ## the election through SIM_SCHEDULES schedules of random faults
	@$(BIN)/python -m tests.unit.election_chaos $(SIM_SCHEDULES)

# The pictures need more than the tests do.
$(B)/venv-bench: pyproject.toml $(B)/venv
	@echo 'venv: installing from PyPI what the pictures need'
	@$(call quietly,$(B)/pip-bench.log,$(BIN)/python -m pip install --group bench)
	@touch $@

.PHONY: bench bench-quick
bench: build peer $(B)/venv-bench ## measure beside conntrackd; tables, goals, pictures (root, long)
	@$(call root)
	@$(call need,bench/__main__.py)
	@$(BIN)/python -m bench

bench-quick: build peer $(B)/venv-bench ## the same in less than a minute: does it work?
	@$(call root)
	@$(BIN)/python -m bench --quick cost saturate latency bulk memory python micro

# ---- check ----------------------------------------------------------------------

# The C core alone is held to more warnings than Cython's output can be.
STRICT := -std=c11 -D_GNU_SOURCE=1 -O2 -Wall -Wextra -Wconversion -Wshadow -Wstrict-prototypes \
	-Wmissing-prototypes -Wvla -Wpointer-arith -Wcast-align -Wwrite-strings -Wformat=2 \
	-Wundef -Werror -fvisibility=hidden -Icsrc -Ibuild/bpf
# The analyzer does not see that recvmsg() fills the buffers behind an iovec.
ANALYZER := -fanalyzer -fanalyzer-verbosity=1 -Wno-analyzer-use-of-uninitialized-value
ANALYZE := $(patsubst csrc/%.c,$(B)/lint/%.o,$(wildcard csrc/*.c))

.PHONY: lint
lint: deps $(B)/core-$(CORE_KIND) ## ruff, mypy, cython-lint, gcc's strict warnings and analyzer
	@echo 'lint: C'
	@$(MAKE) -j"$$(nproc)" $(ANALYZE)
	@echo 'lint: Cython'
	@PATH='$(CURDIR)/$(BIN)':$$PATH cython-lint hak2k
	@echo 'lint: Python'
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check . || { $(BIN)/ruff format --check .; exit 1; }
	@$(BIN)/mypy

$(B)/lint/%.o: csrc/%.c $(wildcard csrc/*.h) Makefile
	@mkdir -p $(@D)
	@gcc $(STRICT) $(ANALYZER) -c -o $@ $<

.PHONY: asan
asan: apt-deps ## C tests and the fuzz corpus under AddressSanitizer and UBSan; 32-bit codec
	@$(call apt,$(APT_M32))
	@$(call need,tests/c/Makefile)
	@$(MAKE) -C tests/c asan
	@$(MAKE) -C tests/c m32
	@$(call need,tests/fuzz/Makefile)
	@$(MAKE) -C tests/fuzz replay

.PHONY: fuzz
fuzz: build ## libFuzzer on every parser, FUZZ_SECONDS each
	@$(call apt,$(APT_FUZZ))
	@$(call need,tests/fuzz/Makefile)
	@$(MAKE) -C tests/fuzz fuzz FUZZ_SECONDS=$(FUZZ_SECONDS)
	@echo 'fuzz: control socket and configuration'
	@HAK2K_EXAMPLES=$$(( $(FUZZ_SECONDS) * 50 )) timeout -k 30 $$(( $(FUZZ_SECONDS) * 4 + 120 )) \
		$(BIN)/python -m pytest -q -o timeout=0 tests/unit/test_hostile_text.py </dev/null

.PHONY: docs
docs: build ## regenerate docs/events.md and election.md, check the manual pages
	@$(call apt,$(APT_DOCS))
	@$(BIN)/python docs/generate.py
	@mandoc -Tlint -W warning docs/man/*.[1-9]

.PHONY: clean
clean: ## remove what was built (not .venv)
	@rm -rf build dist *.egg-info hak2k/_core*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	@find . -path ./$(VENV) -prune -o -type d -name __pycache__ -print0 | xargs -0r rm -rf
	@for d in tests/c tests/fuzz; do [[ ! -e $$d/Makefile ]] || $(MAKE) -C $$d clean; done
