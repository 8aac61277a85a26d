"""CUB-200-2011's annotated attributes (Wah et al., 2011): 312 binary ones, values of 28 attributes, for each image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fgvr.errors import FgvrError

SURE = 3  # certainty from which an annotation counts: 1 not visible, 2 guessing, 3 probably, 4 definitely


def truth(root: str | Path) -> dict[str, dict[str, str]]:
    """Image path as in images.txt ("001.Black_footed_Albatross/….jpg") -> {attribute: values joined by "and"}.

    Args:
        root: the folder CUB_200_2011, with attributes/ inside and attributes.txt inside or beside it.
    Raises:
        FgvrError: a file is missing or a line is not as it should be.
    """
    at = Path(root)
    places = [at / "attributes.txt", at / "attributes" / "attributes.txt", at.parent / "attributes.txt"]
    listed = next((path for path in places if path.is_file()), places[0])
    names = {words[0]: named(words[1]) for words in _lines(listed, 2)}
    images = {words[0]: words[1] for words in _lines(at / "images.txt", 2)}
    found: dict[str, dict[str, str]] = {path: {} for path in images.values()}
    for words in _lines(at / "attributes" / "image_attribute_labels.txt", 4):
        image, attribute, present, certainty = words[:4]
        if image not in images or attribute not in names:
            raise FgvrError(f"{at}: image {image} or attribute {attribute} is in no list; unpack the archive again")
        if present == "1" and int(certainty) >= SURE:
            name, value = names[attribute]
            own = found[images[image]]
            own[name] = f"{own[name]} and {value}" if name in own else value
    return found


def named(text: str) -> tuple[str, str]:
    """ "has_bill_shape::curved_(up_or_down)" -> ("bill shape", "curved (up or down)")."""
    name, _, value = text.partition("::")
    return name.removeprefix("has_").replace("_", " "), value.replace("_", " ")


def _lines(path: Path, least: int) -> Iterator[list[str]]:
    """The words of each line. The archive's own file has a few lines with more words than it should; what is needed
    stands first."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise FgvrError(
            f"cannot read {path}: {(error.strerror or '').lower()}; name the folder CUB_200_2011"
        ) from error
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if words and (len(words) < least or not words[0].isdigit()):
            raise FgvrError(f"{path}:{number}: {line[:40]!r} is not as in CUB-200-2011; unpack the archive again")
        if words:
            yield words
