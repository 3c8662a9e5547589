"""Small valid files of every kind that cptlite reads: what fuzzing starts from."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
import torch
from cache_fakes import FakeBackbone, make_dataset
from checkpoint_fakes import hugging_face, save_archive, tiny_clip, tiny_state
from PIL import Image
from safetensors.torch import save
from scipy.io import savemat

from cptlite.cache.encode import encode_dataset
from cptlite.classifiers import (
    APEClassifier,
    BackboneFacts,
    JoinedClassifier,
    LinearClassifier,
    StoredClassifier,
    TipClassifier,
    TipXClassifier,
)
from cptlite.classifiers.store import pack_classifier
from cptlite.datasets.types import Task

CUT = b"\n----\n"
"""Between the files of a reader that takes several."""

CSV = (
    b'path,label,split\na/1.png,oak,train\na/2.png,oak,test\nb/1.png,"fir, silver",train\nb/2.png,oak,val\n',
    "\ufeffsep=;\npath;label\na\\1.png;crème\nb\\1.png;ash\n".encode(),
    "path\tlabel\na/1.png\tash\nb/1.png\toak\n".encode("utf-16"),
)
COOP = {"train": [["a/1.png", 0, "ash"], ["b/1.png", 1, "oak"]], "val": [], "test": [["a/2.png", 0, "ash"]]}
SOFTCPT = {
    "train": [["a/1.png", [0], [0]], ["b/1.png", [1], [1]]],
    "val": [],
    "test": [["a/2.png", [1], [0]]],
    "meta": {"taskid2cname": [["ash", "oak"], ["ripe", "raw"]], "taskid2tname": ["tree", "fruit"]},
}


def feature_arrays(**columns: Any) -> dict[str, Any]:
    """Six features of two classes, and what is said of them."""
    features = np.arange(1, 19, dtype=np.float32).reshape(6, 3)
    labels = np.array([0, 1, 0, 1, 0, 1])
    return {"features": features, "labels": labels, "paths": [f"a/{row}.png" for row in range(6)], **columns}


def numpy_file(content: Any, *, packed: bool = False) -> bytes:
    """An array as npy, a dict of them as npz."""
    file = io.BytesIO()
    if isinstance(content, dict):
        (np.savez_compressed if packed else np.savez)(file, **content)
    else:
        np.save(file, content)
    return file.getvalue()


LIGHTLY = (
    b"filenames,embedding_0,embedding_1,labels\na/1.png,0.5,1e-3,0\na/2.png,-1,2,1\nb/1.png,1,1,0\nb/2.png,2,2,1\n"
)
METADATA = b"path,label,split\n" + b"".join(
    f"a/{row}.png,{('ash', 'oak')[row % 2]},{split}\n".encode()
    for row, split in enumerate(("train", "train", "val", "val", "test", "test"))
)
MANIFEST = b"""[datasets.leaves]
directory = "leaves"
images = "."
split = "rows.csv"
reader = "csv"
task = "leaf disease"
template = "a photo of a {} leaf."
metric = "mean_per_class_recall"
aliases = ["blades"]
classes = 2
counts = [3, 2, 1]
label_column = "name"
seed = 3
[datasets.leaves.class_names]
a = "ash"
[datasets.leaves.tasks.0]
task = "tree"
[datasets.dtd]
template = "{} texture."
[datasets.leaves.torchvision]
directory = "tv"
reader = "split_folders"
exclude = ["x"]
[suites.mine]
datasets = ["leaves", "dtd"]
note = "two"
"""
CLASSES = {
    "fgvc": [b"707-320\nA310\n", b"001 707-320\n002 A310\n", b"003 A310\n", b"004 707-320\n005 A310\n"],
    "imagenet": [b"n00000001 red oak\nn00000002 fir, silver\n", b"1,n00000001,ash\n2,n00000002,oak\n"],
    "tasks": [b"id\ttask_name\ttask_desc\tlabels\n0\tpants type\twords\tjeans,chinos\n1\tcolour\t\tred,blue\n"],
    "dtd": [b"a/1.png\nb/1.png\n", b"a/2.png\n", b"b/2.png\n"],
    "pets": [b"Abyssinian_1 1 1 1\nbeagle_2 2 2 1\n", b"Abyssinian_3 1 1 1\nbeagle_4 2 2 1\n"],
    "food": [b'{"apple_pie": ["apple_pie/1", "apple_pie/2"], "nachos": ["nachos/1"]}', b'{"nachos": ["nachos/2"]}'],
    "bench": [b'{"pets": ["pug", "beagle"], "food": ["pie"]}'],
}
CONFIG = {
    "config": {
        "method": "kgcoop",
        "suite": "two",
        "datasets": ["a", "b"],
        "backbone": "random:demo",
        "shots": 4,
        "seed": 1,
        "context_length": 4,
        "lr": 0.002,
        "epochs": 50,
        "recipe": "paper",
    },
    "caches": {"a": {"dataset": "a", "views": 1, "weights_sha256": "0" * 64}},
    "versions": {"torch": "2"},
}
RESULTS = {
    "method": "kgcoop",
    "suite": "two",
    "variant": None,
    "recipe": "paper",
    "backbone": "random:demo",
    "shots": 4,
    "seed": 1,
    "parameters": 8192,
    "choices": {},
    "tasks": {"a": {"metric": "acc1", "acc1": 0.5, "mean_per_class_recall": 0.25, "rows": 12}},
    "suite_score": 0.5,
    "seconds": {"train": 1.5, "total": 2.0},
    "files": {"config.json": "0" * 64},
    **{name: CONFIG[name] for name in ("config", "caches")},
}
PREDICTIONS = (
    b"task,image,label,predicted,probability,rank\n"
    b'leaves,a/1.png,ash,ash,0.7500,1\nleaves,a/2.png,ash,"fir, silver",0.5000,3\n'
)
STEP = {"step": 0, "epoch": 0, "loss": 1.5, "lr": 0.002, "seconds": 0.25}
OPEN_CLIP = {
    "model_cfg": {"embed_dim": 16, "quick_gelu": True, "vision_cfg": {"head_width": 64}, "text_cfg": {"heads": 1}},
    "preprocess_cfg": {"mean": [0.48145466, 0.4578275, 0.40821073]},
}
HUGGING_FACE = {
    "text_config": {"num_attention_heads": 1, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "vision_config": {"num_attention_heads": 1},
}


def text(value: Any) -> bytes:
    """JSON of a value."""
    return json.dumps(value).encode()


def in_folder(make: Callable[[Path], Any]) -> bytes:
    """Bytes of the file that is written to a path."""
    with TemporaryDirectory() as folder:
        make(Path(folder) / "file")
        [file] = [path for path in Path(folder).iterdir() if path.is_file()]
        return file.read_bytes()


def matlab(*, packed: bool) -> bytes:
    """The variables of both of Flowers102's files."""
    values = {"labels": [[1, 2, 1, 2, 1, 2]], "trnid": [[1, 2]], "valid": [[3, 4]], "tstid": [[5, 6]]}
    buffer = io.BytesIO()
    savemat(buffer, {key: np.array(value) for key, value in values.items()}, do_compression=packed)
    return buffer.getvalue()


