# Oxford-IIIT Pet. DATA holds images/ and annotations/.
#     make all DATASET=pets DATA=/data

## super-category of the images
SUPERCLASS ?= pet
## what its categories are called
CLASSUNIT ?= breeds
## question that asks for the category
QUESTION ?= What breed of {superclass} is this?
## split that is trained on
TRAIN_SPLIT ?= trainval
## further split to read, for your own use (empty: none)
VAL_SPLIT ?=
## split that is tested on
TEST_SPLIT ?= test
