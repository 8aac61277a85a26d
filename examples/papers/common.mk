# What the papers' targets share; read before them.

## models of `make study`, apart by spaces
MODELS ?= $(MODEL)
## data sets of `make study`, `make granularity` and `make modality-gap`, apart by spaces
DATASETS ?= $(DATASET)
## folder with a folder of images for each data set, under its name
DATA_ROOT ?=

# a model as a folder's name; the folder of a data set
base = $(notdir $(subst :,/,$(1)))
data = DATA=$(call quote,$(if $(DATA_ROOT),$(DATA_ROOT)/$(1),$(DATA)))
