"""fgvr.images: every odd file is either read as its docstring says, or refused with one clear line."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fgvr import images
from fgvr.datasets import folder
from fgvr.errors import RecordError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)


def photo(width: int = 64, height: int = 48) -> Image.Image:
    """Left half red, right half blue, with a green top row of blocks: every rotation shows."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    image.paste(GREEN, (0, 0, width // 2, height // 2))
    return image


def close(got: tuple[int, ...], want: tuple[int, int, int], by: int = 12) -> bool:
    return all(abs(a - b) <= by for a, b in zip(got, want, strict=True))


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    w, h = image.size
    return [image.getpixel(at) for at in ((4, 4), (w - 5, 4), (4, h - 5), (w - 5, h - 5))]  # type: ignore[misc]


def fault(root: Path, path: str, **more: int) -> str:
    with pytest.raises(RecordError) as error:
        images.open_image(root, path, **more)
    text = str(error.value)
    assert "\n" not in text and len(text) < 300 and "; " in text and str(root) not in text
    return text


# -- read --


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "tif", "webp", "ppm", "jp2"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    photo().save(tmp_path / f"x.{suffix}", **({"quality": 95} if suffix in ("jpg", "webp") else {}))
    image = images.open_image(tmp_path, f"x.{suffix}")
    assert (image.mode, image.size) == ("RGB", (64, 48))
    for got, want in zip(corners(image), (GREEN, BLUE, RED, BLUE), strict=True):
        assert close(got, want, 60)


def test_suffixes_and_formats_agree() -> None:
    """What `dataset folder` takes for an image can be opened, and what can be opened is taken."""
    Image.init()
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in images.FORMATS}
    assert set(images.SUFFIXES) <= known | {".avif"}
    assert folder._is_image("a/B.JPG") and not folder._is_image("a/.B.jpg") and not folder._is_image("a/jpg")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = photo()
    undo = {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}  # the Transpose that a camera's tag stands for
    stored = upright
    for method in undo.get(orientation, []):
        stored = stored.transpose(Image.Transpose(method))
    exif = Image.Exif()
    exif[images.ORIENTATION] = orientation
    stored.save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(np.asarray(images.open_image(tmp_path, "x.png")), np.asarray(upright))


