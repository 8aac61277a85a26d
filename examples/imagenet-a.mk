# ImageNet-A. DATA holds imagenet-a/ and, for training, the train/ of ImageNet-1k.
#     make all DATASET=imagenet-a DATA=/data

## super-category of the images
SUPERCLASS ?= object
## what its categories are called
CLASSUNIT ?= types
## question that asks for the category
QUESTION ?= What type of {superclass} is in this photo?
## split that is trained on
TRAIN_SPLIT ?= train
## further split to read, for your own use (empty: none)
VAL_SPLIT ?=
## split that is tested on
TEST_SPLIT ?= test

TRAIN_COMMAND = imagenet --root $(call quote,$(DATA))