@cache
def cache_file(version: str = "v110") -> bytes:
    """A cache file with patches; of HDF5's "earliest" form, which is read too, headers carry no checksum."""

    def make(path: Path) -> None:
        found = encode_dataset(
            make_dataset(path.parent / "images", (3, 1, 2)), FakeBackbone(), path.parent / "c", patches=True, workers=0
        )
        with h5py.File(found.path) as old, h5py.File(path, "w", libver=(version, "v110")) as new:
            new.attrs.update(old.attrs)
            for name in old:
                old.copy(name, new)

    return in_folder(make)


@cache
def prompts() -> bytes:
    """A file of prompts but for its digest."""
    return save({"context": torch.arange(6.0).view(2, 3)}, metadata={"sha256": "0" * 64})


def stored_classifier(kind: str) -> bytes:
    """A classifier of two tasks, two classes each."""
    width, classes = 4, 4
    linear = LinearClassifier(weights=torch.eye(classes), bias=torch.zeros(classes), logit_scale=1.0, unit_length=True)
    tip = TipClassifier(
        weights=torch.eye(classes),
        logit_scale=1.0,
        keys=torch.eye(classes),
        key_labels=torch.arange(classes),
        alpha=torch.ones(classes),
        beta=torch.ones(classes),
    )
    voting = {"weights": tip.weights, "key_labels": tip.key_labels, "logit_scale": 1.0, "alpha": 1.0, "beta": 1.0}
    tip_x = TipXClassifier(keys=tip.keys, temperature=0.5, gamma=1.0, slope=2.0, offset=0.1, **voting)
    ape = APEClassifier(keys=tip.keys[:, :2], key_weights=torch.ones(classes), channels=torch.arange(2), **voting)
    half = LinearClassifier(weights=torch.eye(2, width), bias=torch.zeros(2), logit_scale=1.0, unit_length=True)
    joined = JoinedClassifier(parts=(half, half), sizes=(2, 2))
    made = {"linear": linear, "tip": tip, "tip-x": tip_x, "ape": ape, "joined": joined}[kind]
    facts = BackboneFacts(
        name="random:demo", weights_sha256="0" * 64, precision="float32", embed_dim=width, preprocess={"resize": 8}
    )
    tasks = tuple(
        Task(id=name, name=name, class_names=("ash", "oak"), template="a {}.", metric="acc1") for name in "ab"
    )
    return pack_classifier(StoredClassifier(classifier=made, tasks=tasks, backbone=facts))


