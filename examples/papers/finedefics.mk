# Finedefics (arXiv 2501.15140): its tables with this run's figures in them, and its figures. What is published stands in
# finedefics.jsonl. Names begin with fd. because all fragments of this folder are read together.

ifeq ($(DATASET),toy)
KNOWLEDGE ?= 8
endif
## descriptions of each category for table1
KNOWLEDGE ?= 200
## data sets of common objects for table9 and their folders: imagenet-a=/folder imagenet-r=/folder ...
COMMON ?=

fd.paper   := examples/papers/finedefics.jsonl
fd.columns := dogs=Dog-120 cub=Bird-200 aircraft=Aircraft-102 flowers=Flower-102 pets=Pet-37 cars=Car-196 \
	imagenet-a=IN-adversarial imagenet-r=IN-rendition imagenet-sketch=IN-sketch
# of words KEY=VALUE the value of a key, or the key itself
fd.value   = $(or $(patsubst $1=%,%,$(filter $1=%,$2)),$1)
fd.column  = $(call fd.value,$1,$(fd.columns))
fd.table   = $(FGVR) score --published $(fd.paper):$1 --data-set $(call fd.column,$(DATASET)) -o $@
fd.tables := $(addprefix table,1 2 3 4 5 6 7 8 9 10)

.PHONY: tables figures $(fd.tables)
## Finedefics' tables with this run's figures beside the published ones; one of them: table1 ... table10 (5 and 6 train)
tables: $(fd.tables)

$(fd.tables):
	@$(MAKE) --no-print-directory $(RUN)/tables/$@.shown

$(RUN)/tables/%.shown: $(RUN)/tables/%.md
	@cat $<
	@echo

$(RUN)/tables $(RUN)/figures:
	mkdir -p $@

$(patsubst %,$(RUN)/tables/table%.md,2 7 8 10): $(RUN)/tables/table%.md: $(fd.paper) $(RUN)/metrics.jsonl | $(RUN)/tables
	$(call fd.table,$*) $(RUN)/metrics.jsonl

# Table 4 is of LLaVA
$(RUN)/tables/table4.md: $(fd.paper) $(RUN)/metrics.jsonl | $(RUN)/tables
	$(call fd.table,4) $(RUN)/metrics.jsonl $(if $(findstring llava,$(MODEL)),\
	  --compare $(call fd.column,$(DATASET))/before=$(RUN)/predictions-before.jsonl \
	  --compare $(call fd.column,$(DATASET))/after=$(RUN)/predictions.jsonl)

# --- Table 1, Figures 2 and 4 to 7 ---------------------------------------------------------------------------------------

fd.fitted = $(RUN)/test.jsonl $(RUN)/train.jsonl $(call files,$1) $(RUN)/.settings/probe
fd.probe  = $(FGVR) probe $(seed) --train $(RUN)/train.jsonl $(images) $(how) --model $1 $2 $(call resume,$@) $(RUN)/test.jsonl
fd.places = --at tower,connector,output --cache $(RUN)/features
fd.map    = --map $(@D)/map-$*.jsonl
fd.probes = $(patsubst %,$(RUN)/figures/probe-%.jsonl,$1)

$(call fd.probes,clip): $(call fd.probes,%): $(call fd.fitted,$(ENCODER)) | $(SETUP) $(RUN)/figures
	$(call fd.probe,$(ENCODER),$(fd.map))

$(call fd.probes,before): $(call fd.probes,%): $(call fd.fitted,$(MODEL)) | $(SETUP) $(RUN)/figures
	$(call fd.probe,$(MODEL),$(fd.places) $(fd.map))

$(call fd.probes,after): $(call fd.probes,%): $(call fd.fitted,$(MODEL)) $(RUN)/tune | $(SETUP) $(RUN)/figures
	$(call fd.probe,$(MODEL) --adapter $(RUN)/tune,$(fd.places) $(fd.map))

$(RUN)/tables/knowledge-$(KNOWLEDGE).jsonl: $(call fd.fitted,$(MODEL)) $(call files,$(ENCODER)) | $(SETUP) $(RUN)/tables
	$(call fd.probe,$(MODEL),$(fd.places) --knowledge $(KNOWLEDGE) --text-encoder $(ENCODER))

$(RUN)/tables/table1.md: $(fd.paper) $(RUN)/tables/knowledge-$(KNOWLEDGE).jsonl $(call fd.probes,clip after) | $(RUN)/tables
	$(call fd.table,1) --compare before=$(word 2,$^) --compare clip=$(word 3,$^) --name after $(word 4,$^)

