"""Opening an image file safely: which odd images are read, and as what; which are errors, and with which words.

Read:
    EXIF rotation is applied. Everything becomes 8-bit RGB: palette, grey and CMYK through Pillow's conversion, 16-bit
    grey scaled to 8 bits (Pillow's own conversion clips it), transparency laid on white. Of an animation or a
    many-page file the first frame is read. Any shape is read as long as width x height stays within `max_pixels`.
Errors (RecordError, one line):
    a path that is absolute or leaves the root (through `..` or a link), a file that is missing, empty, truncated, no
    image, of a format not listed below, larger than `max_pixels`, or 32-bit.
"""

from __future__ import annotations

import functools
import os
import stat
from pathlib import Path

from PIL import Image, ImageOps

from fgvr.errors import RecordError

MAX_PIXELS = 50_000_000
# What photographs come as. Pillow knows more formats, some of which start other programs (EPS runs ghostscript).
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jp2", ".avif")
ORIENTATION = 0x0112
Image.init()  # registers all of FORMATS, not just the commonest


def locate(root: str | Path, path: str) -> Path:
    """The file that an image path of a record means.

    Raises:
        RecordError: the path is absolute or leads out of the root, or there is no regular, non-empty file.
    """
    shown = f"image {path!r}"
    if "\0" in path or os.path.isabs(path):
        raise RecordError(f"{shown} is not a path relative to --image-root; correct the record")
    base = os.path.realpath(root)
    full = os.path.realpath(os.path.join(base, path))
    if os.path.commonpath([base, full]) != base:
        raise RecordError(f"{shown} leaves --image-root; copy the file below it")
    try:
        info = os.stat(full)
    except OSError as error:
        raise RecordError(f"cannot read {shown}: {(error.strerror or '').lower()}; check --image-root") from error
    if not stat.S_ISREG(info.st_mode):
        raise RecordError(f"cannot read {shown}: not a regular file; correct the record")
    if not info.st_size:
        raise RecordError(f"cannot read {shown}: the file is empty; replace it")
    return Path(full)


def open_image(
    root: str | Path, relative_path: str, max_pixels: int = MAX_PIXELS, size: int | None = None
) -> Image.Image:
    """An image of a record as 8-bit RGB, rotated upright.

    Args:
        root: the folder of --image-root.
        relative_path: the record's `image`.
        max_pixels: largest width x height.
        size: pixels; a JPEG may be decoded at a reduced scale as long as neither side falls below `size`. Faster, but
            not bit-equal to decoding all and scaling, hence only on request.
    Raises:
        RecordError: see the module's docstring.
    """
    file = locate(root, relative_path)
    shown = f"image {relative_path!r}"
    try:
        with Image.open(file, formats=_formats()) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise RecordError(f"{shown} has {width} x {height} pixels, more than {max_pixels}; scale it down")
            if size is not None:
                image.draft(image.mode, (size, size))
            image.load()
            return _rgb(_upright(image), shown)
    except (RecordError, MemoryError):
        raise
    except Image.UnidentifiedImageError as error:
        raise RecordError(f"cannot read {shown}: not an image; replace it") from error
    except Image.DecompressionBombError as error:
        raise RecordError(f"{shown} has far more than {max_pixels} pixels; scale it down") from error
    except Exception as error:  # damaged files make Pillow's readers raise nearly anything
        why = " ".join(str(error).split())[:120] or type(error).__name__
        raise RecordError(f"cannot decode {shown}: {why[:1].lower()}{why[1:]}; replace it") from error


@functools.cache
def _formats() -> list[str]:
    """Those of FORMATS that this Pillow was built with."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(ORIENTATION, 1) in range(2, 9)
    except Exception:  # damaged EXIF says nothing about the pixels
        return image
    return ImageOps.exif_transpose(image) if turned else image


def _rgb(image: Image.Image, shown: str) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        image = _from_16_bit(image, shown)
    elif image.mode == "F":
        raise RecordError(f"{shown} has 32-bit floating-point pixels; convert it to 8 or 16 bits")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def _from_16_bit(image: Image.Image, shown: str) -> Image.Image:
    """Grey 0 … 65535 to 0 … 255, rounded."""
    import numpy as np

    pixels = np.asarray(image).astype(np.int64)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise RecordError(f"{shown} has 32-bit pixels; convert it to 8 or 16 bits")
    return Image.fromarray(((pixels * 255 + 32767) // 65535).astype(np.uint8))