def split_header(content: bytes) -> tuple[Any, bytes]:
    """Header of a safetensors file, as JSON reads it, and its numbers."""
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def with_header(header: bytes, numbers: bytes) -> bytes:
    """A safetensors file."""
    return struct.pack("<Q", len(header)) + header + numbers


@cache
def small_state() -> dict[str, torch.Tensor]:
    """The smallest CLIP that is built of shapes, in OpenAI's names."""
    return {name: value.half() for name, value in tiny_state().items()}


def jit_archive() -> bytes:
    """An archive as OpenAI's."""
    return in_folder(lambda path: save_archive(tiny_clip(), path, half=True))


def torch_file(content: Any, *, zipped: bool = True) -> bytes:
    """What `torch.save` makes of an object."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def entries(archive: bytes) -> dict[str, bytes]:
    """Entries of a zip, by their names without the folder."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name.partition("/")[2]: opened.read(name) for name in opened.namelist()}


def zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip as PyTorch lays it out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)
    return buffer.getvalue()


@cache
def training_checkpoint() -> bytes:
    """A few tensors as a training script saves them, with numbers and texts beside."""
    state = OrderedDict(a=torch.arange(4.0), b=torch.nn.Parameter(torch.ones(2, 2)), c=torch.tensor(3))
    saved = {"model_state_dict": state, "epoch": 3, "lr": 1e-3, "name": "clip", "more": [None, True, (1, 2, 3, 4)]}
    return torch_file(saved)


def images() -> list[bytes]:
    """Small images in every format and several modes."""
    grey = np.arange(96, dtype=np.uint8).reshape(8, 12)
    colour = np.stack([grey, grey[::-1], grey.T.reshape(8, 12)], axis=-1)
    made = []
    for kind, options in (
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("BMP", {}),
        ("GIF", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "jpeg"}),
        ("WEBP", {}),
        ("PPM", {}),
        ("JPEG2000", {}),
    ):
        made.append(_image(Image.fromarray(colour), kind, **options))
    for image in (
        Image.fromarray(grey),
        Image.fromarray(grey.astype(np.uint16) * 200),
        Image.fromarray(colour).convert("P"),
        Image.fromarray(colour).convert("RGBA"),
        Image.fromarray(grey).convert("1"),
    ):
        made += [_image(image, "PNG"), _image(image, "TIFF")]
    return made


def _image(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image.save(buffer, kind, **options)
    return buffer.getvalue()


def hugging_face_header() -> bytes:
    """Header of a checkpoint in Hugging Face's names."""
    return text(split_header(save(hugging_face(small_state())))[0])


@cache
def small_archive() -> bytes:
    """A JIT archive of a few numbers."""

    class Inner(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2, 2))
            self.register_buffer("count", torch.tensor(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight + self.count

    class Outer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = Inner()
            self.proj = torch.nn.Parameter(torch.ones(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.visual(x) * self.proj

    def make(path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.trace(Outer(), torch.ones(1, 2), check_trace=False).save(str(path))

    return in_folder(make)
