"""Small trees of images as users have them on disk."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

# The 100 variants of FGVC-Aircraft as its own list spells them: with spaces, slashes and dashes.
VARIANTS = (
    "707-320|727-200|737-200|737-300|737-400|737-500|737-600|737-700|737-800|737-900|747-100|747-200|747-300|"
    "747-400|757-200|757-300|767-200|767-300|767-400|777-200|777-300|A300B4|A310|A318|A319|A320|A321|A330-200|"
    "A330-300|A340-200|A340-300|A340-500|A340-600|A380|ATR-42|ATR-72|An-12|BAE 146-200|BAE 146-300|BAE-125|"
    "Beechcraft 1900|Boeing 717|C-130|C-47|CRJ-200|CRJ-700|CRJ-900|Cessna 172|Cessna 208|Cessna 525|Cessna 560|"
    "Challenger 600|DC-10|DC-3|DC-6|DC-8|DC-9-30|DH-82|DHC-1|DHC-6|DHC-8-100|DHC-8-300|DR-400|Dornier 328|E-170|"
    "E-190|E-195|EMB-120|ERJ 135|ERJ 145|Embraer Legacy 600|Eurofighter Typhoon|F-16A/B|F/A-18|Falcon 2000|"
    "Falcon 900|Fokker 100|Fokker 50|Fokker 70|Global Express|Gulfstream IV|Gulfstream V|Hawk T1|Il-76|L-1011|"
    "MD-11|MD-80|MD-87|MD-90|Metroliner|Model B200|PA-28|SR-20|Saab 2000|Saab 340|Spitfire|Tornado|Tu-134|Tu-154|"
    "Yak-42"
).split("|")


def draw_images(folder: Path, names: Iterable[str], *, seed: int, size: tuple[int, int] = (40, 30)) -> None:
    """Draw noise around a colour of the seed's, one image a name."""
    generator = np.random.default_rng(seed)
    colour = generator.integers(0, 200, 3)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        pixels = colour + generator.integers(0, 55, (size[1], size[0], 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name)


def draw_classes(folder: Path, names: Iterable[str], *, images: int = 4) -> Path:
    """Draw a folder of class folders."""
    for seed, name in enumerate(names):
        draw_images(folder / name, [f"{index:02}.png" for index in range(images)], seed=seed)
    return folder


def draw_fgvc(root: Path, *, images: dict[str, int], most: int) -> None:
    """Lay out FGVC-Aircraft as its archive does: so many images of each variant by split, ``most`` train the first."""
    folder = root / "fgvc_aircraft"
    folder.mkdir(parents=True)
    (folder / "variants.txt").write_text("\n".join(VARIANTS) + "\n")
    number = 34309
    for split, count in images.items():
        lines = []
        for seed, variant in enumerate(VARIANTS):
            wanted = most if split == "train" and seed == 0 else count
            numbers = [f"{number + index:07}" for index in range(wanted)]
            number += wanted
            draw_images(folder / "images", [f"{each}.jpg" for each in numbers], seed=seed, size=(48, 36))
            lines += [f"{each} {variant}\n" for each in numbers]
        (folder / f"images_variant_{split}.txt").write_text("".join(lines))
