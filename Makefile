# fgvr: make decides when, the stages decide how. `make help` lists targets and variables.
SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS   += --no-builtin-rules --warn-undefined-variables
.DELETE_ON_ERROR:
.DEFAULT_GOAL := all

ifneq ($(or $(filter 3.% 4.0 4.0.% 4.1 4.1.%,$(MAKE_VERSION)),$(if $(MAKE_VERSION),,none)),)
$(error fgvr needs GNU make 4.2 or newer; this is $(MAKE_VERSION))
endif

# --- variables: a line "## meaning" above each is what `make help` prints ---------------------------------------------

## data set: the name of a fragment in examples/
DATASET ?= toy
## folder of a real data set (any DATASET but toy)
DATA ?=
## folder of the results
RUN ?= runs/$(DATASET)
override RUN := $(RUN:%/=%)

FRAGMENTS := $(sort $(basename $(notdir $(wildcard examples/*.mk))))
ifeq ($(filter $(FRAGMENTS),$(DATASET)),)
$(error unknown DATASET '$(DATASET)'; there are: $(FRAGMENTS))
endif
# a fragment says otherwise where its images are not in DATA, it needs more variables, or is read by another command
IMAGES  = $(DATA)
SCORED  =
REQUIRE = $(if $(strip $(DATA)),,$(error DATA is not set: make all DATASET=$(DATASET) DATA=/folder))
DATASET_COMMAND = $(DATASET) --root $(call quote,$(DATA))
TRAIN_COMMAND   = $(DATASET_COMMAND)
include examples/$(DATASET).mk

## vision-language model that is aligned and tuned: a folder or scheme:name[@revision]
MODEL ?= examples/toy/vlm
# settings that suit a model, such as ALIGN_OPTIONS, may stand beside its folder
include $(wildcard $(MODEL).mk)
## language model that lists attributes and writes descriptions
LLM ?= $(MODEL)
## vision-language model that answers attribute questions
VQA ?= $(MODEL)
## CLIP model that finds hard negatives: a folder or scheme:name[@revision]
ENCODER ?= examples/toy/clip
## hard negatives for each training image (empty, here and below: as `fgvr STAGE --help` says)
NEGATIVES ?=
## seed of every draw
SEED ?=
## device of the models; a change makes nothing again
DEVICE ?=
## records in one batch of inference; a change makes nothing again
BATCH ?=
## further options of `fgvr dataset`
DATASET_OPTIONS ?=
## further options of `fgvr dataset --check`, which looks for test images among the training images
CHECK_OPTIONS ?=
## further options of `fgvr discover-attrs`
DISCOVER_OPTIONS ?=
## further options of `fgvr extract-attrs`
EXTRACT_OPTIONS ?=
## further options of `fgvr summarise`
SUMMARISE_OPTIONS ?=
## further options of `fgvr mine-negatives`
MINE_OPTIONS ?=
## further options of `fgvr align`
ALIGN_OPTIONS ?=
## further options of `fgvr questions`
QUESTIONS_OPTIONS ?=
## further options of `fgvr tune`
TUNE_OPTIONS ?=
## further options of `fgvr eval`
EVAL_OPTIONS ?=
## further options of `fgvr probe`
PROBE_OPTIONS ?=
## further options of `fgvr score`
SCORE_OPTIONS ?=
## the Python that .venv is made from, 3.10 or newer
PYTHON ?= python3
## folder of the virtual environment
VENV ?= .venv
## the fgvr command; another one than .venv's is used as it is, without an installation
FGVR ?= $(VENV)/bin/fgvr
## test files or folders for `make test`
TESTS ?= tests
## processes that run the tests
WORKERS ?= $(CORES)
## further options of pytest
TEST_OPTIONS ?=
## one benchmark for `make bench` (empty: all)
BENCH ?=

# --- small functions ---------------------------------------------------------------------------------------------------

quote  = '$(subst ','\'',$(1))'
# non-empty when both texts are equal
equal  = $(and $(findstring <$(1)>,<$(2)>),$(findstring <$(2)>,<$(1)>))
option = $(if $(2),$(1) $(call quote,$(2)))
# the files of a model that is a folder: what is made with the model depends on them
files  = $(wildcard $(addprefix $(1)/*.,safetensors json jinja txt model))
# --resume, unless there is a partial result that is older than something it is made from: that belongs to another run,
# --resume would refuse it, and without --resume the stage starts anew. (A whole result of an equal run is only touched.)
resume = $(if $(shell find -H $^ -maxdepth 0 -newer $(1).partial 2>/dev/null),,--resume) -o $(1)

CORES  = $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 8 ? n : 8)))
BIN   := $(VENV)/bin
# What a cell of an experiment (examples/papers) says otherwise, in a RUN of its own: the seed of align, tune and what tune
# learns; questions that align learns too; the adapters that tune starts from and that is tested, or none
TRAIN_SEED      = $(SEED)
ALIGN_QUESTIONS =
ALIGNED         = $(RUN)/align
TUNED           = $(RUN)/tune
SETUP := $(if $(call equal,$(FGVR),$(BIN)/fgvr),$(VENV)/.installed)
TOOLS := $(VENV)/.installed

# --- settings: each stage's command line, kept in a stamp that is rewritten only when its text changes ----------------
# Only what decides the records stands here; DEVICE and BATCH (how fast) and the paths of the inputs (prerequisites) do not.

how = $(call option,--device,$(DEVICE)) $(call option,--batch-size,$(BATCH))
seed = $(call option,--seed,$(SEED))
trained = $(call option,--seed,$(TRAIN_SEED))
images = --image-root $(call quote,$(IMAGES))

stage.train          = dataset $(TRAIN_COMMAND) --split $(call quote,$(TRAIN_SPLIT)) $(DATASET_OPTIONS)
stage.val            = dataset $(DATASET_COMMAND) --split $(call quote,$(VAL_SPLIT)) $(DATASET_OPTIONS)
stage.test           = dataset $(DATASET_COMMAND) --split $(call quote,$(TEST_SPLIT)) $(DATASET_OPTIONS)
stage.check          = dataset --check $(CHECK_OPTIONS)
stage.discover-attrs = discover-attrs --model $(LLM) --superclass $(call quote,$(SUPERCLASS)) \
	--class-unit $(call quote,$(CLASSUNIT)) $(DISCOVER_OPTIONS)
stage.extract-attrs  = extract-attrs --model $(VQA) $(EXTRACT_OPTIONS)
stage.summarise      = summarise --model $(LLM) $(SUMMARISE_OPTIONS)
stage.mine-negatives = mine-negatives --encoder $(ENCODER) $(call option,--per-anchor,$(NEGATIVES)) $(MINE_OPTIONS)
stage.align          = align --model $(MODEL) $(trained) $(ALIGN_OPTIONS)
stage.questions      = questions $(call option,--question,$(QUESTION)) $(trained) $(QUESTIONS_OPTIONS)
stage.questions-test = questions $(call option,--question,$(QUESTION)) $(seed) $(QUESTIONS_OPTIONS)
stage.tune           = tune --model $(MODEL) $(trained) $(TUNE_OPTIONS)
stage.eval           = eval --model $(MODEL) $(EVAL_OPTIONS)
stage.probe          = probe --model $(MODEL) $(seed) $(PROBE_OPTIONS)
stage.score          = score $(SCORE_OPTIONS)
STAGES := train val test check discover-attrs extract-attrs summarise mine-negatives align questions questions-test tune \
	eval probe score

# $(call stamps,FOLDER,STAGES): the rules of their stamps in FOLDER/.settings. (GNU make 4.3 does not always take off the
# last line end of a file that it reads.)
define stamps
$(2:%=$1/.settings/%):
	@mkdir -p $$(@D)
	@printf '%s\n' $$(call quote,$$(strip $$(stage.$$(@F)))) > $$@.new
	@mv $$@.new $$@
$(foreach s,$2,$(if $(call equal,$(strip $(file <$1/.settings/$s)),$(strip $(stage.$s))),,
$1/.settings/$s: FORCE))
endef

RUNNING := $(filter all report $(RUN)/%,$(or $(MAKECMDGOALS),all))
ifneq ($(RUNNING),)
$(if $(strip $(RUN)),,$(error RUN is empty or /; name a folder for the results))
$(foreach v,RUN MODEL LLM VQA ENCODER,$(if $(word 2,$($v)),$(error $v may not contain spaces: '$($v)')))
$(REQUIRE)
$(eval $(call stamps,$(RUN),$(STAGES)))
endif
FORCE:

# --- the chain; align and tune make folders ------------------------------------------------------------------------------

# the rows that `make all` prints; the table has many more
SHOWN := '^ |^open +exact match|^(mcq|attributes|description) +([a-z]+ )?accuracy  |^linear|quality|retrieval'

.PHONY: all report setup test lint docs bench lock toy-models clean help FORCE

## install if need be, run the whole chain on DATASET and print the result
all: $(RUN)/table.txt $(if $(strip $(VAL_SPLIT)),$(RUN)/val.jsonl)
	@grep -E $(SHOWN) $< || cat $<
	@echo 'all figures: $<; files: $(RUN)'

## one page about the run: charts, confusion, errors, provenance
report: $(RUN)/report.html

$(RUN)/report.html: $(RUN)/metrics.jsonl | $(SETUP)
	$(FGVR) report -o $@ $(RUN)

$(RUN)/train.jsonl $(RUN)/val.jsonl $(RUN)/test.jsonl: $(RUN)/%.jsonl: $(RUN)/.settings/% | $(SETUP)
	$(FGVR) $(stage.$*) $(call resume,$@)

# before anything costly; order-only, for its result is that the chain may go on
$(RUN)/leaks.jsonl: $(RUN)/train.jsonl $(RUN)/test.jsonl $(RUN)/.settings/check | $(SETUP)
	$(FGVR) $(stage.check) $(images) -o $@ $(RUN)/train.jsonl $(RUN)/test.jsonl

$(RUN)/attrs.jsonl: $(call files,$(LLM)) $(RUN)/.settings/discover-attrs | $(SETUP)
	$(FGVR) $(stage.discover-attrs) $(call option,--device,$(DEVICE)) $(call resume,$@)

$(RUN)/extracted.jsonl: $(RUN)/train.jsonl $(RUN)/attrs.jsonl $(call files,$(VQA)) $(RUN)/.settings/extract-attrs | $(SETUP) $(RUN)/leaks.jsonl
	$(FGVR) $(stage.extract-attrs) $(images) $(how) --attrs $(RUN)/attrs.jsonl $(call resume,$@) $<

$(RUN)/triples.jsonl: $(RUN)/extracted.jsonl $(call files,$(LLM)) $(RUN)/.settings/summarise | $(SETUP)
	$(FGVR) $(stage.summarise) $(how) $(call resume,$@) $<

$(RUN)/mined.jsonl: $(RUN)/triples.jsonl $(call files,$(ENCODER)) $(RUN)/.settings/mine-negatives | $(SETUP)
	$(FGVR) $(stage.mine-negatives) $(images) $(how) $(call resume,$@) $<

# test images take their wrong categories from the training images
$(RUN)/test-mined.jsonl: $(RUN)/test.jsonl $(RUN)/triples.jsonl $(call files,$(ENCODER)) $(RUN)/.settings/mine-negatives | $(SETUP)
	$(FGVR) $(stage.mine-negatives) $(images) $(how) --from $(RUN)/triples.jsonl $(call resume,$@) $<

$(RUN)/align: $(RUN)/mined.jsonl $(ALIGN_QUESTIONS) $(call files,$(MODEL)) $(RUN)/.settings/align | $(SETUP)
	$(FGVR) $(stage.align) $(call option,--questions,$(ALIGN_QUESTIONS)) $(images) $(call option,--device,$(DEVICE)) \
	  $(call resume,$@) $<

$(RUN)/questions.jsonl: $(RUN)/mined.jsonl $(RUN)/.settings/questions | $(SETUP)
	$(FGVR) $(stage.questions) $(call resume,$@) $<

$(RUN)/questions-test.jsonl: $(RUN)/test-mined.jsonl $(RUN)/.settings/questions-test | $(SETUP)
	$(FGVR) $(stage.questions-test) $(call resume,$@) $<

$(RUN)/tune: $(RUN)/questions.jsonl $(ALIGNED) $(call files,$(MODEL)) $(RUN)/.settings/tune | $(SETUP)
	$(FGVR) $(stage.tune) $(call option,--adapter,$(ALIGNED)) $(images) $(call option,--device,$(DEVICE)) $(call resume,$@) $<

$(RUN)/predictions-before.jsonl: $(RUN)/questions-test.jsonl $(call files,$(MODEL)) $(RUN)/.settings/eval | $(SETUP)
	$(FGVR) $(stage.eval) $(images) $(how) $(call resume,$@) $<

$(RUN)/predictions.jsonl: $(RUN)/questions-test.jsonl $(TUNED) $(call files,$(MODEL)) $(RUN)/.settings/eval | $(SETUP)
	$(FGVR) $(stage.eval) --adapter $(TUNED) $(images) $(how) $(call resume,$@) $<

$(RUN)/probe-before.jsonl: $(RUN)/test.jsonl $(RUN)/train.jsonl $(call files,$(MODEL)) $(RUN)/.settings/probe | $(SETUP)
	$(FGVR) $(stage.probe) --train $(RUN)/train.jsonl $(images) $(how) $(call resume,$@) $<

$(RUN)/probe.jsonl: $(RUN)/test.jsonl $(RUN)/train.jsonl $(TUNED) $(call files,$(MODEL)) $(RUN)/.settings/probe | $(SETUP)
	$(FGVR) $(stage.probe) --adapter $(TUNED) --train $(RUN)/train.jsonl $(images) $(how) $(call resume,$@) $<

BEFORE := $(addprefix $(RUN)/,predictions-before.jsonl probe-before.jsonl) $(SCORED)
AFTER  := $(addprefix $(RUN)/,predictions.jsonl probe.jsonl)

$(RUN)/metrics.jsonl: $(AFTER) $(BEFORE) $(RUN)/.settings/score | $(SETUP)
	$(FGVR) $(stage.score) $(BEFORE:%=--compare before=%) --compare after=$(RUN)/probe.jsonl \
	  --name after -o $@ $<

$(RUN)/table.txt: $(RUN)/metrics.jsonl | $(SETUP)
	$(FGVR) score --table -o $@ $<

# --- environment, checks, upkeep ---------------------------------------------------------------------------------------

## make .venv and install fgvr with its locked dependencies into it
setup: $(TOOLS)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo 'fgvr needs Python 3.10 or newer; name one, for example: make setup PYTHON=python3.12' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# uv takes seconds where pip takes minutes; where it cannot be had, pip does it
$(VENV)/.installed: setup.cfg constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet uv || echo 'no uv to be had here; pip will take longer'
	if [ -x $(BIN)/uv ]; then $(BIN)/uv pip install --python $(BIN)/python --constraint constraints.txt --editable '.[test]'; \
	else $(BIN)/python -m pip install --constraint constraints.txt --editable '.[test]'; fi
	touch $@

## ruff, mypy and pytest
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations 20 $(TEST_OPTIONS) $(TESTS)

# cli/ installs as fgvr.cli; mypy, which knows nothing of package_dir, sees it there through links
TREE := .mypy_cache/tree
## ruff and mypy
lint: $(TOOLS)
	$(BIN)/ruff check .
	rm -rf $(TREE) && mkdir -p $(TREE)/fgvr && ln -s "$$PWD"/fgvr/* "$$PWD"/cli $(TREE)/fgvr/
	$(BIN)/mypy

## write docs/reference.md anew from the commands' own help
docs: $(TOOLS)
	$(BIN)/python -m tests.reference

## measure against the named baselines, all of them or one: make bench BENCH=name
bench: $(TOOLS)
	$(BIN)/python -m tests.bench $(BENCH)

UV_LOCK = $(BIN)/uv pip compile --quiet --no-python-downloads --no-annotate
LISTED  = from configparser import ConfigParser as C; c = C(); c.read("setup.cfg"); \
	print(c["options"]["install_requires"], *c["options.extras_require"].values(), sep="\n")
## write constraints.txt anew, the newest versions that go together, and check that the oldest supported ones do
lock: | $(BIN)/python
	$(BIN)/python -m pip install --quiet uv
	$(UV_LOCK) --upgrade --universal --python-version 3.10 --all-extras --custom-compile-command 'make lock' \
	  --output-file constraints.txt setup.cfg
	for v in 3.10 3.11 3.12 3.13; do \
	  $(BIN)/python -c '$(LISTED)' | $(UV_LOCK) --no-build --resolution lowest-direct --python-version $$v - > /dev/null; done

## train the embedded models of examples/toy anew
toy-models: $(TOOLS)
	$(BIN)/python examples/toy/recipe.py tower language vlm polish clip measure

## remove everything that make has made, all results in runs/ too
clean:
	rm -rf $(VENV) runs build dist fgvr.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

## this list
help:
	@printf 'make TARGET [VARIABLE=value ...]\n\nTargets:\n'
	@awk '/^## / { text = substr($$0, 4); next } \
	  text && /^[a-z-]+:/ { sub(/:.*/, ""); printf "  %-18s %s\n", $$0, text } { text = "" }' $(MAKEFILE_LIST)
	@printf '\nVariables:\n'
	@awk '/^## / { text = substr($$0, 4); next } \
	  text && /^[A-Z_]+ *\?=/ { name = $$1; sub(/^[^=]*= */, ""); \
	    printf "  %-18s %s%s\n", name, text, $$0 == "" ? "" : " [" $$0 "]" } { text = "" }' $(MAKEFILE_LIST)
	@printf '\nData sets: %s\n' '$(FRAGMENTS)'

# the papers' tables and experiments
include $(wildcard examples/papers/*.mk)
