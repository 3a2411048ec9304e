# make demo   the whole chain, ending with demo/report.html
# make test   the tests                make check   formatting, lint, types, layers, spelling
# make setup  only .venv               make gpu     what needs a CUDA GPU: tests, proofs, benches
# make gpu-pack DATA=DIR PHOTOS=DIR    the photos that make gpu needs, into .gpu/
# make clean  everything that was made

PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,\
  $(shell $(name) -c 'import sys; sys.version_info >= (3, 11) and print("$(name)")' 2>/dev/null)))
BIN := .venv/bin
READY := .venv/.ready
# A source tree without an installation serves too: GPU machines often bring their own torch.
GPU_PYTHON ?= $(if $(wildcard $(READY)),$(BIN)/python,python3)
GPU_RUN := PYTHONPATH=.:export:bench $(GPU_PYTHON) -m
# For everything that `make gpu` does. A second call within another time goes on where the first ended.
SECONDS ?= 3600

.PHONY: setup demo test check gpu gpu-pack clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed: apt install python3" >&2; exit 1; }
	$(PYTHON) -m venv .venv || { echo "The venv module is needed: apt install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[rtx,openvino,triton,ray]" --group dev
	touch $(READY)

demo: $(READY)
	$(BIN)/flowerseg-demo --out demo

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

gpu-pack:
	$(GPU_RUN) flowerseg_bench.gpu pack --data "$(DATA)" --photos "$(PHOTOS)"

gpu:
	$(GPU_RUN) flowerseg_bench.gpu run --seconds $(SECONDS)

clean:
	rm -rf .venv demo dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
