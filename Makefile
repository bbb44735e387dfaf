# `make demo` runs the main job and `make test` the tests; each sets up what is missing first.
# Completed steps of the setup are skipped, so an interrupted one continues where it stopped.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
# `make test STACK=original` uses OpenMMLab's own packages, `STACK=newest` the newest torch, each in
# its own environment.
STACK ?= maintained
ifeq ($(STACK),maintained)
R := requirements
VENV ?= .venv
else ifneq ($(filter $(STACK),original newest),)
R := requirements/$(STACK)
VENV ?= .venv-$(STACK)
else
$(error STACK=$(STACK) is unknown; give maintained, original or newest)
endif
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
DONE := $(VENV)/.done
# One thread per process: small tensors gain nothing from more.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --maxprocesses 4 --dist loadgroup

DEMO := configs/faster_rcnn_r50_cbam_digits.py
DEMO_DIR := work_dirs/demo
IMAGE := data/digits/val2017/000000001173.jpg
LAST = $(DEMO_DIR)/$$(basename $$(cat $(DEMO_DIR)/last_checkpoint))

# `make coverage TESTS=tests/datasets/test_voc.py` measures only with these tests.
TESTS ?= tests

.PHONY: help setup demo record tutorial test test-all coverage lint docs doctor clean
help:
	@echo 'make demo      train and evaluate Faster R-CNN + CBAM on the embedded digits'
	@echo 'make test      lint and the fast tests'
	@echo 'make test-all  the slow tests too'
	@echo 'make coverage  measure which lines the fast tests run (TESTS=FILE for some tests)'
	@echo 'make docs      build the documentation: docs/_build/html/index.html'
	@echo 'make doctor    report the environment'
	@echo 'make setup     set up $(VENV), as every command above does first'
	@echo 'make clean     remove $(VENV); data/ and work_dirs/ stay'

$(DONE)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
	  { echo 'error: $(PYTHON) is not Python 3.10 to 3.13; choose one: make PYTHON=python3.11' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo 'error: this Python cannot create virtual environments: apt-get install python3-venv' >&2; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || \
	  { echo 'error: Python.h is missing: apt-get install python3-dev' >&2; exit 1; }
	@command -v c++ >/dev/null || { echo 'error: no C++ compiler: apt-get install g++' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(DONE) && touch $@

$(DONE)/torch: $(R)/torch.txt $(R)/build.txt | $(DONE)/venv
	$(PIP) install -r $(R)/build.txt -r $(R)/torch.txt
	@touch $@

$(DONE)/mmcv: $(R)/mmcv.txt $(DONE)/torch
	@bash requirements/install_mmcv.sh "$(PY)" "$(VENV)/mmcv.log" $(R)/mmcv.txt
	@touch $@

$(DONE)/stack: $(R)/stack.txt requirements/tests.txt requirements/export.txt requirements/docs.txt \
  requirements/video.txt requirements/app.txt pyproject.toml $(DONE)/mmcv
	$(PIP) install -q -r $(R)/stack.txt -r requirements/tests.txt -r requirements/export.txt \
	  -r requirements/docs.txt -r requirements/video.txt -r requirements/app.txt
	@bash requirements/fix_opencv.sh "$(PY)"
	PYTHONWARNINGS='ignore:Editable installation' $(PIP) install -q --no-build-isolation -e .
	$(PY) tools/doctor.py
	@touch $@

setup: $(DONE)/stack

demo: setup
	$(PY) tools/make_digits.py data/digits
	$(PY) tools/train.py $(DEMO) --work-dir $(DEMO_DIR) --resume
	$(PY) tools/test.py $(DEMO) $(LAST) --work-dir $(DEMO_DIR)
	$(PY) tools/visualize.py detections $(DEMO) $(LAST) --out $(DEMO_DIR)/detections.png
	$(PY) tools/visualize.py curves $(DEMO_DIR) --out $(DEMO_DIR)/curves.png
	@echo
	@$(PY) -c "import glob, json; ap = json.load(open(max(glob.glob('$(DEMO_DIR)/*/metrics.json'))))['metrics']['coco/bbox_mAP_50']; print(f'AP50 on the held-out images   {ap:.3f}'); raise SystemExit('error: 0.5 or more is expected; please report this' if ap < 0.5 else 0)"
	@echo 'data, COCO and VOC layout   data/digits'
	@echo "weights                     $(LAST)"
	@echo "metrics                     $$(ls -t $(DEMO_DIR)/*/metrics.json | head -n 1)"
	@echo 'pictures                    $(DEMO_DIR)/detections.png, curves.png'
	@echo 'next                        the same without attention, to compare:'
	@echo '  $(PY) tools/train.py configs/faster_rcnn_r50_digits.py --work-dir work_dirs/baseline'
	@echo '  $(PY) tools/visualize.py curves $(DEMO_DIR) work_dirs/baseline'
	@echo 'then                        COCO in data/coco (see docs/guides/train_and_test.md):'
	@echo '  $(PY) tools/train.py configs/faster_rcnn_r50_cbam.py'

# The record and the pictures of the README and the site, after `make demo`.
record:
	cp "$$(ls -t $(DEMO_DIR)/*/metrics.json | head -n 1)" results/demo.json
	$(PY) tools/visualize.py detections $(DEMO) $(LAST) --out docs/images/demo_detections.jpg
	$(PY) tools/visualize.py curves $(DEMO_DIR) --out docs/images/demo_curves.svg
	$(PY) tools/visualize.py attention $(IMAGE) $(DEMO) $(LAST) --out docs/images/demo_attention.jpg
	$(PY) tools/visualize.py data $(DEMO) --count 8 --out docs/images/demo_data.jpg
	$(PY) tools/visualize.py pr $(DEMO) $(LAST) --out docs/images/demo_pr.svg
	$(PY) tools/predict.py $(IMAGE) $(DEMO) $(LAST) --attention --out $(DEMO_DIR)/predictions
	cp $(DEMO_DIR)/predictions/drawn/$$(basename $(IMAGE)) docs/images/demo_predict.jpg
	$(PY) -m benchmarks.tables
	$(PY) -m benchmarks.metafile

# The outputs that the tutorial shows, from a run of all its cells: ten minutes on two idle cores.
tutorial: setup
	$(PY) -m benchmarks.tutorial

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
ifeq ($(STACK),maintained)
	$(PY) -m mypy  # by the types of this stack's torch and numpy
endif
	$(VENV)/bin/lint-imports --no-cache

test: lint
	$(PYTEST) -m 'not slow'

test-all: lint
	$(PYTEST)

coverage: setup
	$(PY) -m coverage erase
	OMP_NUM_THREADS=1 $(PY) -m coverage run -m pytest -n auto --maxprocesses 4 --dist loadgroup \
	  -m 'not slow' $(TESTS)
	$(PY) -m coverage combine -q
	$(PY) -m coverage report

docs: setup
	$(PY) -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo 'open docs/_build/html/index.html'

doctor: setup
	$(PY) tools/doctor.py

clean:
	rm -rf $(VENV)
