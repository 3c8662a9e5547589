from __future__ import annotations

import io
import random
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from clip.clip import _transform
from PIL import Image

from cptlite.datasets.images import (
    UnreadableImageError,
    _formats,
    _random_box,
    _to_rgb,
    normalise,
    open_rgb,
    plain_pixels,
    plain_view,
    quiet_pillow,
    random_pixels,
    random_view,
)
from cptlite.datasets.views import ViewConfig

SPEC = {"resize": 32, "mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}


def noise(width: int, height: int, channels: int = 3) -> np.ndarray:
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    "size", [(32, 32), (31, 32), (100, 37), (37, 100), (33, 32), (5, 9), (640, 481), (1, 1), (3, 900)]
)
def test_plain_view_is_clips_own(size: tuple[int, int]) -> None:
    image = Image.fromarray(noise(*size))
    assert torch.equal(plain_view(image, SPEC), _transform(32)(image))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tiff", "gif"])
def test_files_give_clips_own_view(tmp_path: Path, mode: str, suffix: str) -> None:
    path = saved(tmp_path / f"x.{suffix}", Image.fromarray(noise(50, 40)).convert(mode))
    with Image.open(path) as image:
        # Palettes are converted before the resizing, which then need not take the nearest pixel.
        expected = _transform(32)(image.convert("RGB") if suffix == "gif" else image)
    assert torch.equal(plain_view(open_rgb(path), SPEC), expected)


def test_plain_view_of_real_photographs_is_clips_own(shared_dir: Path) -> None:
    paths = [sorted(folder.glob("*"))[0] for folder in sorted((shared_dir / "images" / "dtd" / "images").iterdir())]
    assert len(paths) > 4
    for path in paths:
        with Image.open(path) as image:
            assert torch.equal(plain_view(open_rgb(path), {**SPEC, "resize": 224}), _transform(224)(image))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_is_converted(tmp_path: Path, mode: str) -> None:
    suffix = "jpg" if mode in ("CMYK", "YCbCr") else "png"
    path = saved(tmp_path / f"x.{suffix}", Image.fromarray(noise(20, 30)).convert(mode))
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    found = open_rgb(path)
    assert found.mode == "RGB"
    assert np.array_equal(np.asarray(found), expected)


@pytest.mark.parametrize("transparency", [0, bytes(range(256))])
def test_palette_with_transparency(tmp_path: Path, transparency: int | bytes) -> None:
    palette = Image.fromarray(noise(20, 30)).convert("P")
    path = saved(tmp_path / "x.png", palette, transparency=transparency)
    assert np.array_equal(np.asarray(open_rgb(path)), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_sixteen_bit_grey_is_scaled(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 128, 129, 257, 32768, 65534, 65535]], dtype=np.uint16)
    path = tmp_path / f"x.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 7 1 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path)
    found = np.asarray(open_rgb(path))
    assert found[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255, 255]
    assert (found == found[..., :1]).all()


def test_twelve_bit_grey_is_scaled(tmp_path: Path) -> None:
    """Pillow cannot write it: two pixels of 12 bits lie in three bytes."""
    path = saved(tmp_path / "x.tiff", Image.fromarray(np.zeros((1, 3), dtype=np.uint8)))
    content = bytearray(path.read_bytes())
    entry = content.index(b"\x02\x01\x03\x00")  # tag 258, type short
    content[entry + 8 : entry + 10] = (12).to_bytes(2, "little")
    width = (
        content.index(b"\x00\x01\x04\x00") + 8
        if b"\x00\x01\x04\x00" in content
        else content.index(b"\x00\x01\x03\x00") + 8
    )
    content[width] = 2
    strip = content.index(b"\x11\x01") + 8
    start = int.from_bytes(content[strip : strip + 4], "little")
    content[start : start + 3] = bytes([0xFF, 0xF8, 0x00])  # 4095 and 2048
    path.write_bytes(content)
    assert np.asarray(open_rgb(path))[0, :, 0].tolist() == [255, 128]


