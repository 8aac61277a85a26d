# FINER (Kim & Ji): granularity, attributes first, the modality gap, and the tuning mixture tested on a data set it did not see (docs/finer.md).
#     make modality-gap MODEL=hf:org/vlm DATASETS="cub dogs aircraft" DATA_ROOT=/data
#     make held-out TRAIN="cub dogs cars aircraft nabirds" TEST=inat2021 MODEL=hf:org/vlm DATA_ROOT=/data

## folder of the results of `make granularity` and `make modality-gap`
FINER ?= runs/finer
## where attributes of categories come from: text, image or truth (fgvr concept-attrs --source)
CONCEPTS ?= $(if $(filter toy%,$(DATASET)),truth,text)
## wording of FINER's questions, with {concept} (empty: FINER's own)
FINER_QUESTION ?= $(if $(filter toy%,$(DATASET)),What kind of {concept} is this?)
## folder of the results of `make held-out`
HELD_OUT ?= runs/held-out
## data sets that `make held-out` learns from: NAME, or NAME@SEED for another drawn world
TRAIN ?= toy@1 toy@2 toy@3 toy@4 toy@5
## data set that `make held-out` is tested on
TEST ?= toy@0
## most training images of a category in `make held-out`
PER_CLASS ?= 10
## what the dialogues of `make held-out` ask for: full, no-answer, direct
VARIANT ?= full
## further options of `fgvr tune` in `make held-out`; the toy's TUNE_OPTIONS are for an adapter that align has begun
HELD_TUNE_OPTIONS ?= $(TUNE_OPTIONS) $(if $(filter examples/toy/%,$(MODEL)),--rank 16 --alpha 32 --dropout 0)
## file of further records to learn in `make held-out`, with images or without, such as of `fgvr convert --from llava`
INSTRUCTIONS ?=

# --- one data set: RUN ---

ASKED = $(RUN)/finer
stage.finer-concepts  = concept-attrs --source $(CONCEPTS) $(if $(filter truth,$(CONCEPTS)),,--model $(LLM) --image-root $(IMAGES))
stage.finer-levels    = questions --kinds granularity $(call option,--question,$(FINER_QUESTION)) $(seed)
stage.finer-known     = questions --kinds knowledge $(seed)
stage.finer-dialogues = questions --kinds dialogue --variant $(VARIANT) $(call option,--per-class,$(PER_CLASS)) $(seed)
stage.finer-direct    = $(stage.eval)
stage.finer-seek      = $(stage.eval) --prompting attr-seek
ifneq ($(filter $(RUN)/%,$(MAKECMDGOALS)),)
$(eval $(call stamps,$(ASKED),finer-concepts finer-levels finer-known finer-dialogues finer-direct finer-seek))
endif

$(ASKED)/concepts.jsonl $(ASKED)/train-concepts.jsonl: $(ASKED)/%concepts.jsonl: $(ASKED)/.settings/finer-concepts | $(SETUP)
	$(FGVR) $(stage.finer-concepts) $(call option,--device,$(DEVICE)) $(call resume,$@) $(RUN)/$(if $*,train,test).jsonl
$(ASKED)/concepts.jsonl: $(RUN)/test.jsonl
$(ASKED)/train-concepts.jsonl: $(RUN)/train.jsonl

$(ASKED)/levels.jsonl: $(RUN)/test.jsonl $(ASKED)/.settings/finer-levels | $(SETUP)
	$(FGVR) $(stage.finer-levels) $(call resume,$@) $<
$(ASKED)/fine.jsonl: $(RUN)/test.jsonl $(ASKED)/.settings/finer-levels | $(SETUP)
	$(FGVR) $(stage.finer-levels) --level fine $(call resume,$@) $<
$(ASKED)/known.jsonl: $(RUN)/test.jsonl $(ASKED)/concepts.jsonl $(ASKED)/.settings/finer-known | $(SETUP)
	$(FGVR) $(stage.finer-known) --from-attributes $(ASKED)/concepts.jsonl $(call resume,$@) $<
$(ASKED)/dialogues.jsonl: $(RUN)/train.jsonl $(ASKED)/train-concepts.jsonl $(ASKED)/.settings/finer-dialogues | $(SETUP)
	$(FGVR) $(stage.finer-dialogues) $(if $(filter direct,$(VARIANT)),,--from-attributes $(ASKED)/train-concepts.jsonl) $(call resume,$@) $<

$(ASKED)/direct.jsonl $(ASKED)/seek.jsonl: $(ASKED)/%.jsonl: $(ASKED)/levels.jsonl $(call files,$(MODEL)) $(ASKED)/.settings/finer-direct $(ASKED)/.settings/finer-seek | $(SETUP)
	$(FGVR) $(stage.finer-$*) $(images) $(how) $(call resume,$@) $<
$(ASKED)/image.jsonl: $(ASKED)/fine.jsonl $(call files,$(MODEL)) $(ASKED)/.settings/finer-direct | $(SETUP)
	$(FGVR) $(stage.finer-direct) $(images) $(how) $(call resume,$@) $<
