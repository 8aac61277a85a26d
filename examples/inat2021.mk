# iNaturalist 2021. DATA holds train_mini/, val/ and val.json. All of it: TRAIN_SPLIT=train.
#     make all DATASET=inat2021 DATA=/data

## super-category of the images
SUPERCLASS ?= organism
## what its categories are called
CLASSUNIT ?= species
## question that asks for the category
QUESTION ?= What species of {superclass} is this?
## split that is trained on
TRAIN_SPLIT ?= train_mini
## further split to read, for your own use (empty: none)
VAL_SPLIT ?=
## split that is tested on
TEST_SPLIT ?= val
