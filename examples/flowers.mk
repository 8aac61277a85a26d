# Oxford Flowers-102. DATA holds jpg/, imagelabels.mat and setid.mat. Trained on train and val, as Finedefics.
#     make all DATASET=flowers DATA=/data

## super-category of the images
SUPERCLASS ?= flower
## what its categories are called
CLASSUNIT ?= species
## question that asks for the category
QUESTION ?= What species of {superclass} is this?
## split that is trained on
TRAIN_SPLIT ?= trainval
## further split to read, for your own use (empty: none)
VAL_SPLIT ?=
## split that is tested on
TEST_SPLIT ?= test
