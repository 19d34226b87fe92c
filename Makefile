# `make demo` and `make test` each work alone on a fresh machine with Python 3.11+ and no GPU.
PYTHON ?= python3
BIN := .venv/bin
# One file of tests is one worker's, so that what a module or directory prepares is prepared rarely.
WORKERS ?= 2
PARALLEL := -n $(WORKERS) --dist loadfile

PIP := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt
# Where the CPU build of torch is; plain PyPI has one with gigabytes of CUDA for Linux. Empty: take what pip finds.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: check clients demo docs results setup test test-clients test-core test-dispatch test-lm-eval test-ray test-slow \
	test-transformers

setup: .venv/ready

# The wheel of torch brings its own test programs, more than 100 MB that nothing runs.
TORCH_TESTS := import sysconfig as s; d = s.get_path('purelib') + '/torch/'; print(d + 'test', d + 'bin/test_*')

# What dkv itself needs.
.venv/core: pyproject.toml constraints.txt
	@echo "Setting up .venv: torch for the CPU (about 200 MB to download), then some 25 small packages (30 MB)."
	@echo "This takes about a minute, once; .venv then holds about 700 MB."
	@began=$$(date +%s) && $(PYTHON) -m venv .venv && \
		{ $(PIP) --no-compile --no-deps --retries 1 $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch || \
		$(PIP) --no-compile --no-deps torch; } && \
		rm -rf $$($(BIN)/python -c "$(TORCH_TESTS)") && \
		echo "torch is there after $$(($$(date +%s) - began)) s; now the small packages ..." && \
		$(PIP) --quiet --no-compile --editable . && \
		echo "Ready after $$(($$(date +%s) - began)) s: $$(du -sm .venv | cut -f1) MB in .venv"
	@touch $@

# What its tests and its developers need as well.
.venv/ready: .venv/core
	@echo "Adding the packages for tests and development to .venv (about 250 MB to download): one to two minutes, once."
	@began=$$(date +%s) && $(PIP) --quiet --editable '.[dev]' && \
		echo "Ready after $$(($$(date +%s) - began)) s: $$(du -sm .venv | cut -f1) MB in .venv"
	@touch $@

demo: .venv/core
	@$(BIN)/python -m dkv.cli.demo

test: setup
	$(BIN)/python -m pytest $(PARALLEL) -m 'not slow'

test-slow: setup
	$(BIN)/python -m pytest $(PARALLEL) -m slow

# The kernels of other processors, as far as this one can be limited to them: torch's own, oneDNN's and MKL's, which sum
# in other orders. `make test` takes those of the machine as it is; `make test-dispatch-avx2` is one level.
#   oldest  no AVX: the way of torch that is always there
#   avx2    most laptops, AMD before Zen 4
#   zen4    AVX-512 with bfloat16 but no AMX, and MKL's kernels for AVX2, which it takes on AMD. (torch's own are not
#           limited: it believes ATEN_CPU_CAPABILITY=avx512 on processors without, and crashes.)
LEVELS := oldest avx2 zen4
LIMITS_oldest := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2
LIMITS_avx2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
LIMITS_zen4 := ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 MKL_ENABLE_INSTRUCTIONS=AVX2
# Where two ways of computing the same meet: with and without company, in C and not, by caches that must agree.
KERNELS := tests/accel tests/caches tests/core tests/engine tests/layers tests/models tests/test_families.py
test-dispatch: $(LEVELS:%=test-dispatch-%)
test-dispatch-%: setup
	$(LIMITS_$*) $(BIN)/python -m pytest $(PARALLEL) -m 'not slow' $(KERNELS)

# Tokenisation and loading beside each major release of transformers, with which the tests compare them.
test-transformers: .venv-transformers4/ready .venv-transformers5/ready
	for release in 4 5; do \
		.venv-transformers$$release/bin/python -c "$(CHECK_RELEASE)" $$release && \
		.venv-transformers$$release/bin/python -m pytest $(BESIDE_TRANSFORMERS) || exit 1; \
	done

CHECK_RELEASE := import sys; from transformers import __version__ as v; print('transformers', v); assert v[0] == sys.argv[1]
BESIDE_TRANSFORMERS := $(PARALLEL) -m 'not slow' tests/tokenizer tests/models tests/checkpoints tests/recipes/tiny/test_embedded_tokenizer.py
.venv-transformers4/ready: RELEASE := transformers==4.57.*
.venv-transformers5/ready: RELEASE := transformers>=5,<6

# Only transformers and what it pins are installed; all else, torch above all, is borrowed from .venv by a line that
# Python runs at its start. Three whole environments would take minutes and gigabytes.
.venv-transformers%/ready: .venv/ready
	$(PYTHON) -m venv $(@D)
	$(BIN)/python -c "import sysconfig; print('import site; site.addsitedir(%r)' % sysconfig.get_path('purelib'))" \
		> "$$($(@D)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/borrowed.pth"
	$(@D)/bin/python -m pip install --quiet --constraint constraints.txt '$(RELEASE)'
	touch $@

# The built wheel in an environment with the dependencies of the core alone; torch is borrowed from .venv, and it alone,
# so that nothing else of the developers' environment is seen.
test-core: .venv/ready .venv-core/ready
	.venv-core/bin/python -m pip install --quiet --no-deps --force-reinstall .
	DKV_CORE_PYTHON=.venv-core/bin/python $(BIN)/python -m pytest tests/test_core_install.py

