# Stanford Cars. DATA holds devkit/, cars_train/, cars_test/ and cars_test_annos_withlabels.mat.
#     make all DATASET=cars DATA=/data

## super-category of the images
SUPERCLASS ?= car
## what its categories are called
CLASSUNIT ?= models
## question that asks for the category
QUESTION ?= What model of {superclass} is this?
## split that is trained on
TRAIN_SPLIT ?= train
## further split to read, for your own use (empty: none)
VAL_SPLIT ?=
## split that is tested on
TEST_SPLIT ?= test
