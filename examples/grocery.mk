# Grocery Store. DATA holds dataset/, or is it.
#     make all DATASET=grocery DATA=/data

## super-category of the images
SUPERCLASS ?= grocery product
## what its categories are called
CLASSUNIT ?= kinds
## question that asks for the category
QUESTION ?= What kind of {superclass} is this?
## split that is trained on
TRAIN_SPLIT ?= train
## further split to read, for your own use (empty: none)
VAL_SPLIT ?= val
## split that is tested on
TEST_SPLIT ?= test
