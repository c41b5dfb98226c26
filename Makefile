# Two commands matter: `make train` and `make test`. On a fresh clone each of them creates .venv from
# the lock file, builds what changed, and runs.
PYTHON ?= python3
BIN := .venv/bin
NATIVE := $(shell find csrc cmake -type f)
CXX_FORMATTED := $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.PHONY: train test test-long asan fuzz bench launches label-mass learn audit-calibration soak mutants study results exhibits gpu-check build lint docs format wheel wheel-check clean

train: build
	$(BIN)/python tools/train_imagenet.py --arch resnet152

# Two processes, each with whole files: what a file's tests share is made once.
test: build lint
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not long"

# What takes long and seldom tells: comparisons with the official AutoAttack and torchattacks, the op
# tests and the CUDA kernels under AddressSanitizer, and what the tests of kernels would notice.
test-long: build
	$(BIN)/python -m pytest -n 2 --dist loadfile -m long

# Times every op, and updates the tables in docs/benchmarks.md.
bench: build
	$(BIN)/python -m pytest $(filter-out $(wildcard tests/benchmarks/bench_data_*.py),$(wildcard tests/benchmarks/bench_*.py)) \
		--benchmark-quiet --benchmark-json=build/bench.json
	$(BIN)/python tests/benchmarks/summary.py build/bench.json --page docs/benchmarks.md

# Counts the CUDA launches of a training step, without a GPU, and updates the table in
# docs/benchmarks.md.
launches: build
	$(BIN)/python tests/benchmarks/launches.py --page docs/benchmarks.md

# Simulates beta over a run, and updates the table in docs/method.md.
label-mass: build
	$(BIN)/python tests/benchmarks/label_mass.py --page docs/method.md

# Trains every method on 10,000 images of CIFAR-10: make learn DATA=cifar10_images.tar
learn: build
	$(BIN)/python tests/benchmarks/learning.py --data $(or $(DATA),$(error set DATA, e.g. make learn DATA=cifar10_images.tar))

# Which masked models the audit detects, and how often it suspects honest ones: the tables of
# docs/audit.md, in about two hours. make audit-calibration DATA=cifar10_images.tar
audit-calibration: build
	$(BIN)/python tests/benchmarks/audit_calibration.py --page docs/audit.md \
		--data $(or $(DATA),$(error set DATA, e.g. make audit-calibration DATA=cifar10_images.tar))

# The result: trains seven networks and attacks them alike; after an interruption, the same command
# resumes. make study DATA=cifar10_images.tar [SCALE=1] [OUT=runs/study]
study: build
	$(BIN)/python tools/run_study.py --data $(or $(DATA),$(error set DATA, e.g. make study DATA=cifar10_images.tar)) \
		--scale $(or $(SCALE),0.1) --out $(or $(OUT),runs/study) $(if $(PAGE),--page $(PAGE))

# The tables and figures of docs/results.md from its numbers, docs/results.json, which
# make study ... PAGE=docs/results.md writes.
results: build
	PYTHONPATH=tools $(BIN)/python -m study.page docs/results.md

# Every table and figure of the paper, end to end on a few real images:
# make exhibits DATA=cifar10_images.tar IMAGENET=imagenet [OUT=runs/exhibits]
exhibits: build
	$(BIN)/python tests/benchmarks/exhibits.py --data $(or $(DATA),$(error set DATA, e.g. make exhibits DATA=cifar10_images.tar IMAGENET=imagenet)) \
		--imagenet $(or $(IMAGENET),$(error set IMAGENET, e.g. make exhibits DATA=cifar10_images.tar IMAGENET=imagenet)) --out $(or $(OUT),runs/exhibits)

# All op tests on a CPU library with ASan and UBSan, of which `make test-long` runs a part; the fuzz
# test on fresh examples, 100 times as many as in `make test`.
asan: build
	SPROUT_FAST_ASAN=all $(BIN)/python -m pytest tests/ops/test_asan.py

fuzz: build
	SPROUT_FAST_FUZZ=long $(BIN)/python -m pytest tests/ops/test_fuzz.py