@pytest.mark.parametrize(
    "values",
    [
        np.array([[0.0, 0.5, 1.0]], dtype=np.float32),
        np.array([[0.0, 100.0, 255.0]], dtype=np.float32),
        np.array([[0, 100, 255]], dtype=np.int32),
        np.array([[-5, 100, 1000]], dtype=np.int32),
        np.array([[0, 100, 70_000]], dtype=np.int32),
    ],
)
def test_numbers_of_no_known_range_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    path = saved(tmp_path / "x.tiff", Image.fromarray(values))
    with pytest.raises(UnreadableImageError, match="of no known range: save it with 8 or 16 bits a colour"):
        open_rgb(path)


def test_whole_numbers_of_16_bits_are_scaled_in_32(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.tiff", Image.fromarray(np.array([[0, 257, 65535]], dtype=np.int32)))
    assert np.asarray(open_rgb(path))[0, :, 0].tolist() == [0, 1, 255]


BRIGHT = {"1": 255, "L": 200, "LA": (200, 255), "P": 200, "RGB": (200,) * 3, "RGBA": (200, 200, 200, 0)}
BRIGHT |= {"CMYK": (0, 0, 0, 50), "YCbCr": (200, 128, 128), "I;16": 51_400, "I": 51_400, "F": 200.0, "LAB": (200, 0, 0)}


WRITTEN = {
    "jpg": "1 L RGB CMYK YCbCr",
    "png": "1 L LA P RGB RGBA I;16",
    "bmp": "1 L P RGB RGBA",
    "gif": "1 L P RGB RGBA",
    "tiff": "1 L LA P RGB RGBA CMYK YCbCr I I;16 F LAB",
    "webp": "L P RGB RGBA",
    "ppm": "1 L RGB I F",
    "jp2": "L LA RGB RGBA YCbCr I;16",
}
REFUSED = [("tiff", "F"), ("tiff", "LAB"), ("ppm", "F")]


@pytest.mark.parametrize(("suffix", "mode"), [(s, mode) for s, modes in WRITTEN.items() for mode in modes.split()])
def test_a_bright_image_is_never_black(tmp_path: Path, suffix: str, mode: str) -> None:
    image = Image.new("L", (20, 30), 200).convert("P") if mode == "P" else Image.new(mode, (20, 30), BRIGHT[mode])
    path = saved(tmp_path / f"x.{suffix}", image)
    if (suffix, mode) in REFUSED:
        with pytest.raises(UnreadableImageError, match="of no known range"):
            open_rgb(path)
        return
    assert np.asarray(open_rgb(path)).min() > 180


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_premultiplied_colours(mode: str) -> None:
    image = Image.new({"La": "LA", "RGBa": "RGBA"}[mode], (2, 2), (200, 255) if mode == "La" else (200, 200, 200, 255))
    assert np.asarray(_to_rgb(image.convert(mode))).min() == 200


def test_rotation_noted_in_the_file_is_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path / "x.jpg", Image.fromarray(noise(20, 30)), exif=exif)
    assert open_rgb(path).size == (20, 30)


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(200, 200)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "missing"),
        (b"", "zero bytes"),
        (jpeg()[:3000], "truncated"),
        (jpeg()[:200], "truncated|not an image|damaged"),
        (b"<html>not found</html>", "not an image"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "not an image|damaged"),
    ],
)
def test_unreadable_files_say_why(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "x.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=f"^({reason})"):
        open_rgb(path)


def test_a_folder_is_not_an_image(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match="a folder"):
        open_rgb(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "eps"])
