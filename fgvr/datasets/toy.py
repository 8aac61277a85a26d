"""The embedded toy world: fine-grained birds drawn with Pillow.

Species of one genus differ in one or two of ten visible attributes; pose, size, light, background and flip vary from
image to image, and nothing in a name tells of an attribute. An image depends on (seed, id) alone, so shards and
reruns draw the same pixels.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from fgvr.rng import for_record

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

    from fgvr.datasets.settings import Toy

Colour = tuple[int, int, int]  # sRGB, 0 to 255
Point = tuple[float, float]
SUPERCLASS = "bird"
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "bill shape": ("conical", "needle", "hooked", "upturned"),
    "bill colour": ("black", "yellow", "red", "grey"),
    "crown colour": ("red", "black", "white", "blue"),
    "back colour": ("brown", "grey", "green", "blue"),
    "belly colour": ("white", "yellow", "orange", "grey"),
    "breast pattern": ("plain", "spotted", "striped", "banded"),
    "tail shape": ("forked", "rounded", "pointed", "square"),
    "wing bar": ("none", "white", "yellow", "double"),
    "eye ring": ("none", "white", "yellow", "red"),
    "leg colour": ("black", "yellow", "red", "blue"),
}
# sRGB of each colour word by body part family: plumage is duller than bare parts
PLUMAGE = {
    "red": (200, 38, 34),
    "black": (28, 27, 30),
    "white": (243, 241, 235),
    "blue": (48, 88, 190),
    "brown": (122, 79, 42),
    "grey": (134, 138, 144),
    "green": (70, 132, 58),
    "yellow": (238, 204, 44),
    "orange": (232, 126, 34),
}
BARE = {
    "black": (18, 18, 20),
    "yellow": (250, 206, 24),
    "red": (214, 26, 30),
    "grey": (150, 154, 160),
    "white": (250, 250, 248),
    "blue": (60, 120, 220),
}
SYLLABLES = (
    "ba",
    "bel",
    "bor",
    "da",
    "dor",
    "fa",
    "fen",
    "ga",
    "gol",
    "ha",
    "hul",
    "ja",
    "ka",
    "kel",
    "la",
    "lim",
    "ma",
    "mor",
    "na",
    "nev",
    "pa",
    "pol",
    "ra",
    "ren",
    "sa",
    "sil",
    "ta",
    "tor",
    "va",
    "vel",
    "wi",
    "za",
)
SUPERSAMPLE = 4  # canvas pixels per image pixel and axis


@dataclass(frozen=True)
class Species:
    name: str  # "Given Genus", unique in its world
    genus: str
    attributes: dict[str, str]


def word(rng: Random) -> str:
    """An invented word of two or three syllables, capitalised."""
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.choice((2, 2, 3)))).capitalize()


def world(species: int, seed: int) -> list[Species]:
    """The species of one world, in genera of about four.

    The genera differ from each other in at least four attributes; a genus is its base plus variants of one changed
    attribute, so two of its species differ in one or two.
    """
    rng = Random(f"fgvr toy world {seed}")
    genera = max(1, math.ceil(species / 4))
    bases: list[dict[str, str]] = []
    names: set[str] = set()
    found: list[Species] = []
    for index in range(genera):
        base = _far_base(rng, bases)
        bases.append(base)
        genus = _fresh(rng, names)
        size = species // genera + (index < species % genera)
        changed = rng.sample(list(ATTRIBUTES), min(size - 1, len(ATTRIBUTES)))
        variants = [base] + [
            {**base, key: rng.choice([v for v in ATTRIBUTES[key] if v != base[key]])} for key in changed
        ]
        found += [Species(f"{_fresh(rng, names)} {genus}", genus, attributes) for attributes in variants]
    return found


def _fresh(rng: Random, taken: set[str]) -> str:
    while (name := word(rng)) in taken:
        pass
    taken.add(name)
    return name


def _far_base(rng: Random, bases: list[dict[str, str]]) -> dict[str, str]:
    """Attribute values at least four (fewer when the world is crowded) changes away from every earlier base."""
    for attempt in range(10_000):
        base = {key: rng.choice(values) for key, values in ATTRIBUTES.items()}
        wanted = 4 - attempt // 2_500
        if all(sum(base[key] != other[key] for key in ATTRIBUTES) >= wanted for other in bases):
            return base
    raise ValueError("no room for another genus in the toy world; ask for fewer species")


def records(root: Path, split: str, settings: Toy) -> Iterator[dict]:
    """Draw the images of one split under `root` and yield their image records, ordered by species, then number.

    Args:
        root: the image root; an image is `<split>/<species>/<number>.png` below it.
        split: train, val or test.
        settings: counts, size in pixels and seed.
    Raises:
        ValueError: an unknown split.
    """
    counts = {"train": settings.train, "val": settings.val, "test": settings.test}
    if split not in counts:
        raise ValueError(f"--split must be one of {', '.join(counts)}, got {split!r}")
    for species in world(settings.species, settings.seed):
        slug = species.name.lower().replace(" ", "_")
        for number in range(counts[split]):
            path = f"{split}/{slug}/{number:03d}.png"
            identity = f"toy/{path[:-4]}"
            _save(draw(species.attributes, for_record(settings.seed, identity, "draw"), settings.size), root / path)
            yield {
                "id": identity,
                "image": path,
                "category": species.name,
                "superclass": SUPERCLASS,
                "split": split,
                "labels": {"superordinate": SUPERCLASS, "coarse": [species.genus], "fine": [species.name]},
                "attributes_true": dict(species.attributes),
            }


def _save(image: Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".png.partial")
    image.save(partial, format="PNG")
    partial.replace(path)


def caption(attributes: dict[str, str], superclass: str = SUPERCLASS) -> str:
    """Two attributes a sentence, in their order: the exact description that the chain's descriptions are measured
    against.

    Five sentences for the ten attributes of a bird; any other attribute map is worded the same way.
    """
    phrases = [
        f"{'The' if i % 2 == 0 else 'the'} {name}{f' of the {superclass}' if i == 0 else ''} is {value}"
        for i, (name, value) in enumerate(attributes.items())
    ]
    return " ".join(" and ".join(phrases[i : i + 2]) + "." for i in range(0, len(phrases), 2))


def draw(attributes: dict[str, str], rng: Random, size: int) -> Image:
    """One bird, `size` x `size` pixels, RGB: everything that `attributes` leaves open is drawn by `rng`."""
    from PIL import Image, ImageDraw, ImageFilter

    side = size * SUPERSAMPLE
    image = Image.new("RGB", (side, side))
    pen = ImageDraw.Draw(image)
    _background(pen, rng, side)
    image = image.filter(ImageFilter.GaussianBlur(side * rng.uniform(0.004, 0.02)))
    _Bird(ImageDraw.Draw(image), attributes, rng, side).draw()
    light = rng.uniform(0.8, 1.15)
    tint = [light * rng.uniform(0.95, 1.05) for _ in range(3)]
    table = [min(255, round(value * gain)) for gain in tint for value in range(256)]
    return image.point(table).resize((size, size), Image.Resampling.BOX)


def _background(pen: ImageDraw, rng: Random, side: int) -> None:
    """Sky, meadow, sand or wood as a vertical gradient with soft blobs: muted, so that no bird colour is told by it."""
    hue = rng.choice((0.56, 0.3, 0.12, 0.08)) + rng.uniform(-0.03, 0.03)
    top, bottom = rng.uniform(0.62, 0.9), rng.uniform(0.45, 0.8)
    bands = 24
    for band in range(bands):
        value = top + (bottom - top) * band / bands
        red, green, blue = (round(255 * c) for c in colorsys.hsv_to_rgb(hue % 1, 0.22, value))
        pen.rectangle((0, side * band / bands, side, side * (band + 1) / bands), fill=(red, green, blue))
    for _ in range(rng.randrange(3, 9)):
        x, y, r = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(0.04, 0.22) * side
        red, green, blue = (
            round(255 * c)
            for c in colorsys.hsv_to_rgb((hue + rng.uniform(-0.06, 0.06)) % 1, 0.25, rng.uniform(0.4, 0.9))
        )
        pen.ellipse((x - r, y - r * rng.uniform(0.4, 1), x + r, y + r), fill=(red, green, blue))


class _Bird:
    """Draws one bird in its own coordinates (body centre 0, 0; facing right; y down; body length 1) onto a canvas."""

    def __init__(self, pen: ImageDraw, attributes: dict[str, str], rng: Random, side: int) -> None:
        self.pen, self.a, self.rng = pen, attributes, rng
        self.scale = side * rng.uniform(0.42, 0.5)
        self.angle = math.radians(rng.uniform(-16, 12))
        self.flip = rng.choice((-1, 1))
        self.x, self.y = side * (0.5 + rng.uniform(-0.04, 0.04)), side * (0.5 + rng.uniform(-0.06, 0.04))
        self.nod = rng.uniform(-0.05, 0.04)  # how far the head is lowered
        self.plump = rng.uniform(0.27, 0.32)  # half the body's height

    def at(self, x: float, y: float) -> tuple[float, float]:
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return self.x + self.flip * self.scale * (x * cos - y * sin), self.y + self.scale * (x * sin + y * cos)

    def shape(self, points: Sequence[Point], colour: Colour) -> None:
        self.pen.polygon([self.at(*p) for p in points], fill=colour)

    def line(self, points: Sequence[Point], colour: Colour, width: float) -> None:
        self.pen.line(
            [self.at(*p) for p in points], fill=colour, width=max(1, round(width * self.scale)), joint="curve"
        )

    def oval(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        colour: Colour,
        turn: float = 0.0,
        start: float = 0.0,
        end: float = 360.0,
    ) -> None:
        steps = [math.radians(start + (end - start) * i / 48) for i in range(49)]
        cos, sin = math.cos(turn), math.sin(turn)
        self.shape(
            [
                (
                    x + rx * math.cos(t) * cos - ry * math.sin(t) * sin,
                    y + rx * math.cos(t) * sin + ry * math.sin(t) * cos,
                )
                for t in steps
            ],
            colour,
        )

    def draw(self) -> None:
        self.legs(BARE[self.a["leg colour"]])
        self.tail(_shade(PLUMAGE[self.a["back colour"]], 0.72))
        self.body()
        self.wing()
        self.head()

    def legs(self, colour: Colour) -> None:
        stride = self.rng.uniform(-0.05, 0.05)
        for x, step in ((-0.02, -stride), (0.14, stride)):
            foot = (x + step, 0.56)
            self.line([(x, self.plump - 0.06), foot], colour, 0.06)
            self.line([(foot[0] - 0.06, 0.57), (foot[0] + 0.1, 0.57)], colour, 0.05)

    def tail(self, colour: Colour) -> None:
        shapes = {
            "forked": [(-0.38, -0.1), (-0.94, -0.22), (-0.64, 0.0), (-0.94, 0.22), (-0.38, 0.12)],
            "pointed": [(-0.38, -0.12), (-0.96, 0.02), (-0.38, 0.14)],
            "square": [(-0.38, -0.09), (-0.86, -0.13), (-0.86, 0.15), (-0.38, 0.11)],
        }
        if self.a["tail shape"] == "rounded":
            self.shape([(-0.36, -0.08), (-0.7, -0.18), (-0.7, 0.2), (-0.36, 0.1)], colour)
            self.oval(-0.7, 0.01, 0.17, 0.19, colour)
        else:
            self.shape(shapes[self.a["tail shape"]], colour)

    def body(self) -> None:
        back, belly = PLUMAGE[self.a["back colour"]], PLUMAGE[self.a["belly colour"]]
        self.oval(0, 0, 0.5, self.plump, back)
        self.oval(0.04, 0.0, 0.46, self.plump, belly, start=-8, end=188)
        self.oval(0.30, -0.02, 0.19, 0.2, belly)
        mark = (40, 32, 30)
        pattern = self.a["breast pattern"]
        if pattern == "spotted":
            for x, y in ((0.3, -0.06), (0.4, 0.02), (0.28, 0.06), (0.16, 0.1), (0.36, 0.13), (0.23, 0.18), (0.1, 0.21)):
                self.oval(x, y, 0.032, 0.032, mark)
        elif pattern == "striped":
            for x in (0.12, 0.21, 0.30, 0.39):
                self.line([(x, -0.02 if x > 0.2 else 0.08), (x - 0.02, 0.22 if x < 0.35 else 0.14)], mark, 0.034)
        elif pattern == "banded":
            self.line([(0.46, -0.04), (0.36, 0.06), (0.26, 0.22)], mark, 0.1)

    def wing(self) -> None:
        colour = _shade(PLUMAGE[self.a["back colour"]], 0.82)
        self.oval(-0.14, -0.05, 0.34, 0.16, colour, turn=-0.12)
        bar = self.a["wing bar"]
        if bar != "none":
            self.line([(-0.06, -0.19), (-0.13, 0.09)], BARE["yellow" if bar == "yellow" else "white"], 0.06)
        if bar == "double":
            self.line([(-0.22, -0.17), (-0.29, 0.1)], BARE["white"], 0.06)

    def head(self) -> None:
        x, y, r = 0.46, -0.3 + self.nod, 0.2
        self.bill(x + 0.17, y + 0.01)
        self.oval(x, y, r, r, PLUMAGE[self.a["back colour"]])
        self.oval(x - 0.01, y - 0.015, r + 0.012, r + 0.012, PLUMAGE[self.a["crown colour"]], start=180, end=345)
        eye_x, eye_y = x + 0.07, y + 0.035
        if self.a["eye ring"] != "none":
            self.oval(eye_x, eye_y, 0.075, 0.075, BARE[self.a["eye ring"]])
        self.oval(eye_x, eye_y, 0.04, 0.04, (12, 10, 10))

    def bill(self, x: float, y: float) -> None:
        colour = BARE[self.a["bill colour"]]
        shape = self.a["bill shape"]
        if shape == "conical":
            self.shape([(x - 0.05, y - 0.13), (x + 0.2, y + 0.02), (x - 0.05, y + 0.13)], colour)
        elif shape == "needle":
            self.shape([(x - 0.03, y - 0.05), (x + 0.37, y - 0.01), (x + 0.37, y + 0.01), (x - 0.03, y + 0.05)], colour)
        elif shape == "hooked":
            self.shape(
                [
                    (x - 0.05, y - 0.11),
                    (x + 0.16, y - 0.11),
                    (x + 0.26, y - 0.02),
                    (x + 0.25, y + 0.2),
                    (x + 0.14, y + 0.06),
                    (x - 0.05, y + 0.08),
                ],
                colour,
            )
        else:
            self.line([(x - 0.02, y), (x + 0.12, y - 0.07), (x + 0.24, y - 0.14), (x + 0.32, y - 0.26)], colour, 0.075)


def _shade(colour: Colour, factor: float) -> Colour:
    return (round(colour[0] * factor), round(colour[1] * factor), round(colour[2] * factor))
