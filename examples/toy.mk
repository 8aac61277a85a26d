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

# The paper's settings are for 8 billion parameters and 38,525 images. A small model with 480 images needs more passes at a
# larger rate, and it answers choices by their text (docs/toy.md).
DATASET_OPTIONS ?= --train 16
ALIGN_OPTIONS   ?= --batch-size 24 --epochs 2 --lr 1e-3 --warmup-steps 4 --temperature 0.1 --rank 16 --alpha 32 --dropout 0
TUNE_OPTIONS    ?= --batch-size 32 --epochs 6 --lr 2e-3 --warmup-steps 10 --choice-reply text
EVAL_OPTIONS    ?= --choose text
BATCH           ?= 192
