# The embedded toy world: drawn birds of thirty species. Nothing is downloaded, a CPU is enough.

## super-category of the images
SUPERCLASS ?= bird
## what its categories are called
CLASSUNIT ?= species
## question that asks for the category
QUESTION ?= What species of {superclass} is this?

TRAIN_SPLIT := train
VAL_SPLIT   := val
TEST_SPLIT  := test
IMAGES       = $(RUN)/images
# files with attributes_true, against which attributes and descriptions are scored: only a drawn world has them
SCORED       = $(RUN)/triples.jsonl
REQUIRE     :=
DATASET_COMMAND = toy --root $(IMAGES) $(seed)

DATASET_OPTIONS ?= --train 16
BATCH           ?= 192
