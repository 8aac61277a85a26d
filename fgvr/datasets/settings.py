"""Settings of the data sets, as fgvr.settings has those of the stages."""

from __future__ import annotations

from dataclasses import dataclass

from fgvr.settings import between, option


@dataclass(frozen=True)
class Toy:
    """The drawn world of birds."""

    species: int = option(30, "Species in the world.")
    train: int = option(20, "Training images of each species.")
    val: int = option(4, "Validation images of each species.")
    test: int = option(10, "Test images of each species.")
    size: int = option(96, "Width and height of an image in pixels.")
    seed: int = option(0, "Seed of every draw.")

    def __post_init__(self) -> None:
        between("species", self.species, 2)
        for name in ("train", "val", "test"):
            between(name, getattr(self, name), 0)
        between("size", self.size, 16, 4096)


@dataclass(frozen=True)
class Folder:
    """Images in folders, one a category."""

    hyphens_to_spaces: bool = option(False, "Turn hyphens of folder names into spaces: Red-Bell-Pepper.")
    verify: bool = option(False, "Decode every image; one that cannot be read is a bad record.")


@dataclass(frozen=True)
class Published:
    """A published data set on disk."""

    allow_partial: bool = option(False, "Take a subset: neither official counts nor every listed image is demanded.")
    verify: bool = option(False, "Decode every image; one that cannot be read is a bad record.")


@dataclass(frozen=True)
class Table:
    """Images named by the rows of a table; an option is the name of a column."""

    image_column: str = option("image", "Column of the image's path below --root.")
    category_column: str = option("category", "Column of the category's name.")
    split_column: str = option("split", 'Column of the split; "": all rows belong to --split.')
    id_column: str | None = option(None, "Column of the id, instead of the path without its suffix.")
    superordinate_column: str | None = option(None, "Column of the widest label, instead of --superclass.")
    coarse_column: str | None = option(None, 'Column of coarse labels, separated by ";".')
    fine_column: str | None = option(None, 'Column of fine labels, separated by ";", instead of the category.')
    verify: bool = option(False, "Decode every image; one that cannot be read is a bad record.")


@dataclass(frozen=True)
class Hf:
    """A data set of the `datasets` library."""

    config: str | None = option(None, "Its configuration, for a hub id that has several.")
    revision: str | None = option(None, "Branch, tag or commit of a hub id.")
    image_column: str = option("image", "Column of the image.")
    category_column: str = option("label", "Column of the category: its name, or a class label with names.")
    verify: bool = option(False, "Decode every image; one that cannot be read is a bad record.")


@dataclass(frozen=True)
class Check:
    """Leaks between files of image records."""

    near: int = option(4, "Bits of 64 in which perceptual hashes of near images may differ; -1: do not compare.")
    strict: bool = option(False, "Near images and names that may mislead are leaks, too.")
    allow: int = option(0, "Leaks that are only reported, for data sets that come with some.")
    workers: int = option(4, "Images hashed at once.", how=True)

    def __post_init__(self) -> None:
        between("near", self.near, -1, 16)
        between("allow", self.allow, 0)
        between("workers", self.workers, 1)