$(ASKED)/text.jsonl: $(ASKED)/known.jsonl $(call files,$(MODEL)) $(ASKED)/.settings/finer-direct | $(SETUP)
	$(FGVR) $(stage.finer-direct) $(images) $(how) $(call resume,$@) $<
$(ASKED)/levels.txt: $(ASKED)/seek.jsonl $(ASKED)/direct.jsonl | $(SETUP)
	$(FGVR) score --table --by level --compare direct=$(ASKED)/direct.jsonl --name seek -o $@ $<

# --- DATASETS ---

define finer.set
$(FINER)/$1/finer/$2: FORCE
	$$(MAKE) DATASET=$1 RUN=$(FINER)/$1 $(call data,$1) $$@
endef
ifneq ($(filter granularity modality-gap $(FINER)/modality-gap.txt,$(MAKECMDGOALS)),)
$(foreach d,$(DATASETS),$(foreach f,levels.txt image.jsonl text.jsonl,$(eval $(call finer.set,$d,$f))))
endif

.PHONY: granularity modality-gap held-out
## superordinate, coarse and fine questions of DATASETS, directly and attributes first
granularity: $(foreach d,$(DATASETS),$(FINER)/$d/finer/levels.txt)
	@tail -n +1 $^

## names by the image alone and by text alone, on DATASETS: one table, one plot
modality-gap: $(FINER)/modality-gap.txt
	@cat $<

$(FINER)/modality-gap.txt: $(foreach d,$(DATASETS),$(FINER)/$d/finer/image.jsonl $(FINER)/$d/finer/text.jsonl) | $(SETUP)
	$(FGVR) study $(foreach d,$(DATASETS),$(foreach m,image text,$d/$m=$(FINER)/$d/finer/$m.jsonl)) --encoder text=image --measure em \
	  --plots $(FINER)/figures --table -o $@

# --- held out ---

set.name = $(firstword $(subst @, ,$(1)))
set.make = $(MAKE) DATASET=$(call set.name,$1) RUN=$(HELD_OUT)/sets/$1 $(addprefix SEED=,$(word 2,$(subst @, ,$1))) $(call data,$(call set.name,$1))
# where a data set's images lie below the mixture's image root
set.root   = $(or $(DATA_ROOT),$(HELD_OUT))
set.images = $(if $(DATA_ROOT),$(1),sets/$(1)/images)
stage.held-tune = tune --model $(MODEL) $(seed) $(HELD_TUNE_OPTIONS)
stage.held-eval = $(stage.eval)
ifneq ($(filter held-out $(HELD_OUT)/table.txt,$(MAKECMDGOALS)),)
$(foreach s,$(TRAIN),$(eval $(HELD_OUT)/sets/$s/finer/dialogues.jsonl: FORCE ; +$$(call set.make,$s) $$@))
$(foreach s,$(TEST),$(eval $(HELD_OUT)/sets/$s/finer/levels.jsonl: FORCE ; +$$(call set.make,$s) $$@))
$(eval $(call stamps,$(HELD_OUT),held-tune held-eval))
endif

## learn FINER's dialogues of the data sets TRAIN, be tested on TEST
held-out: $(HELD_OUT)/table.txt
	@cat $<

$(HELD_OUT)/mixture.jsonl: $(foreach s,$(TRAIN),$(HELD_OUT)/sets/$s/finer/dialogues.jsonl) $(INSTRUCTIONS)
	{ $(foreach s,$(TRAIN),sed -e 's|"id":"|&$s/|' -e 's|"image":"|&$(call set.images,$s)/|' $(HELD_OUT)/sets/$s/finer/dialogues.jsonl;) \
	  cat $(INSTRUCTIONS) /dev/null; } > $@.new && mv $@.new $@

$(HELD_OUT)/tune: $(HELD_OUT)/mixture.jsonl $(call files,$(MODEL)) $(HELD_OUT)/.settings/held-tune | $(SETUP)
	$(FGVR) $(stage.held-tune) --image-root $(call quote,$(set.root)) $(call option,--device,$(DEVICE)) $(call resume,$@) $<

HELD_TEST = $(HELD_OUT)/sets/$(TEST)/finer/levels.jsonl
held.eval = $(FGVR) $(stage.held-eval) --image-root $(call quote,$(set.root)/$(call set.images,$(TEST))) $(how)
$(HELD_OUT)/before.jsonl: $(HELD_TEST) $(call files,$(MODEL)) $(HELD_OUT)/.settings/held-eval | $(SETUP)
	$(held.eval) $(call resume,$@) $<
$(HELD_OUT)/after.jsonl: $(HELD_TEST) $(HELD_OUT)/tune $(call files,$(MODEL)) $(HELD_OUT)/.settings/held-eval | $(SETUP)
	$(held.eval) --adapter $(HELD_OUT)/tune $(call resume,$@) $<
$(HELD_OUT)/table.txt: $(HELD_OUT)/after.jsonl $(HELD_OUT)/before.jsonl | $(SETUP)
	$(FGVR) score --table --by level --compare before=$(HELD_OUT)/before.jsonl --name after -o $@ $<
