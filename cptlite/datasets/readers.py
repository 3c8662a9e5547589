"""The table of readers: what each reads, which files it wants and which options it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cptlite.datasets import class_folders, csv_files, imagenet, lists, split_files, task_folders
from cptlite.datasets import torchvision_layouts as torchvision
from cptlite.datasets.drafts import Draft, Place

__all__ = ["READERS", "READER_OPTIONS", "Reader"]

IMAGES = "{images}/"
SPLIT = "{split}"
CLASS_DIR = ("{images}/<class>/*.jpg", "images, a folder per class")


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One way to read a dataset.

    Attributes
    ----------
    read : callable of Place to Draft
        Reads the files.
    how : str
        What the split comes from, in words.
    files : tuple of (path, what it is)
        The expected tree below the dataset's folder. Paths without ``<`` or ``*`` must be there;
        those without words are not shown.
    options : tuple of str
        Options it takes.
    """

    read: Callable[[Place], Draft]
    how: str
    files: tuple[tuple[str, str], ...]
    options: tuple[str, ...] = ()


READERS: dict[str, Reader] = {
    "split_file": Reader(
        read=split_files.read_split_file,
        how="published split file",
        files=((SPLIT, "the split file"), (IMAGES, "images at the paths it names")),
    ),
    "class_folders": Reader(
        read=class_folders.read_class_folders,
        how="50/20/30 of each class",
        files=((IMAGES, ""), CLASS_DIR),
        options=("exclude", "seed"),
    ),
    "split_folders": Reader(
        read=class_folders.read_split_folders,
        how="own train, validation and test folders",
        files=(
            ("{images}/train/", ""),
            ("{images}/train/<class>/*.jpg", "training images"),
            ("{images}/<val or validation>/<class>/*.jpg", "validation images"),
            ("{images}/test/", ""),
            ("{images}/test/<class>/*.jpg", "test images"),
        ),
        options=("exclude", "mixed", "seed"),
    ),
    "folders": Reader(
        read=class_folders.read_folders,
        how="own train, validation and test folders, or else 50/20/30 of each class",
        files=((IMAGES, ""), CLASS_DIR, ("{images}/<train, val, test>/<class>/*.jpg", "or these")),
        options=("exclude", "seed"),
    ),
    "csv": Reader(
        read=csv_files.read_csv,
        how="the CSV's split column, or else 50/20/30 of each class",
        files=((SPLIT, f"columns {csv_files.CSV_COLUMNS}"), (IMAGES, "images at the paths it names")),
        options=("seed", "path_column", "label_column", "split_column"),
    ),
    "fgvc": Reader(
        read=lists.read_fgvc,
        how="official lists",
        files=(
            ("variants.txt", "one class name per line"),
            ("images_variant_train.txt", "lines 'ID name'"),
            ("images_variant_val.txt", "likewise"),
            ("images_variant_test.txt", "likewise"),
            (IMAGES, ""),
            ("{images}/<ID>.jpg", "the images"),
        ),
    ),
    "task_folders": Reader(
        read=task_folders.read_task_folders,
        how="50/20/30 of each class",
        files=(
            ("task_info.csv", "tab separated: id, task_name, task_desc, labels by commas"),
            (IMAGES, ""),
            ("{images}/<task 0, 1, ...>/<class 0, 1, ...>/*.jpg", "the images"),
        ),
        options=("seed",),
    ),
    "imagenet": Reader(
        read=imagenet.read_imagenet,
        how="official training images; the validation images are the test split",
        files=(
            ("classnames.txt", "lines 'wnid name', numbers allowed"),
            ("{images}/train/", ""),
            ("{images}/train/<wnid>/*.JPEG", "training images"),
            ("{images}/val/", ""),
            ("{images}/val/<wnid>/*.JPEG", "validation images"),
        ),
    ),
    "imagenet_test": Reader(
        read=imagenet.read_imagenet_test,
        how="test images only",
        files=(
            ("classnames.txt", "lines 'wnid name', numbers allowed"),
            (IMAGES, ""),
            ("{images}/<wnid, or label>/*", "test images"),
        ),
        options=("numbered",),
    ),
    "dtd_lists": Reader(
        read=torchvision.read_dtd_lists,
        how="official lists of the first of ten splits",
        files=(
            ("labels/train1.txt", "lines 'class/image.jpg'"),
            ("labels/val1.txt", "likewise"),
            ("labels/test1.txt", "likewise"),
            (IMAGES, ""),
            CLASS_DIR,
        ),
    ),
    "flower_lists": Reader(
        read=torchvision.read_flower_lists,
        how="official lists",
        files=(
            ("setid.mat", "the split"),
            ("imagelabels.mat", "the labels"),
            (IMAGES, ""),
            ("{images}/image_<number>.jpg", "the images"),
        ),
        options=("labels",),
    ),
    "food_lists": Reader(
        read=torchvision.read_food_lists,
        how="official lists, a fifth of the training images held out for validation",
        files=(
            ("meta/train.json", "'class/image' by class"),
            ("meta/test.json", "likewise"),
            (IMAGES, ""),
            CLASS_DIR,
        ),
        options=("seed",),
    ),
    "pet_lists": Reader(
        read=torchvision.read_pet_lists,
        how="official lists, a fifth of the training images held out for validation",
        files=(
            ("annotations/trainval.txt", "lines 'Breed_number ...'"),
            ("annotations/test.txt", "likewise"),
            (IMAGES, ""),
            ("{images}/<Breed_number>.jpg", "the images"),
        ),
        options=("seed",),
    ),
    "scene_folders": Reader(
        read=torchvision.read_scene_folders,
        how="50/20/30 of each class",
        files=((IMAGES, ""), ("{images}/<letter>/<class>/*.jpg", "images, a folder per class")),
        options=("seed",),
    ),
}

READER_OPTIONS = {name: reader.options for name, reader in READERS.items()}
