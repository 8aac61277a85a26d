"""The embedded models can do what the chain needs, on birds and species that they never saw. docs/toy.md has the full
figures."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from fgvr import answers, prompts
from fgvr.datasets import toy
from fgvr.models import open_answerer, open_encoder
from fgvr.models.base import Answerer, Ask

SPECIES = toy.world(30, 0)


@pytest.fixture(scope="module")
def answerer(toy_vlm: Path) -> Answerer:
    return open_answerer(str(toy_vlm), device="cpu")


@pytest.fixture(scope="module")
def birds() -> list:
    return [toy.draw(species.attributes, Random(f"unseen {i}"), 96) for i, species in enumerate(SPECIES * 2)]


def test_files_are_small_safetensors(toy_vlm: Path, toy_clip: Path) -> None:
    files = [file for folder in (toy_vlm, toy_clip) for file in folder.iterdir()]
    assert sum(file.stat().st_size for file in files) <= 12_000_000
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".jinja"}


def test_attribute_questions(answerer: Answerer, birds: list) -> None:
    right = 0
    for key in toy.ATTRIBUTES:
        question = prompts.attribute_question(key, "bird")
        replies = answerer.reply([Ask(question, image) for image in birds], 8)
        right += sum(reply == species.attributes[key] for reply, species in zip(replies, SPECIES * 2, strict=True))
    assert right / (len(birds) * len(toy.ATTRIBUTES)) >= 0.9


@pytest.mark.parametrize("of", ["names", "values"])
def test_it_names_an_option_and_cannot_know_which_name(answerer: Answerer, birds: list, of: str) -> None:
    """Alignment and tuning have everything to teach: of names that it never met it picks by chance."""
    rng, names = Random(0), [species.name for species in SPECIES]
    asks, offered = [], []
    for number, (image, species) in enumerate(zip(birds, SPECIES * 2, strict=True)):
        key = list(toy.ATTRIBUTES)[number % len(toy.ATTRIBUTES)]
        wrong = rng.sample([n for n in names if n != species.name], 3)
        options = rng.sample([species.name, *wrong] if of == "names" else toy.ATTRIBUTES[key], 4)
        question = "What species of bird is this?" if of == "names" else f"What is the {key} of the bird in this image?"
        asks.append(Ask(prompts.multiple_choice(question, options), image))
        offered.append(options)
    read = [answers.read_option(reply, o) for reply, o in zip(answerer.reply(asks, 8), offered, strict=True)]
    assert sum(chosen is None for chosen in read) <= 0.02 * len(birds)
    if of == "names":
        right = [c is not None and o[c] == s.name for c, o, s in zip(read, offered, SPECIES * 2, strict=True)]
        assert 0.05 <= sum(right) / len(birds) <= 0.5  # 15 of 60 by chance


def test_letters_of_options_are_looked_up_in_text(answerer: Answerer) -> None:
    """The choice itself is no mystery to it, as long as it reads which one is meant; by chance it would be 15."""
    rng = Random(1)
    values = sorted({value for found in toy.ATTRIBUTES.values() for value in found})
    asks, letters = [], []
    for _ in range(60):
        options = rng.sample(values, 4)
        place = rng.randrange(4)
        asks.append(Ask(prompts.multiple_choice(f"Which choice is {options[place]}?", options)))
        letters.append("ABCD"[place])
    right = sum(reply == letter for reply, letter in zip(answerer.reply(asks, 4), letters, strict=True))
    assert right >= 30


def test_attributes_are_listed_and_summarised(answerer: Answerer) -> None:
    found = prompts.parse_attributes(answerer.reply([Ask(prompts.discover("bird", "species"))], 120)[0])
    assert found == list(toy.ATTRIBUTES)
    assert len(prompts.parse_attributes(answerer.reply([Ask(prompts.discover("product", "kinds"))], 120)[0])) >= 4
    right = 0
    for species, other in zip(SPECIES[:10], SPECIES[10:20], strict=True):  # whose description is wrong for it
        values = {prompts.GENERAL: toy.caption(other.attributes), **species.attributes}
        text = prompts.parse_description(answerer.reply([Ask(prompts.summarise("bird", values))], 160)[0])
        right += sum(
            f"{key} is {value}" in text.replace(" of the bird", "") for key, value in species.attributes.items()
        )
    assert right >= 95


def test_clip_tells_species_apart(toy_clip: Path, birds: list) -> None:
    encoder = open_encoder(str(toy_clip), device="cpu")
    seen = encoder.images(birds)
    nearest = (seen @ seen.T).fill_diagonal_(-2).argmax(1).tolist()
    assert sum(SPECIES[i % 30].genus == SPECIES[j % 30].genus for i, j in enumerate(nearest)) >= 0.9 * len(birds)
    read = encoder.texts([toy.caption(species.attributes) for species in SPECIES])
    found = (seen @ read.T).argmax(1).tolist()
    assert sum(SPECIES[i % 30].genus == SPECIES[j].genus for i, j in enumerate(found)) >= 0.7 * len(birds)


def test_the_measured_quality_stands_beside_the_weights(toy_vlm: Path) -> None:
    quality = json.loads((toy_vlm.parent / "quality.json").read_text())
    assert quality["attributes"] >= 0.9
    for choice in ("choice of attribute", "choice of unseen species"):
        assert quality[f"{choice}: no option named"] <= 0.02
    assert 0.15 <= quality["choice of unseen species: right"] <= 0.35
    assert quality["open-set name of unseen species: right"] == 0
