# Images that the rows of a table name: CSV, TSV or JSONL with the columns image, category and split.
#     make all DATASET=table DATA=/images TABLE=rows.csv SUPERCLASS=bird DATASET_OPTIONS='--category-column label'

## the table (must be given)
TABLE ?=
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

EXAMPLE = make all DATASET=table DATA=/images TABLE=rows.csv SUPERCLASS=bird
REQUIRE = $(foreach v,DATA TABLE SUPERCLASS,$(if $(strip $($v)),,$(error $v is not set: $(EXAMPLE))))
DATASET_COMMAND = table --file $(call quote,$(TABLE)) --root $(call quote,$(DATA)) --superclass $(call quote,$(SUPERCLASS))
