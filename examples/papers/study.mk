# "Understanding the Fine-Grained Knowledge Capabilities of Vision-Language Models", section 3: each model on each data set, beside its
# own vision encoder (docs/study.md).
#     make study MODELS="hf:llava-hf/llava-1.5-7b-hf hf:Qwen/Qwen2-VL-7B-Instruct" DATASETS="imagenet flowers pets food101" \
#       DATA_ROOT=/data ENCODER=clip:ViT-L-14/laion2b_s32b_b82k GENERAL=scores.csv

## folder of the results of `make study`
STUDY ?= runs/study
## MODEL=clip:NAME for each model whose config does not tell the CLIP of its vision encoder
ENCODER_OF ?= examples/toy/vlm=clip:examples/toy/clip
## scores of general ability for `make study`, apart by spaces: [MODEL=]FILE
GENERAL ?=
## question of `make study`
STUDY_QUESTION ?= What type of object is in this photo?
## further options of `fgvr study`
STUDY_OPTIONS ?=

# --- one model on one data set: RUN is STUDY/DATASET ---

CELL := $(RUN)/$(call base,$(MODEL))
CLIP  = $(or $(patsubst $(MODEL)=%,%,$(filter $(MODEL)=%,$(ENCODER_OF))),clip-of:$(MODEL))
stage.study-names   = mine-negatives --encoder $(ENCODER) --of names --per-anchor 4 --templates 'a photo of a {}'
stage.study-choices = questions --kinds mcq --distractors topwrong --choices 5 --question $(call quote,$(STUDY_QUESTION)) $(seed)
stage.study-encoder = eval --model $(CLIP) --template 'a photo of a {}'

ifneq ($(filter $(RUN)/%,$(MAKECMDGOALS)),)
$(eval $(call stamps,$(RUN),study-names study-choices))
$(eval $(call stamps,$(CELL),eval study-encoder))
endif

$(RUN)/named.jsonl: $(RUN)/test.jsonl $(call files,$(ENCODER)) $(RUN)/.settings/study-names | $(SETUP)
	$(FGVR) $(stage.study-names) $(images) $(how) $(call resume,$@) $<

$(RUN)/choices.jsonl: $(RUN)/named.jsonl $(RUN)/.settings/study-choices | $(SETUP)
	$(FGVR) $(stage.study-choices) $(call resume,$@) $<

$(CELL)/answers.jsonl: $(RUN)/choices.jsonl $(call files,$(MODEL)) $(CELL)/.settings/eval | $(SETUP)
	$(FGVR) $(stage.eval) $(images) $(how) $(call resume,$@) $<

$(CELL)/encoder.jsonl: $(RUN)/choices.jsonl $(call files,$(MODEL)) $(CELL)/.settings/study-encoder | $(SETUP)
	$(FGVR) $(stage.study-encoder) $(images) $(how) $(call resume,$@) $<

# --- all of them ---

define study.set
$(STUDY)/$1/choices.jsonl: FORCE
	$$(MAKE) DATASET=$1 RUN=$(STUDY)/$1 $(call data,$1) $$@
endef
define study.cell
$(STUDY)/$1/$(call base,$2)/$3.jsonl: $(STUDY)/$1/choices.jsonl FORCE
	$$(MAKE) DATASET=$1 RUN=$(STUDY)/$1 $(call data,$1) MODEL=$2 $$@
endef
study.runs = $(foreach d,$(DATASETS),$(foreach m,$(MODELS),$(call study.run,$d,$(call base,$m))))
study.run  = $(1)/$(2)=$(STUDY)/$(1)/$(2)/answers.jsonl $(1)/clip-of-$(2)=$(STUDY)/$(1)/$(2)/encoder.jsonl
stage.study-all = study $(study.runs) $(foreach m,$(MODELS),--encoder $(call base,$m)=clip-of-$(call base,$m)) \
	$(addprefix --general ,$(GENERAL)) $(STUDY_OPTIONS)

ifneq ($(filter study $(STUDY)/study.jsonl $(STUDY)/table.txt,$(MAKECMDGOALS)),)
$(foreach d,$(DATASETS),$(eval $(call study.set,$d)))
$(foreach d,$(DATASETS),$(foreach m,$(MODELS),$(foreach f,answers encoder,$(eval $(call study.cell,$d,$m,$f)))))
$(eval $(call stamps,$(STUDY),study-all))
endif
.PHONY: study
## MODELS on DATASETS, each beside its own vision encoder: tables and figures
study: $(STUDY)/table.txt
	@cat $<

STUDIED = $(foreach d,$(DATASETS),$(foreach m,$(MODELS),$(addprefix $(STUDY)/$d/$(call base,$m)/,answers.jsonl encoder.jsonl)))
$(STUDY)/study.jsonl: $(STUDIED) $(foreach g,$(GENERAL),$(lastword $(subst =, ,$g))) $(STUDY)/.settings/study-all | $(SETUP)
	$(FGVR) $(stage.study-all) --plots $(STUDY)/figures -o $@

$(STUDY)/table.txt: $(STUDY)/study.jsonl | $(SETUP)
	$(FGVR) $(stage.study-all) --table -o $@
