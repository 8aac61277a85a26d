# Finedefics' ablations (arXiv 2501.15140, Tables 3 and 6), over seeds. A cell is the chain from align on, in a RUN of its own;
# what comes before is made once, in the ordinary RUN, and linked in.

## seeds of `make ablations`: of align, tune and the questions that they learn
SEEDS ?= 0 1 2
## what `make ablations` trains, each with each seed (docs/training.md)
VARIANTS ?= tune align align-released object-category simple one-stage
## further options of align in the cells of one-stage
ONE_STAGE_OPTIONS ?=

ABLATIONS = $(RUN)-ablations
ABLATED = $(foreach s,$(SEEDS),$(VARIANTS:%=%@$s))

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
# $(call ablation,VARIANT@SEED)
ablation = RUN=$(ABLATIONS)/$1 TRAIN_SEED=$(lastword $(subst @, ,$1)) IMAGES=$(call quote,$(IMAGES)) \
	ALIGN_OPTIONS=$(call quote,$(ALIGN_OPTIONS) $(align.$(variant)) --vision-cache $(ABLATIONS)/vision) \
	TUNE_OPTIONS=$(call quote,$(TUNE_OPTIONS) --vision-cache $(ABLATIONS)/vision) $(call cell.$(variant),$(ABLATIONS)/$1)

LINKED  := $(addsuffix .jsonl,train test leaks attrs extracted triples mined test-mined questions-test)
UNTUNED := predictions-before.jsonl probe-before.jsonl
STAMPS  := $(addprefix .settings/,train test check discover-attrs extract-attrs summarise mine-negatives questions-test)
# under -n nothing is linked: what is not there is taken to be
dry      = $(findstring n,$(filter-out --%,$(firstword -$(MAKEFLAGS))))

.PHONY: ablations ablations-data $(ABLATED)
## train and test Finedefics' ablations on DATASET with several seeds, and print the table (it is long)
ablations: $(ABLATED)
	$(FGVR) score --seeds $(UNTUNED:%=--compare untuned=$(RUN)/%) --name $(lastword $(ABLATED)) \
	  $(foreach c,$(ABLATED),--compare $c=$(ABLATIONS)/$c/probe.jsonl) \
	  $(foreach c,$(filter-out $(lastword $(ABLATED)),$(ABLATED)),--compare $c=$(ABLATIONS)/$c/predictions.jsonl) \
	  -o $(ABLATIONS)/metrics.jsonl $(ABLATIONS)/$(lastword $(ABLATED))/predictions.jsonl
	for form in md txt; do \
	  $(FGVR) score --table --beside examples/papers/ablations.csv -o $(ABLATIONS)/table.$$form \
	    --columns 'mcq accuracy,open exact match,objects alignment quality,objects modality gap' $(ABLATIONS)/metrics.jsonl; done
	@cat $(ABLATIONS)/table.txt

ablations-data:
	$(foreach v,$(filter-out $(KNOWN),$(VARIANTS)),$(error unknown variant '$v'; there are: $(sort $(KNOWN))))
	$(MAKE) $(addprefix $(RUN)/,$(LINKED) $(UNTUNED))

$(ABLATED): ablations-data
	@mkdir -p $(ABLATIONS)/$@/.settings
	@from=$$(cd $(RUN) && pwd); for file in $(LINKED) $(LINKED:%=%.run.json) $(STAMPS); do \
	  ln -sf "$$from/$$file" $(ABLATIONS)/$@/$$file; done
	$(MAKE) $(call ablation,$@) $(addprefix $(ABLATIONS)/$@/,predictions.jsonl probe.jsonl) \
	  $(if $(dry),$(foreach file,$(LINKED:%=$(ABLATIONS)/$@/%),$(if $(wildcard $(file)),,-o $(file))))
