"""Stanford Dogs (Khosla et al., 2011)."""

from __future__ import annotations

from pathlib import Path

from fgvr.datasets.spec import Archive, Category, Index, Spec, clean, mat

HERE = "http://vision.stanford.edu/aditya86/ImageNetDogs/"
# how FineR's class list has them, some misspelt
ALIASES = {
    "Chihuahua": "Chihuaha",
    "basset": "Basset Hound",
    "Ibizan hound": "Ibizian Hound",
    "wire-haired fox terrier": "Wirehaired Fox Terrier",
    "Dandie Dinmont": "Dandi Dinmont",
    "curly-coated retriever": "Curly-coater Retriever",
    "Brittany spaniel": "Brittany",
    "English springer": "English Springer Spaniel",
    "German shepherd": "German Shepard",
}


def index(at: Path, split: str, level: str) -> Index:
    """`file_list` of the split's .mat file; a category is the folder n02085620-Chihuahua without its WordNet id."""
    listed = f"{split}_list.mat"
    (files,) = mat(at / listed, "file_list")
    images = [(f"Images/{path}", str(path).partition("/")[0]) for path in files]
    names = {key: clean(key.partition("-")[2]) for key in dict.fromkeys(key for _, key in images)}
    aliases = {key: (ALIASES[name],) if name in ALIASES else () for key, name in names.items()}
    return Index({key: Category(name, aliases[key]) for key, name in names.items()}, images, listed)


SPEC = Spec(
    title="Stanford Dogs",
    superclass="dog",
    class_unit="breeds",
    question="What breed of dog is this?",
    splits={"train": 12000, "test": 8580},
    sizes=(120,),
    expects=("{split}_list.mat", "Images"),
    index=index,
    source=f"{HERE}main.html",
    terms="ImageNet's: non-commercial research and education",
    archives=(
        Archive(f"{HERE}images.tar", "1bb1f2a596ae7057f99d7d75860002ef", "Images"),
        Archive(f"{HERE}lists.tar", "edbb9f16854ec66506b5f09b583e0656", "train_list.mat"),
    ),
)
