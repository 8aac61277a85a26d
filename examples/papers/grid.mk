# The knowledge study's ablations (section 4): language model x vision encoder x pretraining data x what is updated, one folder a cell.
# A cell is done when its folder has answers; what cells share (assembled models, pretraining, the tower's output) is made once.
#     make grid                                      on the toy world: two language models, two towers, captions or none: 16 cells
#     make grid LLMS="hf:Qwen/Qwen2-7B hf:lmsys/vicuna-7b-v1.5" VISIONS=hf:openai/clip-vit-large-patch14-336 \
#       PRETRAINING="none captions" GRID=/runs/grid GRID_IMAGES=/data      with captions.jsonl, instructions.jsonl and test sets in GRID

## folder of the results of `make grid`
GRID ?= runs/grid
## language models of `make grid`, apart by spaces: folders or hf:NAME
LLMS ?= $(addprefix $(GRID)/parts/,small large)
## vision towers of `make grid`
VISIONS ?= $(addprefix $(GRID)/parts/,early full)
## pretraining data of `make grid`: none, and names of files of caption records in GRID
PRETRAINING ?= none captions
## what tuning changes in `make grid`: connector, full (after a fifth of the steps for the connector alone)
UPDATING ?= connector full
## question files of `make grid`: test-NAME.jsonl in GRID
GRID_SETS ?= species attributes
## which of them show general ability
GRID_GENERAL ?= attributes
## folder of the images of `make grid`
GRID_IMAGES ?= $(GRID)/images
## cells of the stairs, from the lowest step on
STAIRS ?= $(call cell,1,1,1,1) $(call cell,1,1,2,1) $(call cell,2,1,2,1) $(call cell,2,2,2,1) $(call cell,2,2,2,2)
## further options of `fgvr assemble` in `make grid`
GRID_ASSEMBLE_OPTIONS ?= --feature-layer -1
## further options of `fgvr tune` on captions in `make grid`
GRID_PRETRAIN_OPTIONS ?= --batch-size 16 --epochs 1 --lr 4e-3 --warmup-steps 5
## further options of `fgvr tune` on instructions in `make grid`
GRID_TUNE_OPTIONS ?= --batch-size 16 --epochs 1 --lr 2e-3 --warmup-steps 5 --choice-reply text
## further options of `fgvr eval` in `make grid`
GRID_EVAL_OPTIONS ?= --scoring option

stage.grid-assemble = assemble $(GRID_ASSEMBLE_OPTIONS)
stage.grid-pretrain = tune --train full --connector-warmup 1 $(seed) $(GRID_PRETRAIN_OPTIONS)
stage.grid-tune     = tune --train full $(seed) $(GRID_TUNE_OPTIONS)
stage.grid-eval     = eval $(GRID_EVAL_OPTIONS)
GRID_STAGES := grid-assemble grid-pretrain grid-tune grid-eval grid-study
# the connector alone all the way, or in the first fifth of the steps
warmup = --connector-warmup $(if $(filter connector,$(1)),1,0.2)
at     = $(or $(word $(1),$(2)),$(lastword $(2)))
cell   = $(notdir $(call at,$1,$(LLMS)))+$(notdir $(call at,$2,$(VISIONS)))+$(call at,$3,$(PRETRAINING))+$(call at,$4,$(UPDATING))
cells  = $(foreach l,$(notdir $(LLMS)),$(foreach v,$(notdir $(VISIONS)),$(foreach p,$(PRETRAINING),$(foreach u,$(UPDATING),$l+$v+$p+$u))))
grid.how = --image-root $(call quote,$(GRID_IMAGES)) --vision-cache $(GRID)/vision $(call option,--device,$(DEVICE))

# language model, vision tower
define grid.model
$(GRID)/models/$(notdir $1)+$(notdir $2): $(call files,$1) $(call files,$2) $(if $(filter $(GRID)/parts/%,$1),$1) \
  $(if $(filter $(GRID)/parts/%,$2),$2) $(GRID)/.settings/grid-assemble | $(SETUP)
	@mkdir -p $$(@D)
	$$(FGVR) $$(stage.grid-assemble) --llm $1 --vision $2 $$(call resume,$$@)
endef
# language model + tower, pretraining data
define grid.pretrained
$(GRID)/models/$1+$2: $(GRID)/$2.jsonl $(GRID)/models/$1 $(GRID)/.settings/grid-pretrain | $(SETUP)
	$$(FGVR) $$(stage.grid-pretrain) --model $(GRID)/models/$1 $$(grid.how) $$(call resume,$$@) $$<
endef
# language model + tower, pretraining, updating
define grid.cell
$(GRID)/cells/$1+$2+$3/model: $(GRID)/instructions.jsonl $(GRID)/models/$1$(if $(filter none,$2),,+$2) $(GRID)/.settings/grid-tune | $(SETUP)
	@mkdir -p $$(@D)
	$$(FGVR) $$(stage.grid-tune) $(call warmup,$3) --model $(GRID)/models/$1$(if $(filter none,$2),,+$2) $$(grid.how) $$(call resume,$$@) $$<
$(GRID)/cells/$1+$2+$3/answers.jsonl: $(GRID)/tests.jsonl $(GRID)/cells/$1+$2+$3/model $(GRID)/.settings/grid-eval | $(SETUP)
	$$(FGVR) $$(stage.grid-eval) --model $(GRID)/cells/$1+$2+$3/model --image-root $$(call quote,$$(GRID_IMAGES)) $$(how) $$(call resume,$$@) $$<