# Kills and stops short training runs at random moments, and compares what they end with; updates the
# table in docs/soak.md. It continues where it was stopped: make soak KILLS=200 SIGNALS=50 STEPS=5000
KILLS ?= 200
SIGNALS ?= 50
STEPS ?= 5000
soak: build
	$(BIN)/python tests/benchmarks/soak.py --kills $(KILLS) --signals $(SIGNALS) --steps $(STEPS) --page docs/soak.md

# Plants mistakes and counts those that no test notices; updates the table in docs/mutants.md. It
# continues where it was stopped.
PYTHON_MUTANTS ?= 200
NATIVE_MUTANTS ?= 50
mutants: build
	cd tests/benchmarks && ../../$(BIN)/python -m mutants --python $(PYTHON_MUTANTS) --native $(NATIVE_MUTANTS) \
		--state ../../build/mutants --page ../../docs/mutants.md

# The first thing to run on a machine with a GPU: builds for it, compares its ops with the CPU's and
# replays of a training step with launches, and times the ops, a step, and what SPROUT adds to it.
gpu-check: .venv/.installed
	@$(BIN)/python -c "import sys, torch; sys.exit(0 if torch.cuda.is_available() else 'gpu-check: torch finds no GPU')"
	@$(MAKE) --no-print-directory build
	$(BIN)/python -m pytest tests/ops/test_cuda.py tests/training/test_graph.py
	$(BIN)/python tests/benchmarks/gpu_check.py

build: .venv/.built

.venv/.installed: requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	touch $@

# What the CUDA library is built for. Another list of architectures, or a GPU that was not there
# before, needs another build.
BUILT_FOR := $(FORCE_CUDA) $(TORCH_CUDA_ARCH_LIST) $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | sort -u)

.venv/.built-for: .venv/.installed FORCE
	@echo '$(BUILT_FOR)' | cmp -s - $@ || echo '$(BUILT_FOR)' > $@
FORCE:

# An editable install: Python files need none, but for the version. pyproject.toml has the programs.
.venv/.built: .venv/.installed .venv/.built-for CMakeLists.txt setup.py pyproject.toml sprout_fast/_version.py $(NATIVE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	$(BIN)/python -c "import sprout_fast; [print(f'{k:>17}: {v}') for k, v in sprout_fast.build_info().items()]"
	touch $@

lint: .venv/.installed docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CXX_FORMATTED)
	$(BIN)/pyright --pythonpath $(BIN)/python

# The API pages import the package, hence the build. SPROUT_FAST_INTERSPHINX=1 links to PyTorch's
# documentation, which needs a network.
docs: build
	$(BIN)/sphinx-build -W --keep-going -q -b html docs build/docs

format: .venv/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FORMATTED)

# The sdist and the wheel in dist/, audited: which symbols of Python, glibc and other
# libraries the wheel needs, and so on which systems it runs. A release is built by cibuildwheel.
wheel: build
	rm -rf dist
	$(BIN)/python -m build --no-isolation --sdist --wheel
	$(BIN)/python -m abi3audit --strict --summary dist/*.whl
	$(BIN)/auditwheel show dist/*.whl
	$(BIN)/auditwheel repair $(TORCH_LIBRARIES:%=--exclude '%') -w dist/manylinux dist/*.whl
TORCH_LIBRARIES := libtorch*.so* libc10*.so* libcudart.so*

# The wheel's programs in a new environment with torchvision and DALI: some minutes and 6 GB.
wheel-check: wheel
	rm -rf build/wheel-check
	$(PYTHON) -m venv build/wheel-check
	build/wheel-check/bin/pip install --quiet --disable-pip-version-check "$$(ls dist/*.whl)[train]"
	SPROUT_FAST_PROGRAMS=$(abspath build/wheel-check/bin) $(BIN)/python -m pytest \
		tests/packaging/test_wheel.py -k "programs_come or help or outside"

clean:
	rm -rf build dist sprout_fast/include sprout_fast/lib sprout_fast/_C*.so .venv/.built