def test_damaged_exif_does_not_matter(tmp_path: Path) -> None:
    photo().save(tmp_path / "x.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 40)
    assert images.open_image(tmp_path, "x.jpg").size == (64, 48)


def test_palette_grey_cmyk_bilevel(tmp_path: Path) -> None:
    photo().quantize(8).save(tmp_path / "p.png")
    assert [close(c, w) for c, w in zip(corners(images.open_image(tmp_path, "p.png")), (GREEN, BLUE), strict=False)]
    Image.new("L", (9, 9), 77).save(tmp_path / "l.png")
    assert images.open_image(tmp_path, "l.png").getpixel((4, 4)) == (77, 77, 77)
    Image.new("1", (9, 9), 1).save(tmp_path / "1.png")
    assert images.open_image(tmp_path, "1.png").getpixel((4, 4)) == WHITE
    photo().convert("CMYK").save(tmp_path / "c.jpg", quality=95)
    for got, want in zip(corners(images.open_image(tmp_path, "c.jpg")), (GREEN, BLUE, RED, BLUE), strict=True):
        assert close(got, want, 30)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled(tmp_path: Path, suffix: str) -> None:
    """Pillow's own conversion clips at 255: nearly everything would be white."""
    values = np.array([[0, 255, 256, 32768, 65534, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"x.{suffix}")
    image = images.open_image(tmp_path, f"x.{suffix}")
    assert image.mode == "RGB"
    assert [image.getpixel((x, 0))[0] for x in range(6)] == [0, 1, 1, 128, 255, 255]  # type: ignore[index]


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    layer = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    layer.putpixel((0, 0), (255, 0, 0, 255))
    layer.putpixel((1, 0), (0, 0, 0, 128))
    layer.save(tmp_path / "a.png")
    image = images.open_image(tmp_path, "a.png")
    assert image.mode == "RGB"
    assert [image.getpixel((x, 0)) for x in range(3)] == [RED, (127, 127, 127), WHITE]
    Image.new("LA", (8, 8), (0, 0)).save(tmp_path / "la.png")
    assert images.open_image(tmp_path, "la.png").getpixel((3, 3)) == WHITE
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((0, 0), 0)
    palette.save(tmp_path / "p.png", transparency=1)
    assert [images.open_image(tmp_path, "p.png").getpixel((x, 0)) for x in (0, 1)] == [RED, WHITE]
    Image.new("RGB", (8, 8), RED).save(tmp_path / "key.png", transparency=RED)
    assert images.open_image(tmp_path, "key.png").getpixel((0, 0)) == WHITE


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif", "mpo"])
def test_first_frame_of_an_animation(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in (RED, BLUE, GREEN)]
    frames[0].save(tmp_path / f"x.{suffix}", save_all=True, append_images=frames[1:])
    assert close(images.open_image(tmp_path, f"x.{suffix}").getpixel((9, 9)), RED)  # type: ignore[arg-type]


def test_wide_images_within_the_limit(tmp_path: Path) -> None:
    Image.new("RGB", (20_000, 3), RED).save(tmp_path / "wide.png")
    assert images.open_image(tmp_path, "wide.png").size == (20_000, 3)
    Image.new("L", (1, 20_000)).save(tmp_path / "tall.png")
    assert images.open_image(tmp_path, "tall.png").size == (1, 20_000)


def test_reduced_scale_only_on_request(tmp_path: Path) -> None:
    photo(1600, 1200).save(tmp_path / "x.jpg")
    assert images.open_image(tmp_path, "x.jpg").size == (1600, 1200)
    small = images.open_image(tmp_path, "x.jpg", size=300)
    assert min(small.size) >= 300 and small.size == (400, 300)
    assert images.open_image(tmp_path, "x.jpg", size=1500).size == (1600, 1200)


def test_result_outlives_its_file(tmp_path: Path) -> None:
    photo().save(tmp_path / "x.png")
    image = images.open_image(tmp_path, "x.png")
    os.unlink(tmp_path / "x.png")
    assert close(image.getpixel((1, 1)), GREEN)  # type: ignore[arg-type]


# -- refused --


def test_missing_empty_and_not_an_image(tmp_path: Path) -> None:
    assert fault(tmp_path, "no.jpg") == "cannot read image 'no.jpg': no such file or directory; check --image-root"
    (tmp_path / "empty.jpg").touch()
    assert fault(tmp_path, "empty.jpg") == "cannot read image 'empty.jpg': the file is empty; replace it"
    (tmp_path / "text.jpg").write_text("<html>not found</html>")
    assert fault(tmp_path, "text.jpg") == "cannot read image 'text.jpg': not an image; replace it"
    os.mkdir(tmp_path / "dir.jpg")
    assert "not a regular file" in fault(tmp_path, "dir.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "not a regular file" in fault(tmp_path, "pipe.jpg")  # and does not hang


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "tif", "webp", "jp2"])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_truncated(tmp_path: Path, suffix: str, keep: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8))
    noise.save(tmp_path / f"x.{suffix}")
    data = (tmp_path / f"x.{suffix}").read_bytes()
    (tmp_path / f"x.{suffix}").write_bytes(data[: int(len(data) * keep)])
    assert f"image 'x.{suffix}'" in fault(tmp_path, f"x.{suffix}")


def test_damaged_anywhere_never_escapes(tmp_path: Path) -> None:
    """Bytes turned over at random: an image or a RecordError, nothing else."""
    rng = np.random.default_rng(0)
    for suffix in ("jpg", "png", "gif", "tif", "webp"):
        photo().save(tmp_path / f"x.{suffix}")
        data = np.frombuffer((tmp_path / f"x.{suffix}").read_bytes(), dtype=np.uint8)
        for _ in range(60):
            hurt = data.copy()
            hurt[rng.integers(0, len(hurt), 8)] = rng.integers(0, 255, 8)
            (tmp_path / f"x.{suffix}").write_bytes(hurt.tobytes())
            try:
                assert images.open_image(tmp_path, f"x.{suffix}").mode == "RGB"
            except RecordError as error:
                assert "\n" not in str(error)


def test_too_many_pixels(tmp_path: Path) -> None:
    photo(100, 50).save(tmp_path / "x.png")
    assert fault(tmp_path, "x.png", max_pixels=4999).startswith("image 'x.png' has 100 x 50 pixels, more than 4999; ")
    assert images.open_image(tmp_path, "x.png", max_pixels=5000).size == (100, 50)
    for width, height in ((8000, 7000), (100_000, 100_000)):  # the second is one that Pillow itself refuses
        (tmp_path / "bomb.png").write_bytes(empty_png(width, height))
        assert "pixels" in fault(tmp_path, "bomb.png")


def empty_png(width: int, height: int) -> bytes:
    """A PNG header that promises much, and one line of pixels."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0" * 99))]
    chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_other_formats_are_not_even_tried(tmp_path: Path) -> None:
    """Pillow would start ghostscript for this one."""
    (tmp_path / "x.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with Image.open(tmp_path / "x.jpg") as known:
        assert known.format == "EPS"
    assert "not an image" in fault(tmp_path, "x.jpg")


def test_float_pixels(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(tmp_path / "f.tif")
    assert "32-bit floating-point" in fault(tmp_path, "f.tif")
    Image.fromarray(np.full((4, 4), 70_000, dtype=np.int32)).save(tmp_path / "i.tif")
    assert "32-bit pixels" in fault(tmp_path, "i.tif")


OUTSIDE = ["../secret.png", "a/../../secret.png", "/etc/hostname", "link.png", "far/x.png", "x\0.png"]


@pytest.mark.parametrize("path", OUTSIDE)
def test_path_may_not_leave_the_root(tmp_path: Path, path: str) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    photo().save(tmp_path / "secret.png")
    (tmp_path / "root-two").mkdir()
    photo().save(tmp_path / "root-two" / "x.png")
    os.symlink("../secret.png", root / "link.png")
    os.symlink("../root-two", root / "far")  # a sibling whose name begins like the root's
    text = fault(root, path)
    assert "--image-root" in text and ("leaves" in text or "not a path relative" in text)


def test_links_within_the_root_are_fine(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    photo().save(root / "x.png")
    os.symlink("../x.png", root / "a" / "link.png")
    os.symlink(root, tmp_path / "other")
    for base, path in ((root, "a/link.png"), (root, "a/../x.png"), (tmp_path / "other", "x.png")):
        assert images.open_image(base, path).size == (64, 48)


def test_shared_photographs(shared: Path) -> None:
    """Real ones, of every size and shape."""
    root = shared / "images" / "grocery_store"
    paths = sorted(p.relative_to(root).as_posix() for p in root.glob("test/*/*.jpg"))[::40]
    assert len(paths) > 15
    for path in paths:
        assert images.open_image(root, path).mode == "RGB"
        with Image.open(io.BytesIO((root / path).read_bytes())) as plain:
            assert sorted(images.open_image(root, path).size) == sorted(plain.size)