$(foreach s,$(GRID_SETS),
$(GRID)/cells/$1+$2+$3/$s.jsonl: $(GRID)/cells/$1+$2+$3/answers.jsonl
	grep '^{"set":"$s",' $$< > $$@.new && mv $$@.new $$@)
endef
pairs = $(foreach l,$(LLMS),$(foreach v,$(VISIONS),$(notdir $l)+$(notdir $v)))

stage.grid-study = study $(foreach c,$(cells),$(foreach s,$(GRID_SETS),$s/$c=$(GRID)/cells/$c/$s.jsonl)) \
	--factors 'language model,encoder,pretraining,updating' --general-sets '$(GRID_GENERAL)' $(STAIRS:%=--step %)

ifneq ($(filter grid $(GRID)/%,$(MAKECMDGOALS)),)
$(eval $(call stamps,$(GRID),$(GRID_STAGES)))
$(foreach l,$(LLMS),$(foreach v,$(VISIONS),$(eval $(call grid.model,$l,$v))))
$(foreach m,$(pairs),$(foreach p,$(filter-out none,$(PRETRAINING)),$(eval $(call grid.pretrained,$m,$p))))
$(foreach m,$(pairs),$(foreach p,$(PRETRAINING),$(foreach u,$(UPDATING),$(eval $(call grid.cell,$m,$p,$u)))))
endif

.PHONY: grid
## ablations of LLMS x VISIONS x PRETRAINING x UPDATING: table, stairs and figures
grid: $(GRID)/table.txt
	@cat $<

# one run of the model for all test sets
$(GRID)/tests.jsonl: $(GRID_SETS:%=$(GRID)/test-%.jsonl)
	{ $(foreach s,$(GRID_SETS),sed 's|^{|&"set":"$s",|' $(GRID)/test-$s.jsonl;) } > $@.new && mv $@.new $@

GRID_ANSWERS = $(foreach c,$(cells),$(GRID_SETS:%=$(GRID)/cells/$c/%.jsonl))
$(GRID)/study.jsonl: $(GRID_ANSWERS) $(GRID)/.settings/grid-study | $(SETUP)
	$(FGVR) $(stage.grid-study) --plots $(GRID)/figures -o $@

$(GRID)/table.txt: $(GRID)/study.jsonl | $(SETUP)
	$(FGVR) $(stage.grid-study) --table -o $@

# --- the toy world's parts and records ---

PARTS := $(if $(call equal,$(FGVR),$(BIN)/fgvr),$(BIN)/python examples/toy/parts.py,$(FGVR) parts)
TOY_PARTS = small large early full
$(TOY_PARTS:%=$(GRID)/parts/%): examples/toy/parts.py $(call files,examples/toy/vlm) | $(SETUP)
	@mkdir -p $(@D)
	$(PARTS) $(@D) $(@F)

# captions are of birds of other species; the split decides which records a file gets
$(GRID)/other.jsonl: | $(SETUP)
	@mkdir -p $(@D)
	$(FGVR) dataset toy --root $(GRID_IMAGES)/other --seed 1 --split train --train 30 $(call resume,$@)
$(GRID)/train.jsonl $(GRID)/test.jsonl: $(GRID)/%.jsonl: | $(SETUP)
	@mkdir -p $(@D)
	$(FGVR) dataset toy --root $(GRID_IMAGES) --split $* --train 6 --test 5 $(call resume,$@)
$(GRID)/triples.jsonl: $(GRID)/train.jsonl examples/toy/parts.py
	$(PARTS) - describe < $< > $@.new && mv $@.new $@
$(GRID)/asked.jsonl $(GRID)/test-attributes.jsonl: $(GRID)/%.jsonl: $(GRID)/train.jsonl $(GRID)/test.jsonl examples/toy/parts.py
	$(PARTS) - attributes < $(GRID)/$(if $(filter asked,$*),train,test).jsonl > $@.new && mv $@.new $@
$(GRID)/captions.jsonl: $(GRID)/other.jsonl examples/toy/parts.py
	$(PARTS) - describe < $< | sed 's|"image": *"|&other/|' | $(FGVR) questions --kinds caption -o $@
$(GRID)/mined.jsonl $(GRID)/test-mined.jsonl: $(GRID)/%.jsonl: $(GRID)/triples.jsonl $(GRID)/test.jsonl | $(SETUP)
	$(FGVR) mine-negatives --encoder $(ENCODER) --per-anchor 4 --image-root $(GRID_IMAGES) $(how) \
	  $(if $(filter test%,$*),--from $<) $(call resume,$@) $(if $(filter test%,$*),$(GRID)/test.jsonl,$<)
GRID_ASK = questions --distractors topwrong --choices 5 --question $(call quote,$(QUESTION))
$(GRID)/instructions.jsonl: $(GRID)/mined.jsonl $(GRID)/asked.jsonl
	{ $(FGVR) $(GRID_ASK) $< && cat $(GRID)/asked.jsonl; } > $@.new && mv $@.new $@
$(GRID)/test-species.jsonl: $(GRID)/test-mined.jsonl
	$(FGVR) $(GRID_ASK) --kinds mcq $(call resume,$@) $<
