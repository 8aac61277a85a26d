"""iNaturalist 2021 (Van Horn et al., 2021), full and mini."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from fgvr.datasets.spec import Archive, Category, Index, Spec, class_folders, first
from fgvr.errors import FgvrError, reason

HERE = "https://ml-inat-competition-datasets.s3.amazonaws.com/2021/"
JSONS = ("val.json", "train_mini.json", "train.json")  # the smallest first: all name the same categories
MD5 = {
    "train": ("e0526d53c7f7b2e3167b2b43bb2690ed", "38a7bb733f7a09214d44293460ec0021"),
    "train_mini": ("db6ed8330e634445efc8fec83ae81442", "395a35be3651d86dc3b0d365b8ea5f92"),
    "val": ("f6f6e0e242e3d4c9569ba56400938afc", "4d761e0f6a86cc63e8f7afc91f6a8f0b"),
}


def index(at: Path, split: str, level: str) -> Index:
    """Folders 00000_Animalia_…_terrestris are the list; the JSON gives names, taxonomy and the wide group.

    A species is called by its common name; where two species share one, or have none, the binomial tells them apart.
    """
    import orjson

    listed = first(at, *JSONS)
    try:
        found = orjson.loads((at / listed).read_bytes())["categories"]
        common = Counter((row["common_name"] or "").casefold() for row in found)
        categories = {}
        for row in found:
            name, binomial = row["common_name"] or "", row["name"]
            shared = not name or common[name.casefold()] > 1
            categories[row["image_dir_name"]] = Category(
                (f"{name} ({binomial})" if name else binomial) if shared else name,
                (binomial,) if not shared else (),
                row["supercategory"],
                (row["genus"], row["family"], row["order"]),
                tuple(dict.fromkeys(part for part in (binomial, name) if part)),
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FgvrError(f"cannot read {at / listed}: {reason(error)}; unpack {listed}.tar.gz again") from error
    return Index(categories, class_folders(at, split))


SPEC = Spec(
    title="iNaturalist 2021",
    superclass="organism",
    class_unit="species",
    question="What species of organism is this?",
    splits={"train": 2_686_843, "train_mini": 500_000, "val": 100_000},
    sizes=(10_000,),
    expects=("|".join(JSONS), "{split}"),
    index=index,
    source="https://github.com/visipedia/inat_comp/tree/master/2021",
    terms="non-commercial research and education; not to be passed on",
    archives=tuple(
        Archive(f"{HERE}{name}.tar.gz", md5, name, (split,))
        for split, sums in MD5.items()
        for name, md5 in zip((split, f"{split}.json"), sums, strict=True)
    ),
)
