"""The toy world: fine-grained, deterministic by id, and silent about attributes in its names."""

from __future__ import annotations

import itertools
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from fgvr.datasets import toy
from fgvr.datasets.settings import Toy


def distance(a: toy.Species, b: toy.Species) -> int:
    return sum(a.attributes[key] != b.attributes[key] for key in toy.ATTRIBUTES)


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_species_of_a_genus_differ_in_one_or_two_attributes(seed: int) -> None:
    world = toy.world(30, seed)
    assert len(world) == 30 and len({s.genus for s in world}) == 8
    assert len({s.name for s in world}) == 30
    for a, b in itertools.combinations(world, 2):
        if a.genus == b.genus:
            assert 1 <= distance(a, b) <= 2, (a, b)
        else:
            assert distance(a, b) >= 2, (a, b)
    assert all(s.name.split()[1] == s.genus for s in world)


@pytest.mark.parametrize("species", [2, 3, 9, 48])
def test_worlds_of_any_size(species: int) -> None:
    world = toy.world(species, 0)
    assert len({s.name for s in world}) == species
    assert len({tuple(s.attributes.values()) for s in world}) == species


def test_names_say_nothing_of_attributes() -> None:
    words = {word for values in toy.ATTRIBUTES.values() for value in values for word in value.split()}
    words |= {word for name in toy.ATTRIBUTES for word in name.split()}
    for species in toy.world(48, 0):
        assert not words & set(species.name.lower().split())


def test_records_and_images_depend_on_seed_and_id_alone(tmp_path: Path) -> None:
    few, many = Toy(species=4, train=2, test=1), Toy(species=4, train=3, test=2)
    first = list(toy.records(tmp_path / "a", "train", few))
    second = list(toy.records(tmp_path / "b", "train", many))
    assert [r["id"] for r in first] == [r["id"] for r in second if not r["id"].endswith("002")]
    for record in first:
        assert (tmp_path / "a" / record["image"]).read_bytes() == (tmp_path / "b" / record["image"]).read_bytes()
    other = next(iter(toy.records(tmp_path / "c", "train", Toy(species=4, train=1, seed=1))))
    assert other["category"] != first[0]["category"]


def test_a_record_has_labels_at_three_levels_and_its_attributes(tmp_path: Path) -> None:
    record = next(iter(toy.records(tmp_path, "test", Toy(species=4, test=1, size=64))))
    species = toy.world(4, 0)[0]
    assert record["split"] == "test" and record["superclass"] == "bird" and record["category"] == species.name
    assert record["labels"] == {"superordinate": "bird", "coarse": [species.genus], "fine": [species.name]}
    assert record["attributes_true"] == species.attributes
    with Image.open(tmp_path / record["image"]) as image:
        assert (image.size, image.mode) == ((64, 64), "RGB")


def test_images_of_a_species_vary_and_every_attribute_shows() -> None:
    base = toy.world(30, 0)[0].attributes
    drawn = [np.asarray(toy.draw(base, Random(i), 96), dtype=int) for i in range(6)]
    for a, b in itertools.combinations(drawn, 2):
        assert np.abs(a - b).mean() > 5
    for key, values in toy.ATTRIBUTES.items():
        pictures = [np.asarray(toy.draw({**base, key: value}, Random(1), 96), dtype=int) for value in values]
        for a, b in itertools.combinations(pictures, 2):
            changed = (np.abs(a - b).max(axis=2) > 12).sum()  # a grey bill before a grey sky shows little
            assert changed >= 8, (key, changed)


def test_a_caption_states_every_attribute_in_five_sentences() -> None:
    species = toy.world(30, 0)[3]
    text = toy.caption(species.attributes)
    assert text.count(".") == 5
    for key, value in species.attributes.items():
        assert f"{key} of the bird is {value}" in text or f"{key} is {value}" in text
    assert toy.caption({"colour": "red"}, "product") == "The colour of the product is red."


def test_an_unknown_split_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train, val, test"):
        next(toy.records(tmp_path, "dev", Toy()))
