# NABirds. DATA holds nabirds/, or is it.
#     make all DATASET=nabirds DATA=/data

## super-category of the images
SUPERCLASS ?= bird
## what its categories are called
CLASSUNIT ?= species
## question that asks for the category
QUESTION ?= What species of {superclass} is this?
## split that is trained on
TRAIN_SPLIT ?= train
## further split to read, for your own use (empty: none)
VAL_SPLIT ?=
## split that is tested on
TEST_SPLIT ?= test
