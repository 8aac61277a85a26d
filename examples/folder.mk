# Your own photographs: class folders inside split folders under DATA.
#     make all DATASET=folder DATA=/photos/grocery SUPERCLASS=product CLASSUNIT=kinds RUN=runs/grocery

## super-category of the images, in the singular (must be given)
SUPERCLASS ?=
## what its categories are called
CLASSUNIT ?= kinds
## question that asks for the category
QUESTION ?= What kind of {superclass} is this?
## folder of DATA with the training images
TRAIN_SPLIT ?= train
## folder of DATA with the validation images (empty: none)
VAL_SPLIT ?= val
## folder of DATA with the test images
TEST_SPLIT ?= test

REQUIRE = $(if $(strip $(DATA)),,$(error DATA is not set: make all DATASET=folder DATA=/photos SUPERCLASS=product))$(strip \
          )$(if $(strip $(SUPERCLASS)),,$(error SUPERCLASS is not set: make all DATASET=folder DATA=/photos SUPERCLASS=product))
DATASET_COMMAND = folder --root $(call quote,$(DATA)) --superclass $(call quote,$(SUPERCLASS))
