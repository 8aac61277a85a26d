# Finedefics' ablations (arXiv 2501.15140, Tables 3 and 6), over seeds. A cell is the chain from align on, in a RUN of its own;
# what comes before is made once, in the ordinary RUN, and linked in.

## seeds of `make ablations`: of align, tune and the questions that they learn
SEEDS ?= 0 1 2
## what `make ablations` trains, each with each seed (docs/training.md)
VARIANTS ?= tune align align-released object-category simple one-stage
## further options of align in the cells of one-stage
ONE_STAGE_OPTIONS ?=

GRID  = $(RUN)-ablations
CELLS = $(foreach s,$(SEEDS),$(VARIANTS:%=%@$s))

# of each variant: further options of align, and what else its cell says, $1 being the cell's folder
align.tune            =
align.align           =
align.align-released  = --loss-form released --temperature 0.07
align.object-category = --pairs object-category
align.simple          = --negatives simple
align.one-stage       = $(ONE_STAGE_OPTIONS)
cell.tune             = ALIGNED=
cell.align            =
cell.align-released   =
cell.object-category  =
cell.simple           =
cell.one-stage        = ALIGN_QUESTIONS=$1/questions.jsonl TUNED=$1/align
KNOWN := $(patsubst align.%,%,$(filter align.%,$(.VARIABLES)))

variant = $(firstword $(subst @, ,$1))
# $(call cell,VARIANT@SEED)
cell = RUN=$(GRID)/$1 TRAIN_SEED=$(lastword $(subst @, ,$1)) IMAGES=$(call quote,$(IMAGES)) \
	ALIGN_OPTIONS=$(call quote,$(ALIGN_OPTIONS) $(align.$(variant)) --vision-cache $(GRID)/vision) \
	TUNE_OPTIONS=$(call quote,$(TUNE_OPTIONS) --vision-cache $(GRID)/vision) $(call cell.$(variant),$(GRID)/$1)

LINKED  := $(addsuffix .jsonl,train test leaks attrs extracted triples mined test-mined questions-test)
UNTUNED := predictions-before.jsonl probe-before.jsonl
STAMPS  := $(addprefix .settings/,train test check discover-attrs extract-attrs summarise mine-negatives questions-test)
# under -n nothing is linked: what is not there is taken to be
dry      = $(findstring n,$(filter-out --%,$(firstword -$(MAKEFLAGS))))

.PHONY: ablations ablations-data $(CELLS)
## train and test Finedefics' ablations on DATASET with several seeds, and print the table (it is long)
ablations: $(CELLS)
	$(FGVR) score --seeds $(UNTUNED:%=--compare untuned=$(RUN)/%) --name $(lastword $(CELLS)) \
	  $(foreach c,$(CELLS),--compare $c=$(GRID)/$c/probe.jsonl) \
	  $(foreach c,$(filter-out $(lastword $(CELLS)),$(CELLS)),--compare $c=$(GRID)/$c/predictions.jsonl) \
	  -o $(GRID)/metrics.jsonl $(GRID)/$(lastword $(CELLS))/predictions.jsonl
	for form in md txt; do \
	  $(FGVR) score --table --beside examples/papers/ablations.csv -o $(GRID)/table.$$form \
	    --columns 'mcq accuracy,open exact match,objects alignment quality,objects modality gap' $(GRID)/metrics.jsonl; done
	@cat $(GRID)/table.txt

ablations-data:
	$(foreach v,$(filter-out $(KNOWN),$(VARIANTS)),$(error unknown variant '$v'; there are: $(sort $(KNOWN))))
	$(MAKE) $(addprefix $(RUN)/,$(LINKED) $(UNTUNED))

$(CELLS): ablations-data
	@mkdir -p $(GRID)/$@/.settings
	@from=$$(cd $(RUN) && pwd); for file in $(LINKED) $(LINKED:%=%.run.json) $(STAMPS); do \
	  ln -sf "$$from/$$file" $(GRID)/$@/$$file; done
	$(MAKE) $(call cell,$@) $(addprefix $(GRID)/$@/,predictions.jsonl probe.jsonl) \
	  $(if $(dry),$(foreach file,$(LINKED:%=$(GRID)/$@/%),$(if $(wildcard $(file)),,-o $(file))))
