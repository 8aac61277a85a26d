# Food-101. DATA holds food-101/, or is it.
#     make all DATASET=food101 DATA=/data

## super-category of the images
SUPERCLASS ?= dish
## what its categories are called
CLASSUNIT ?= dishes
## question that asks for the category
QUESTION ?= What {superclass} is this?
## split that is trained on
TRAIN_SPLIT ?= train
## further split to read, for your own use (empty: none)
VAL_SPLIT ?=
## split that is tested on
TEST_SPLIT ?= test
