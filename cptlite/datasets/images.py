"""From image files to the square views an image tower takes.

Sources: the preprocessing of Radford et al., "Learning Transferable Visual Models From Natural Language Supervision"
(ICML 2021), and the random resized crop of Szegedy et al., "Going Deeper with Convolutions" (CVPR 2015).

Axes: B images, R pixels a side; colours are red, green, blue.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from cptlite.datasets.text_files import special_kind
from cptlite.datasets.views import ViewConfig
from cptlite.files import BoundedReader

__all__ = [
    "UnreadableImageError",
    "normalise",
    "open_rgb",
    "plain_pixels",
    "plain_view",
    "quiet_pillow",
    "random_pixels",
    "random_view",
    "read_rgb",
]

CROP_TRIES = 10
KINDS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))
# What Pillow may take a file for: another decoder it knows hands the file to a program (EPS to Ghostscript).
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
# The modes of these formats that Pillow converts to RGB by itself, keeping 0 to 255.
PLAIN_MODES = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"))
PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
BITS_PER_SAMPLE = 258  # a tag of TIFF


class UnreadableImageError(ValueError):
    """A file that gives no image; the text is the reason alone, for a list of such files."""


def open_rgb(path: Path) -> Image.Image:
    """Read an image file in full.

    Parameters
    ----------
    path : Path
        In one of `FORMATS`, whatever its name; of an animation the first frame is taken. A rotation noted in the file
        is ignored, as CLIP does.

    Returns
    -------
    PIL.Image.Image
        In mode RGB: grey, palette and CMYK images are converted, transparency is dropped, grey of 12 or 16 bits is
        scaled.

    Raises
    ------
    UnreadableImageError
        The file is missing, no file (a FIFO), empty, truncated, not an image or too large, or its numbers have no known
        range, as floating-point ones; the text says which.
    """
    try:
        kind = special_kind(path)  # looked at before it is opened: opening a FIFO waits forever
        if kind:
            raise UnreadableImageError(f"{kind}, not a file")
        with BoundedReader(path) as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise UnreadableImageError("zero bytes")
            with Image.open(file, formats=_formats()) as image:
                _check_size(image)
                return _to_rgb(image)
    except (UnreadableImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise a dozen kinds on broken files
        raise UnreadableImageError(_reason(error)) from error


def read_rgb(source: Path | str | Image.Image) -> Image.Image:
    """Read an image file as `open_rgb` does, or bring an image that Pillow has opened into the same form.

    Raises
    ------
    UnreadableImageError
        As of `open_rgb`.
    """
    if not isinstance(source, Image.Image):
        return open_rgb(Path(source))
    try:
        _check_size(source)
        return _to_rgb(source)
    except (UnreadableImageError, MemoryError):
        raise
    except Exception as error:  # of a file that Pillow has not read to its end
        raise UnreadableImageError(_reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "missing"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"too large (over {Image.MAX_IMAGE_PIXELS} pixels)"
    if "truncated" in str(error).lower():
        return f"truncated ({error})"
    return f"damaged ({error})" if str(error) else f"damaged ({type(error).__name__})"


def _check_size(image: Image.Image) -> None:
    """Refuse what Pillow only warns of: the warning depends on filters, the list of bad images must not."""
    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise UnreadableImageError(f"too large (over {Image.MAX_IMAGE_PIXELS} pixels)")


@cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _grey_to_rgb(image)
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        return image.convert("RGBA").convert("RGB")  # the same pixels; the direct way warns
    if image.mode in PREMULTIPLIED:
        return image.convert(PREMULTIPLIED[image.mode]).convert("RGB")
    if image.mode not in PLAIN_MODES:
        kind = "floating-point numbers" if image.mode == "F" else f"colours of mode {image.mode}"
        raise UnreadableImageError(f"{kind} of no known range: save it with 8 or 16 bits a colour")
    return image.convert("RGB")


def _grey_to_rgb(image: Image.Image) -> Image.Image:
    """Scale grey of more than 8 bits, which Pillow would clip to 255.

    Its "I" holds 16-bit values from PNG and PGM files; from TIFF files also signed and 32-bit ones.
    """
    bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))[0]
    values = np.asarray(image).astype(np.float64)
    low, high = values.min(), values.max()
    if image.mode == "I" and (low < 0 or high > 65535 or (image.format == "TIFF" and high < 256)):
        raise UnreadableImageError(
            f"whole numbers from {low:.0f} to {high:.0f} of no known range: save it with 8 or 16 bits a colour"
        )
    steps = 4095 / 255 if bits == 12 else 257  # of the stored numbers in one of 0 to 255
    return Image.fromarray(np.rint(np.clip(values / steps, 0, 255)).astype(np.uint8)).convert("RGB")


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Silence what Pillow warns of while it reads files; to be entered by one thread, around those that read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def plain_pixels(image: Image.Image, spec: Mapping[str, Any]) -> np.ndarray:
    """Make a square view as an image tower takes it.

    Parameters
    ----------
    image : PIL.Image.Image
        In mode RGB.
    spec : mapping
        A backbone's ``preprocess_spec``: of it ``resize``, R, ``interpolation``, and ``crop``, how the sides become
        equal: "center" cuts from the longer one, as CLIP does, "pad" fills the shorter one up, "squash" bends.

    Returns
    -------
    ndarray of shape (R, R, 3), uint8

    Raises
    ------
    UnreadableImageError
        The image is so narrow that the resized one would be too large.
    """
    side, crop, kind = spec["resize"], spec.get("crop", "center"), KINDS[spec.get("interpolation", "bicubic")]
    if crop == "squash":
        return np.asarray(image.resize((side, side), kind))
    if crop == "pad":
        return _padded(image, side, kind, spec.get("fill", 0))
    width, height = image.size
    short = min(width, height)
    size = (int(side * width / short), int(side * height / short))
    if Image.MAX_IMAGE_PIXELS is not None and size[0] * size[1] > Image.MAX_IMAGE_PIXELS:
        raise UnreadableImageError(f"too narrow ({width} x {height} pixels)")
    image = image.resize(size, kind)
    left, top = (round((extent - side) / 2.0) for extent in size)
    return np.asarray(image.crop((left, top, left + side, top + side)))


def _padded(image: Image.Image, side: int, kind: Image.Resampling, fill: int) -> np.ndarray:
    """Resize the longer side to ``side`` and put the image in the middle of a square of one grey."""
    ratio = max(image.size) / side
    resized = image.resize((max(1, round(image.width / ratio)), max(1, round(image.height / ratio))), kind)
    square = Image.new("RGB", (side, side), (fill, fill, fill))
    square.paste(resized, ((side - resized.width) // 2, (side - resized.height) // 2))
    return np.asarray(square)


def random_pixels(image: Image.Image, side: int, *, key: str, view: int, views: ViewConfig) -> np.ndarray:
    """Cut out a random part, resize it to a square (bicubic) and perhaps mirror it.

    Parameters
    ----------
    image : PIL.Image.Image
        In mode RGB.
    side : int
        R.
    key : str
        Name of the image, its path relative to the dataset's folder: with ``view`` and ``views.seed`` all that the
        draw depends on.
    view : int
        Index of the view, at least 1: view 0 is the plain one.
    views : ViewConfig

    Returns
    -------
    ndarray of shape (R, R, 3), uint8

    Notes
    -----
    The crop keeps an area of U(min_scale, 1) of the image's at a ratio of width to height of exp(U(log 3/4, log 4/3)).
    """
    assert view >= 1
    digest = hashlib.sha256(f"{views.seed}\n{view}\n{key}".encode()).digest()
    draw = random.Random(int.from_bytes(digest[:8], "big"))
    box = _random_box(image.width, image.height, views.min_scale, draw)
    image = image.crop(box).resize((side, side), Image.Resampling.BICUBIC)
    if views.flip and draw.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image)


def _random_box(width: int, height: int, min_scale: float, draw: random.Random) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the crop; the largest centred one of an allowed ratio if no draw fits."""
    for _ in range(CROP_TRIES):
        area = width * height * (min_scale + (1 - min_scale) * draw.random())
        ratio = math.exp(LOG_RATIO[0] + (LOG_RATIO[1] - LOG_RATIO[0]) * draw.random())
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(draw.random() * (width - w + 1)), int(draw.random() * (height - h + 1))
            return left, top, left + w, top + h
    w = max(1, min(width, round(height * math.exp(LOG_RATIO[1]))))
    h = max(1, min(height, round(width / math.exp(LOG_RATIO[0]))))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def normalise(pixels: Tensor, spec: Mapping[str, Any]) -> Tensor:
    """Scale to [0, 1], then to the mean and deviation the tower was trained with.

    Parameters
    ----------
    pixels : Tensor of shape (B, R, R, 3), uint8
    spec : mapping
        ``mean`` and ``std`` by colour, as in a backbone's ``preprocess_spec``.

    Returns
    -------
    Tensor of shape (B, 3, R, R), float32
    """
    mean, std = (torch.tensor(spec[name], device=pixels.device).view(3, 1, 1) for name in ("mean", "std"))
    colours_first = pixels.permute(0, 3, 1, 2).contiguous()  # (B, 3, R, R)
    return colours_first.float().div_(255).sub_(mean).div_(std)


def plain_view(image: Image.Image, spec: Mapping[str, Any]) -> Tensor:
    """Prepare an RGB image as a tower takes it: a Tensor of shape (3, R, R); ``spec`` is a ``preprocess_spec``."""
    return _normalised(plain_pixels(image, spec), spec)


def random_view(image: Image.Image, spec: Mapping[str, Any], *, key: str, view: int, views: ViewConfig) -> Tensor:
    """Random view as `random_pixels` draws it, normalised: a Tensor of shape (3, R, R)."""
    return _normalised(random_pixels(image, spec["resize"], key=key, view=view, views=views), spec)


def _normalised(pixels: np.ndarray, spec: Mapping[str, Any]) -> Tensor:
    return normalise(torch.from_numpy(pixels.copy())[None], spec)[0]