## Finedefics' Figures 2, 4, 5, 6 and 7 of this run (.png, .svg), and one page with all of it
figures:
	@$(MAKE) --no-print-directory $(RUN)/figures/report.html
	@ls $(RUN)/figures/*.png $(RUN)/figures/report.html

$(RUN)/figures/report.html: $(RUN)/predictions-before.jsonl $(RUN)/predictions.jsonl $(call fd.probes,clip before after)
	$(FGVR) report $(images) --figures $(@D) $(patsubst %,--map $(@D)/map-%.jsonl,clip before after) --resume -o $@ $(RUN)

# --- Tables 3, 5 and 6: what `make ablations` left, and cells ------------------------------------------------------------
# A cell is the chain in a RUN of its own, from the stage on that is changed; what comes before is linked in.

fd.cell    = $(RUN)/cells/$1/predictions.jsonl
fd.types   = $(shell grep -oE '"type":"(colour|shape|texture|size)"' $(RUN)/attrs.jsonl 2>/dev/null | cut -d '"' -f 4 | sort -u)
fd.without = $(fd.types:%=without-%)
fd.told    = short noisy class $(if $(shell head -1 $(RUN)/train.jsonl 2>/dev/null | grep attributes_true),truth)
fd.short   = --level short
fd.noisy   = --noise 0.25
fd.class   = --source class
fd.truth   = --source truth
fd.more    = $1_OPTIONS=$(call quote,$($1_OPTIONS) $2)
fd.change  = $(if $(filter without-%,$1),$(call fd.more,DISCOVER,--drop $(1:without-%=%)),$(call fd.more,SUMMARISE,$(fd.$1)))
# images are seen once for all cells
fd.caches  = $(call fd.more,MINE,--features $(RUN)/cells/clip) \
	$(foreach stage,ALIGN TUNE,$(call fd.more,$(stage),--vision-cache $(RUN)/cells/vision))
fd.kept    = train test leaks $(if $(filter without-%,$1),,attrs extracted)
fd.stamps  = train test check $(if $(filter without-%,$1),,discover-attrs extract-attrs)
fd.known   = $(patsubst %,--compare ablations=%,$(wildcard $(RUN)-ablations/metrics.jsonl)) \
	$(foreach name,$1,--compare $(name)=$(call fd.cell,$(name)))

$(RUN)/tables/table3.md: $(fd.paper) $(RUN)/metrics.jsonl FORCE | $(RUN)/tables
	$(call fd.table,3) $(call fd.known,) $(RUN)/metrics.jsonl

$(RUN)/tables/table5.md: $(fd.paper) $(RUN)/predictions.jsonl FORCE | $(RUN)/tables
	$(if $(fd.types),@$(MAKE) --no-print-directory $(foreach name,$(fd.without),$(call fd.cell,$(name))))
	$(call fd.table,5) $(call fd.known,$(fd.without)) --name all $(RUN)/predictions.jsonl

$(RUN)/tables/table6.md: $(fd.paper) $(RUN)/predictions.jsonl FORCE | $(RUN)/tables
	@$(MAKE) --no-print-directory $(foreach name,$(fd.told),$(call fd.cell,$(name)))
	$(call fd.table,6) $(call fd.known,$(fd.told)) --name all $(RUN)/predictions.jsonl

$(call fd.cell,%): FORCE | $(RUN)/test.jsonl $(RUN)/extracted.jsonl
	@mkdir -p $(@D)/.settings
	@from="$$(cd $(RUN) && pwd)"; for file in $(foreach name,$(call fd.kept,$*),$(name).jsonl $(name).jsonl.run.json) \
	  $(addprefix .settings/,$(call fd.stamps,$*)); do [ -L $(@D)/$$file ] || ln -s "$$from/$$file" $(@D)/$$file; done
	@$(MAKE) --no-print-directory RUN=$(@D) IMAGES=$(call quote,$(IMAGES)) $(call fd.change,$*) $(fd.caches) $@

# --- Table 9: common objects before and after, with FOCI's options -------------------------------------------------------

fd.sets   := $(foreach word,$(COMMON),$(firstword $(subst =, ,$(word))))
fd.common  = $(RUN)/common/$1
fd.each    = $(fd.sets:%=$(RUN)/common/%/$1.jsonl)
fd.below   = --image-root $(call quote,$(call fd.value,$*,$(COMMON)))
fd.asked   = $(call files,$(MODEL)) $(RUN)/.settings/eval

$(RUN)/tables/table9.md: $(fd.paper) $(RUN)/metrics.jsonl $(foreach run,before after,$(call fd.each,predictions-$(run))) FORCE \
  | $(RUN)/tables
	$(call fd.table,9) $(foreach set,$(fd.sets),$(foreach run,before after,\
	  --compare $(call fd.column,$(set))/$(run)=$(call fd.common,$(set)/predictions-$(run).jsonl))) $(RUN)/metrics.jsonl

ifneq ($(fd.sets),)
$(call fd.each,test): $(call fd.common,%/test.jsonl): FORCE
	@mkdir -p $(@D)
	@$(MAKE) --no-print-directory DATASET=$* DATA=$(call quote,$(call fd.value,$*,$(COMMON))) RUN=$(@D) $@

$(call fd.each,questions): $(call fd.common,%/questions.jsonl): $(call fd.common,%/test.jsonl) $(call files,$(ENCODER)) | $(SETUP)
	$(FGVR) mine-negatives --of names --encoder $(ENCODER) $(fd.below) $(how) $< \
	  | $(FGVR) questions --kinds mcq --distractors foci4 $(seed) -o $@

$(call fd.each,predictions-before): $(call fd.common,%/predictions-before.jsonl): $(call fd.common,%/questions.jsonl) $(fd.asked)
	$(FGVR) $(stage.eval) $(fd.below) $(how) $(call resume,$@) $<

$(call fd.each,predictions-after): $(call fd.common,%/predictions-after.jsonl): $(call fd.common,%/questions.jsonl) $(RUN)/tune $(fd.asked)
	$(FGVR) $(stage.eval) --adapter $(RUN)/tune $(fd.below) $(how) $(call resume,$@) $<
endif
