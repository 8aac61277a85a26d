# FGVC-Aircraft. DATA holds fgvc-aircraft-2013b/, or is it. Families: DATASET_OPTIONS="--level family" CLASSUNIT=families.
#     make all DATASET=aircraft DATA=/data

## super-category of the images
SUPERCLASS ?= aircraft
## what its categories are called
CLASSUNIT ?= models
## question that asks for the category
QUESTION ?= What model of {superclass} is this?
## split that is trained on
TRAIN_SPLIT ?= trainval
## further split to read, for your own use (empty: none)
VAL_SPLIT ?=
## split that is tested on
TEST_SPLIT ?= test