@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICO", "PCX", "TGA", "SGI", "MSP", "XBM"])
def test_other_formats_reach_no_decoder(
    tmp_path: Path, kind: str, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EPS, whatever its name, would be given to Ghostscript."""
    mode = {"MSP": "1", "XBM": "1"}.get(kind, "RGB")
    path = tmp_path / f"x.{suffix}"
    Image.new(mode, (20, 20)).save(path, format=kind)
    for opened in set(Image.OPEN) - set(_formats()):
        monkeypatch.setitem(Image.OPEN, opened, (None, None))
    with pytest.raises(UnreadableImageError, match="^not an image$"):
        open_rgb(path)


@pytest.mark.parametrize("limit", [399, 150])  # Pillow warns above the limit, and raises above twice the limit
@pytest.mark.parametrize("filters", ["error", "ignore"])
def test_too_large_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, filters: str) -> None:
    path = saved(tmp_path / "x.png", Image.fromarray(noise(20, 20)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings(), pytest.raises(UnreadableImageError, match=rf"^too large \(over {limit} pixels\)"):
        warnings.simplefilter(filters)
        open_rgb(path)


def test_too_narrow_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(UnreadableImageError, match=r"too narrow \(1 x 400 pixels\)"):
        plain_pixels(Image.new("RGB", (1, 400)), SPEC)


def test_what_pillow_warns_of_is_silenced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "x.png", Image.fromarray(noise(20, 20)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 399)
    with quiet_pillow(), Image.open(path):
        pass
    with pytest.raises(Image.DecompressionBombWarning):
        Image.open(path)


VIEWS = ViewConfig(views=4, seed=3)


def test_random_views_depend_on_seed_name_and_number_alone() -> None:
    image = Image.fromarray(noise(60, 40))

    def view(key: str = "a/b.jpg", number: int = 1, seed: int = 3) -> bytes:
        return random_pixels(image, 32, key=key, view=number, views=ViewConfig(views=4, seed=seed)).tobytes()

    assert view() == view()
    assert len({view(), view(key="a/c.jpg"), view(number=2), view(seed=4)}) == 4


def test_random_views_are_what_they_were() -> None:
    """Caches made by earlier releases hold these views: a change needs another schema version."""
    boxes = [_random_box(500, 300, 0.08, random.Random(seed)) for seed in range(3)]
    assert boxes == [(129, 6, 376, 290), (235, 36, 428, 194), (314, 104, 439, 263)]


def test_random_boxes_keep_the_area_and_ratio_asked_for() -> None:
    draw = random.Random(0)
    boxes = np.array([_random_box(200, 100, 0.3, draw) for _ in range(500)])
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2] <= 200).all() and (boxes[:, 3] <= 100).all()
    shares, ratios = widths * heights / 20_000, widths / heights
    assert shares.min() > 0.29 and shares.max() < 0.67 + 0.01  # a ratio of at most 4/3 fits no more
    assert ratios.min() > 0.73 and ratios.max() < 1.36
    assert len(set(boxes[:, 0])) > 100


@pytest.mark.parametrize("size", [(1000, 10), (10, 1000), (1, 1), (2, 1)])
def test_random_boxes_of_odd_images(size: tuple[int, int]) -> None:
    image = Image.fromarray(noise(*size))
    for view in range(1, 30):
        assert random_pixels(image, 32, key="x", view=view, views=VIEWS).shape == (32, 32, 3)


def test_half_of_the_views_are_mirrored_unless_told_not_to() -> None:
    image = Image.fromarray(np.tile(np.arange(0, 250, 5, dtype=np.uint8)[None, :, None], (50, 1, 3)))
    whole = {"min_scale": 0.5, "views": 2}

    def mirrored(flip: bool) -> Counter:
        views = ViewConfig(**whole, flip=flip)
        found = (random_pixels(image, 32, key=f"{key}", view=1, views=views) for key in range(200))
        return Counter(bool(pixels[0, 0, 0] > pixels[0, -1, 0]) for pixels in found)

    assert 70 < mirrored(True)[True] < 130
    assert mirrored(False)[True] == 0


def test_random_view_is_the_normalised_pixels() -> None:
    image = Image.fromarray(noise(60, 40))
    pixels = random_pixels(image, 32, key="x", view=2, views=VIEWS)
    view = random_view(image, SPEC, key="x", view=2, views=VIEWS)
    assert torch.equal(view, normalise(torch.from_numpy(pixels.copy())[None], SPEC)[0])
