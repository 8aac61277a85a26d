# Stanford Dogs. DATA holds Images/, train_list.mat and test_list.mat.
#     make all DATASET=dogs DATA=/data

## super-category of the images
SUPERCLASS ?= dog
## what its categories are called
CLASSUNIT ?= breeds
## question that asks for the category
QUESTION ?= What breed of {superclass} is this?
## split that is trained on
TRAIN_SPLIT ?= train
## further split to read, for your own use (empty: none)
VAL_SPLIT ?=
## split that is tested on
TEST_SPLIT ?= test
