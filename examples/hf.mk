# A data set of the library `datasets`: DATA is a hub id, a parquet file or a folder of them. Its images go to RUN/images.
#     make all DATASET=hf DATA=org/birds SUPERCLASS=bird DATASET_OPTIONS='--category-column species --revision 1a2b3c'

## super-category of the images, in the singular (must be given)
SUPERCLASS ?=
## what its categories are called
CLASSUNIT ?= kinds
## question that asks for the category
QUESTION ?= What kind of {superclass} is this?
## split that is trained on
TRAIN_SPLIT ?= train
## further split to read, for your own use (empty: none)
VAL_SPLIT ?=
## split that is tested on
TEST_SPLIT ?= test

IMAGES  = $(RUN)/images
EXAMPLE = make all DATASET=hf DATA=org/birds SUPERCLASS=bird
REQUIRE = $(foreach v,DATA SUPERCLASS,$(if $(strip $($v)),,$(error $v is not set: $(EXAMPLE))))
DATASET_COMMAND = hf --from $(call quote,$(DATA)) --root $(IMAGES) --superclass $(call quote,$(SUPERCLASS))
