# Included where MODEL is the embedded model. The paper's settings are for 8 billion parameters and 38,525 images: a small model
# with a few hundred needs more passes at a larger rate, and learns the answers to choices by their text (docs/toy.md).
ALIGN_OPTIONS ?= --batch-size 24 --epochs 2 --lr 1e-3 --warmup-steps 4 --temperature 0.1 --rank 16 --alpha 32 --dropout 0
TUNE_OPTIONS  ?= --batch-size 32 --epochs 6 --lr 2e-3 --warmup-steps 10 --choice-reply text
# one stage meets each question as often, and at the same rate, as tune does
ONE_STAGE_OPTIONS ?= --epochs 6 --lr 2e-3 --warmup-steps 10 --choice-reply text
