"""Oxford Flowers-102 (Nilsback and Zisserman, 2008)."""

from __future__ import annotations

from pathlib import Path

from fgvr.datasets.spec import Archive, Category, Index, Spec, mat

HERE = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
# the archive numbers its categories; these names, in this order, are torchvision's and those of all benchmarks
_TEXT = """
pink primrose, hard-leaved pocket orchid, canterbury bells, sweet pea, english marigold, tiger lily, moon orchid,
bird of paradise, monkshood, globe thistle, snapdragon, colt's foot, king protea, spear thistle, yellow iris, globe
flower, purple coneflower, peruvian lily, balloon flower, giant white arum lily, fire lily, pincushion flower,
fritillary, red ginger, grape hyacinth, corn poppy, prince of wales feathers, stemless gentian, artichoke, sweet
william, carnation, garden phlox, love in the mist, mexican aster, alpine sea holly, ruby-lipped cattleya, cape
flower, great masterwort, siam tulip, lenten rose, barbeton daisy, daffodil, sword lily, poinsettia, bolero deep
blue, wallflower, marigold, buttercup, oxeye daisy, common dandelion, petunia, wild pansy, primula, sunflower,
pelargonium, bishop of llandaff, gaura, geranium, orange dahlia, pink and yellow dahlia, cautleya spicata, japanese
anemone, black-eyed susan, silverbush, californian poppy, osteospermum, spring crocus, bearded iris, windflower,
tree poppy, gazania, azalea, water lily, rose, thorn apple, morning glory, passion flower, lotus, toad lily,
anthurium, frangipani, clematis, hibiscus, columbine, desert-rose, tree mallow, magnolia, cyclamen, watercress,
canna lily, hippeastrum, bee balm, air plant, foxglove, bougainvillea, camellia, mallow, mexican petunia, bromelia,
blanket flower, trumpet creeper, blackberry lily
"""
NAMES = _TEXT.replace("\n", " ").strip().split(", ")
ALIASES = {"pink and yellow dahlia": ("pink-yellow dahlia",), "air plant": ("ball moss",)}
SETS = {"train": ("trnid",), "val": ("valid",), "trainval": ("trnid", "valid"), "test": ("tstid",)}


def index(at: Path, split: str, level: str) -> Index:
    """imagelabels.mat numbers the category of each image, setid.mat the images of each split."""
    (labels,) = mat(at / "imagelabels.mat", "labels")
    numbers = sorted(int(number) for part in mat(at / "setid.mat", *SETS[split]) for number in part)
    labelled = {n: str(label) for n, label in enumerate(labels, 1)}
    categories = {str(n): Category(name, ALIASES.get(name, ())) for n, name in enumerate(NAMES, 1)}
    images = [(f"jpg/image_{n:05d}.jpg", labelled[n]) for n in numbers]
    return Index(categories, images, "setid.mat")


SPEC = Spec(
    title="Oxford Flowers-102",
    superclass="flower",
    class_unit="species",
    question="What species of flower is this?",
    splits={"train": 1020, "val": 1020, "trainval": 2040, "test": 6149},
    sizes=(102,),
    expects=("imagelabels.mat", "setid.mat", "jpg"),
    index=index,
    source=HERE,
    terms="no licence given; images found on the web",
    inside=("flowers-102",),
    archives=(
        Archive(f"{HERE}102flowers.tgz", "52808999861908f626f3c1f4e79d11fa", "jpg"),
        Archive(f"{HERE}imagelabels.mat", "e0620be6f572b9609742df49c70aed4d", "imagelabels.mat"),
        Archive(f"{HERE}setid.mat", "a5357ecc9cb78c4bef273ce3793fc85c", "setid.mat"),
    ),
)
