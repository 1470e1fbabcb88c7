# Thin front of CMake. `make demo` and `make test` work on a fresh Debian or Ubuntu.
BUILD ?= build
JOBS ?= $(shell nproc)

MAKEFLAGS += --no-print-directory

.PHONY: demo build test configure deps format clean

demo: build
	@./demo/run.sh $(BUILD)/tandem

build: configure
	@cmake --build $(BUILD) -j $(JOBS) --target tandem

test: configure
	@cmake --build $(BUILD) -j $(JOBS)
	@ctest --test-dir $(BUILD) --output-on-failure -j $(JOBS) -LE long

configure: deps
	@mkdir -p $(BUILD)
	@cmake -S . -B $(BUILD) -DCMAKE_BUILD_TYPE=Release $(CMAKE_ARGS) > $(BUILD)/configure.log 2>&1 \
	  || { cat $(BUILD)/configure.log; exit 1; }

deps:
	@./deps.sh

format:
	@git ls-files '*.h' '*.cc' '*.cu' | xargs clang-format -i

clean:
	rm -rf $(BUILD)
