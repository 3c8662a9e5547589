"""Every reader of files that a user, another program or damage may have written, for fuzzing: one row a reader.

A reader is added by a row in `TARGETS`. What it must hold to is in `fuzz_oracle`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fuzz_readers as readers
import fuzz_seeds as seeds
import torch
from fuzz_hdf5 import EDITS, WORDS
from fuzz_oracle import check
from fuzz_seeds import CUT

from cptlite.cli.bench import _read_classes
from cptlite.datasets.images import UnreadableImageError
from cptlite.datasets.types import SPLITS
from cptlite.errors import CptliteError
from cptlite.reporting import long_form
from cptlite.runs.class_images import read_predicted
from cptlite.runs.prompts import read_prompts
from cptlite.training.checkpoint import read_log, resume


@dataclass(frozen=True, kw_only=True)
class Target:
    """A reader.

    Attributes
    ----------
    place : callable of (Path, bytes) to None
        Lays the reader's files into a folder, which holds those of an earlier call.
    read : callable of Path to anything
        Calls the reader on the folder; asserts what must be true of what it returns.
    seeds : callable of () to sequence of bytes
        Valid inputs, small.
    words : sequence of bytes
        What else such files hold.
    allowed : tuple of exceptions
        What the reader may raise.
    mebibytes : int
        Memory that it may take over what the process has.
    """

    place: Callable[[Path, bytes], None]
    read: Callable[[Path], Any]
    seeds: Callable[[], Sequence[bytes]]
    words: Sequence[bytes] = ()
    allowed: tuple[type[Exception], ...] = (CptliteError,)
    mebibytes: int = 512

    def check(self, folder: Path, content: bytes) -> None:
        """Read a content; `fuzz_oracle.Finding` says what is wrong."""
        self.place(folder, content)
        check(self.read, folder, self.allowed, self.mebibytes)


def listed(reader: str, names: Sequence[str], contents: Iterable[bytes], **layout: Any) -> Target:
    """Row for a reader of class and image lists."""
    whole = CUT.join(contents)
    return Target(
        place=readers.files(*names),
        read=readers.in_dataset(reader=reader, **layout),
        seeds=lambda: [whole],
        words=(b"\t", CUT, b","),
    )


ARRAY_WORDS = (
    b"'|O'",
    b"'<U9'",
    b"'<f8'",
    b"(99999999, 9)",
    b"\x93NUMPY",
    b"\x01\x00",
    b"\x03\x00",
    b"PK\x03\x04",
    b"()",
)
JSON_WORDS = tuple(b'null true 1e999 -1 NaN Infinity 1.5 "" {} [] [[]] 9223372036854775808'.split())
KEYS = tuple(f'"{name}"'.encode() for name in (*seeds.RESULTS, *seeds.CONFIG["config"], "sha256", "metric", "acc1"))
SEALED = {**seeds.RESULTS, "sha256": "0" * 64}
GLOBALS = tuple(
    f"c{name}\n".encode()
    for name in (
        "builtins\nbytearray",
        "collections\nOrderedDict",
        "torch\nFloatStorage",
        "torch\nFloatTensor",
        "torch.storage\nUntypedStorage",
        "torch._utils\n_rebuild_tensor_v2",
        "torch._utils\n_rebuild_sparse_tensor",
        "torch._utils\n_rebuild_parameter",
        "posix\nsystem",
    )
)
PICKLE_WORDS = (
    *GLOBALS,
    b"R",
    b"b",
    b"\x81",
    b"Q",
    b"(",
    b"t",
    b"u",
    b"e",
    b"h\0",
    b"q\0",
    b"}",
    b"]",
    b"\x85",
    b"\x86",
)
LISTS: dict[str, Target] = {
    "fgvc": listed(
        "fgvc", ["variants.txt", *(f"images_variant_{split}.txt" for split in SPLITS)], seeds.CLASSES["fgvc"]
    ),
    "dtd": listed("dtd_lists", [f"labels/{split}1.txt" for split in SPLITS], seeds.CLASSES["dtd"]),
    "pets": listed("pet_lists", ["annotations/trainval.txt", "annotations/test.txt"], seeds.CLASSES["pets"]),
    "food": listed("food_lists", ["meta/train.json", "meta/test.json"], seeds.CLASSES["food"]),
}


TARGETS: dict[str, Target] = {
    "csv": Target(
        place=readers.file("rows.csv"),
        read=readers.in_dataset(reader="csv", split="rows.csv"),
        seeds=lambda: seeds.CSV,
        words=(b'"', b";", b"\t", b"|", b"sep=|\n", b"train", b"validation", b"../", b"\xff\xfe", b"C:\\"),
    ),
    "split": Target(
        place=readers.file("split.json"),
        read=readers.in_dataset(reader="split_file", split="split.json"),
        seeds=lambda: [seeds.text(seeds.COOP), seeds.text(seeds.SOFTCPT)],
        words=(*JSON_WORDS, b'"meta"', b'"taskid2cname"', b'"../"'),
    ),
    "manifest": Target(
        place=readers.file("manifest.toml"),
        read=readers.read_manifest,
        seeds=lambda: [seeds.MANIFEST],
        words=(*JSON_WORDS, b"[[datasets]]", b"inf", b"1979-05-27", b"'''", b"[suites.x]", b"datasets.dtd."),
    ),
    "matlab": Target(
        place=lambda folder, content: [
            readers.file(f"{name}.mat")(folder, content) for name in ("setid", "imagelabels")
        ][0],
        read=readers.in_dataset(reader="flower_lists"),
        seeds=lambda: [seeds.matlab(packed=False), seeds.matlab(packed=True)],
    ),
    **LISTS,
    "imagenet": Target(
        place=readers.place_folders("classnames.txt", "n00000001", "n00000002"),
        read=readers.in_dataset(reader="imagenet_test"),
        seeds=lambda: seeds.CLASSES["imagenet"],
    ),
    "tasks": Target(
        place=readers.place_folders("task_info.csv", "0/0", "0/1", "1/0", "1/1"),
        read=readers.in_dataset(reader="task_folders"),
        seeds=lambda: seeds.CLASSES["tasks"],
        words=(b"\t", b","),
    ),
    "bench": Target(
        place=readers.file("classes.json"),
        read=lambda folder: _read_classes(folder / "classes.json"),
        seeds=lambda: seeds.CLASSES["bench"],
        words=JSON_WORDS,
    ),
    "class-texts": Target(
        place=readers.file("texts.json"),
        read=readers.read_texts,
        seeds=lambda: [seeds.text({"cat": ["it purrs."], "pets": {"cat": ["a pet."], "Big_dog": []}})],
        words=(*JSON_WORDS, b'"cat"', b'"CAT"', b'"pets"'),
    ),
    "images": Target(
        place=readers.file("image.jpg"),
        read=readers.read_image,
        seeds=seeds.images,
        allowed=(UnreadableImageError,),
        mebibytes=128,
    ),
    "cache": Target(
        place=readers.file("cache/fake/drawn.h5"),
        read=readers.read_cache,
        seeds=lambda: [seeds.cache_file("v110"), seeds.cache_file("earliest")],
    ),
    "cache-edits": Target(place=readers.place_edits, read=readers.read_cache, seeds=lambda: EDITS, words=WORDS),
    "manifest-of-parts": Target(
        place=readers.place_parts(part=readers.part()),
        read=readers.read_parts,
        seeds=lambda: [readers.manifest()],
        words=JSON_WORDS,
    ),
    "part": Target(
        place=readers.place_parts(manifest=readers.manifest()), read=readers.read_parts, seeds=lambda: [readers.part()]
    ),
    "results": Target(
        place=readers.file("run/results.json"),
        read=readers.report,
        seeds=lambda: [seeds.text(seeds.RESULTS)],
        words=(*JSON_WORDS, *KEYS),
    ),
    "kept-results": Target(
        place=readers.file("kept.csv"),
        read=lambda folder: readers.report(folder / "kept.csv"),
        seeds=lambda: [long_form([seeds.RESULTS]).encode()],
        words=(b'""', b"nan", b"1e999", b"-1", b"9" * 400, b"base", b"config.", b"true", *KEYS),
    ),
    "finished": Target(
        place=readers.place_run(config=seeds.text(seeds.CONFIG)),
        read=readers.read_finished,
        seeds=lambda: [seeds.text(SEALED)],
        words=(*JSON_WORDS, *KEYS, b'"files"', b'"../'),
    ),
    "config": Target(
        place=readers.place_run(
            results=seeds.text({name: value for name, value in seeds.RESULTS.items() if name != "config"})
        ),
        read=lambda folder: (readers.read_finished(folder), readers.report(folder)),
        seeds=lambda: [seeds.text(seeds.CONFIG)],
        words=(*JSON_WORDS, *KEYS),
    ),
    "log": Target(
        place=readers.place_log,
        read=read_log,
        seeds=lambda: [seeds.text(seeds.STEP) + b"\n" + seeds.text({**seeds.STEP, "step": 1, "crc32": 1}) + b"\n"],
        words=JSON_WORDS,
    ),
    "predictions": Target(
        place=readers.file("run/predictions.csv"),
        read=lambda folder: [row.own_at_most for row in read_predicted(folder / "run")],
        seeds=lambda: [seeds.PREDICTIONS],
        words=(b'"', b"nan", b"1e999", b"-1", b"0", b"9" * 400, b"of_half"),
    ),
    "prompts": Target(
        place=readers.place_prompts,
        read=lambda folder: read_prompts(folder, {"context": torch.zeros(2, 3)}),
        seeds=lambda: [seeds.prompts()],
        words=JSON_WORDS,
    ),
    "checkpoint": Target(
        place=readers.place_checkpoint,
        read=lambda folder: resume(folder, readers.State()),
        seeds=lambda: [seeds.training_checkpoint()],
    ),
    "classifier": Target(
        place=readers.place_classifier,
        read=readers.read_classifier,
        seeds=lambda: [readers.classifier_parts(kind) for kind in ("linear", "tip", "tip-x", "ape", "joined")],
        words=JSON_WORDS,
    ),
    "weights": Target(
        place=readers.place_header,
        read=readers.read_backbone("clip.safetensors"),
        seeds=lambda: [readers.small_header()],
        words=JSON_WORDS,
    ),
    "weights-configuration": Target(
        place=readers.place_configuration("config.json"),
        read=readers.read_backbone("clip.safetensors"),
        seeds=lambda: [seeds.text(seeds.HUGGING_FACE), seeds.text(seeds.OPEN_CLIP)],
        words=JSON_WORDS,
    ),
    "features-npz": Target(
        place=readers.file("f.npz"),
        read=readers.read_features("f.npz"),
        seeds=lambda: [seeds.numpy_file(seeds.feature_arrays(), packed=packed) for packed in (False, True)],
        words=ARRAY_WORDS,
    ),
    "features-npy": Target(
        place=readers.files("m.csv", "f.npy"),
        read=readers.read_features("f.npy", "m.csv"),
        seeds=lambda: [CUT.join((seeds.METADATA, seeds.numpy_file(seeds.feature_arrays()["features"])))],
        words=(*ARRAY_WORDS, b'"', b";", b"train", b"../", b"\xff\xfe"),
    ),
    "features-torch": Target(
        place=readers.file("f.pt"),
        read=readers.read_features("f.pt"),
        seeds=lambda: [seeds.torch_file({"features": torch.ones(4, 3), "labels": torch.tensor([0, 1, 0, 1])})],
        words=PICKLE_WORDS,
    ),
    "features-csv": Target(
        place=readers.file("f.csv"),
        read=readers.read_features("f.csv"),
        seeds=lambda: [seeds.LIGHTLY],
        words=(b'"', b"nan", b"1e999", b"embedding_2", b"embedding_99999999", b"../", b"\xff\xfe"),
    ),
    "archive": Target(
        place=readers.file("clip.pt"),
        read=readers.read_backbone("clip.pt"),
        seeds=lambda: [seeds.training_checkpoint(), seeds.small_archive()],
    ),
    "jit-pickle": Target(
        place=readers.place_pickle(jit=True),
        read=readers.read_backbone("clip.pt"),
        seeds=lambda: [seeds.entries(seeds.small_archive())["data.pkl"]],
        words=PICKLE_WORDS,
    ),
    "pickle": Target(
        place=readers.place_pickle(jit=False),
        read=readers.read_backbone("clip.pt"),
        seeds=lambda: [seeds.entries(seeds.training_checkpoint())["data.pkl"]],
        words=PICKLE_WORDS,
    ),
    "old-pickle": Target(
        place=readers.file("clip.pt"),
        read=readers.read_backbone("clip.pt"),
        seeds=lambda: [seeds.torch_file({"a": torch.ones(2)}, zipped=False)],
        words=PICKLE_WORDS,
    ),
}