.venv-core/ready: .venv/core
	$(PYTHON) -m venv $(@D)
	from=$$($(BIN)/python -c "$(PURELIB)") && to=$$($(@D)/bin/python -c "$(PURELIB)") && \
		ln -sfn $$from/torch $$from/functorch $$from/torchgen $$from/torch-*.dist-info $$to
	$(@D)/bin/python -m pip install --quiet --constraint constraints.txt .
	touch $@

PURELIB := import sysconfig; print(sysconfig.get_path('purelib'))

# lm-eval brings some forty packages, so it has an environment of its own, layered in the same way.
test-lm-eval: .venv-lm-eval/ready
	.venv-lm-eval/bin/python -c "import lm_eval; print('lm-eval', lm_eval.__version__)"
	HF_HOME=.venv-lm-eval/huggingface HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 \
		.venv-lm-eval/bin/python -m pytest $(PARALLEL) -m 'not slow' tests/lab/eval

.venv-lm-eval/ready: .venv/ready
	$(PYTHON) -m venv $(@D)
	$(BIN)/python -c "import sysconfig; print('import site; site.addsitedir(%r)' % sysconfig.get_path('purelib'))" \
		> "$$($(@D)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/borrowed.pth"
	$(@D)/bin/python -m pip install --quiet --constraint constraints.txt 'lm-eval>=0.4.10'
	touch $@

# Ray brings some thirty packages, so it has an environment of its own, layered in the same way.
test-ray: .venv-ray/ready
	.venv-ray/bin/python -c "import ray; print('ray', ray.__version__)"
	.venv-ray/bin/python -m pytest tests/ray

.venv-ray/ready: .venv/ready
	$(PYTHON) -m venv $(@D)
	$(BIN)/python -c "import sysconfig; print('import site; site.addsitedir(%r)' % sysconfig.get_path('purelib'))" \
		> "$$($(@D)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/borrowed.pth"
	$(@D)/bin/python -m pip install --quiet --constraint constraints.txt 'ray[serve,data]>=2.60,<2.64'
	touch $@

# Programs that others wrote, each in an environment of its own, against `dkv serve`. Minutes and gigabytes for all.
CLIENTS := benchmarks/clients
CLIENTS_CACHE ?= .venv-clients
clients: setup
	failed=0; for client in lm_eval guidellm vllm_bench aiperf; do \
		$(BIN)/python $(CLIENTS)/$${client}_client.py $(CLIENTS_CACHE) || failed=1; done; exit $$failed

# Those whose environments are made in a minute or so.
test-clients: setup
	$(BIN)/python $(CLIENTS)/lm_eval_client.py $(CLIENTS_CACHE) --version 0.4.10 --version 0.4.13
	$(BIN)/python $(CLIENTS)/guidellm_client.py $(CLIENTS_CACHE)

# The documentation as a site in build/site. Every warning is an error: dead links, missing anchors, pages without a place in
# the navigation, names of the API that do not exist. (With --quiet mkdocs would not count its warnings.) The API is read
# from the source, so neither dkv nor torch is installed.
docs: .venv-docs/ready
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs build --strict --clean
	@echo "The site is in build/site: open build/site/index.html"

.venv-docs/ready: constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --constraint constraints.txt mkdocs mkdocs-material 'mkdocstrings[python]' ruff
	touch $@

# What docs/results holds: every figure of it, from nothing. Hours on two cores; interrupt it and run it again to go on.
RESULTS := docs/results
EVAL := --count 100 --compile --decoder confidence --cache dkv-decode:refresh=2 --cache dkv-decode:refresh=4 \
	--cache dkv-decode --cache dkv-decode:refresh=4,delay=0 --cache dkv-prefill --cache dkv-pd --cache dkv-pd:refresh=8 \
	--cache dkv-greedy --cache dkv-greedy:refresh=8 --cache dllm-cache --cache dllm-cache:rho=0 \
	--cache dllm-cache:kr=2,rho=0.5 --cache fast-prefix --cache fast-dual --cache dkv-fill --cache dkv-fill:rows=40
results: setup
	mkdir -p $(RESULTS)/bench $(RESULTS)/eval
	$(BIN)/dkv bench --out $(RESULTS)/bench/bench.jsonl
	$(BIN)/dkv report $(RESULTS)/bench/bench.jsonl --out $(RESULTS)/bench/bench.html
	$(BIN)/dkv eval --out $(RESULTS)/eval/answers.tiny.jsonl --markdown $(EVAL) > $(RESULTS)/eval/table.md
	$(BIN)/dkv eval --served --count 120 --out $(RESULTS)/eval/answers.served.jsonl --markdown > $(RESULTS)/eval/served.md
	$(BIN)/dkv study all --out $(RESULTS)/study --count 30
	gunzip -kf $(RESULTS)/speed/*.jsonl.gz
	$(BIN)/dkv study parallel fill --compile --out $(RESULTS)/speed --count 120
	gzip -9nkf $(RESULTS)/speed/fill.jsonl $(RESULTS)/speed/parallel.jsonl

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
