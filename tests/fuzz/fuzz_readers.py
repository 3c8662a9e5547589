"""What lays files out for a reader, calls it and asserts what must be true of what it returns."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fuzz_seeds as seeds
import numpy as np
import torch
from fuzz_hdf5 import apply_edits
from fuzz_seeds import CUT
from PIL import Image
from rich.console import Console

from cptlite.backbones.checkpoints import read_state_dict
from cptlite.backbones.weights import build_clip
from cptlite.cache import list_caches, open_cache, verify_cache
from cptlite.cache.imported import look_through
from cptlite.cache.labelled import ImportRequest, label_rows, read_request
from cptlite.cache.parts import PartStore, _read_identity, find_stores
from cptlite.classifiers.store import ENTRY, unpack_classifier
from cptlite.datasets import load_catalog, read_dataset
from cptlite.datasets.images import open_rgb, plain_pixels
from cptlite.datasets.locate import expected_tree, find_dataset
from cptlite.datasets.specs import DatasetSpec, Layout
from cptlite.datasets.types import SPLITS, Dataset, Task
from cptlite.errors import CptliteError
from cptlite.methods.class_texts import ClassTexts, read_class_texts
from cptlite.reporting import (
    group_results,
    latex_table,
    load_results,
    long_form,
    markdown_table,
    method_task_table,
    render_table,
    run_shots,
    summarize,
    summary_table,
)
from cptlite.runs.files import finished_results
from cptlite.runs.load import read_run

CATALOG = load_catalog()
MAX_PIXELS = 2**18  # of an image; Pillow's own limit takes seconds and hundreds of mebibytes to reach
Image.init()


def read_texts(folder: Path) -> None:
    """Class texts: every class has a list of them, and what is kept of a file is read as the same."""
    said = read_class_texts("descriptions", folder / "texts.json")
    task = Task(id="pets", name="pets", class_names=("cat", "big dog"), template="a {}.", metric="acc1")
    assert all(isinstance(each, str) and each.strip() for texts in said.of_classes([task]) for each in texts)
    kept = json.dumps(said.content, ensure_ascii=False).encode()  # as a run's folder has it
    assert ClassTexts("descriptions", json.loads(kept)) == said


def file(name: str) -> Callable[[Path, bytes], None]:
    """Lay out the content as one file."""

    def place(folder: Path, content: bytes) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return place


def files(*names: str) -> Callable[[Path, bytes], None]:
    """Lay out the content as several files, `CUT` between them; those that it lacks are empty."""

    def place(folder: Path, content: bytes) -> None:
        parts = content.split(CUT, len(names) - 1)
        for name, part in zip(names, [*parts, *[b""] * len(names)], strict=False):
            file(name)(folder, part)

    return place


def in_dataset(**layout: Any) -> Callable[[Path], None]:
    """Read the folder as a dataset of a layout."""
    spec = DatasetSpec(name="fuzzed", layout=Layout(directory=".", **layout), task_name="things")

    def read(folder: Path) -> None:
        dataset = read_dataset(spec, folder)
        _check_dataset(dataset)

    return read


def read_features(*names: str) -> Callable[[Path], None]:
    """Read features of the first name, with the table of the second, as far as they are before they are written."""
    spec = DatasetSpec(name="fuzzed", layout=Layout(directory=".", reader="folders"), task_name="things")

    def read(folder: Path) -> None:
        metadata = folder / names[1] if len(names) > 1 else None
        request = ImportRequest(sources=(("", folder / names[0]),), spec=spec, metadata=metadata)
        table = read_request(request)
        look_through(table, "float32")
        dataset, places = label_rows(request, table)
        _check_dataset(dataset)
        assert all(0 <= places[path] < table.num_rows for rows in dataset.splits.values() for path in rows.paths)

    return read


def _check_dataset(dataset: Dataset) -> None:
    sizes = np.array([len(task.class_names) for task in dataset.tasks])
    for split in SPLITS:
        rows = dataset.splits[split]
        assert ((rows.labels >= 0) & (rows.labels < sizes[rows.tasks])).all()
        assert not any(path.startswith("/") or ".." in path.split("/") for path in rows.paths)
    assert all(words.isprintable() for words in (*dataset.notes, *dataset.warnings))
    for task in dataset.tasks:
        words = (task.id, task.name, task.template, *task.class_names)
        assert all(word.strip() and word.encode() for word in words), words
    assert len(dataset.split_sha256) == 64


def read_manifest(folder: Path) -> None:
    """Resolve a manifest's datasets and look for their files; the folders it names are the user's own."""
    for spec in CATALOG.resolve([str(folder / "manifest.toml")]):
        expected_tree(spec)
        find_dataset(spec, folder)


def report(folder: Path) -> None:
    """All that ``cptlite report`` prints of a folder, or of a table kept as CSV."""
    loaded = load_results([folder])
    assert all(line.isprintable() for line in long_form(loaded).split("\n"))
    for title, results in group_results(loaded).items():
        json.dumps([asdict(each) for each in summarize(results)])
        tables = [summary_table(results, title)]
        tables += [method_task_table(results, shots, title) for shots in {run_shots(result) for result in results}]
        screen = io.StringIO()
        for table in tables:
            Console(file=screen, width=200, highlight=False, markup=False, emoji=False).print(render_table(table))
            screen.write(markdown_table(table) + latex_table(table))
        assert all(line.isprintable() for line in screen.getvalue().split("\n")), repr(screen.getvalue())


def place_run(*, results: bytes | None = None, config: bytes | None = None) -> Callable[[Path, bytes], None]:
    """Lay out a run's folder with one file of the content, digests made to fit as far as it has any."""

    def place(folder: Path, content: bytes) -> None:
        (folder / "classifier.safetensors").write_bytes(seeds.stored_classifier("linear"))
        (folder / "results.json").write_bytes(results or sealed_results(content))
        (folder / "config.json").write_bytes(config or content)

    return place


def sealed_results(content: bytes) -> bytes:
    """The content with its own digest, if it is a table that has a place for one."""
    with suppress(ValueError, RecursionError, AttributeError):
        table = json.loads(content)
        rest = {name: value for name, value in table.items() if name != "sha256"}
        if "sha256" in table:
            digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
            return seeds.text({**rest, "sha256": digest})
    return content


def read_finished(folder: Path) -> None:
    """What ``cptlite train`` reads of a run that is there, and what reads one back."""
    with suppress(CptliteError):
        finished_results(folder, {name: seeds.CONFIG[name] for name in ("config", "caches")})
    read_run(folder)


def place_log(folder: Path, content: bytes) -> None:
    """Lay out a log whose lines have checksums that fit, where they can have one."""
    lines = []
    for line in content.split(b"\n"):
        with suppress(ValueError, RecursionError, AttributeError, TypeError):
            step = json.loads(line)
            if step.pop("crc32", None) is not None:
                line = seeds.text({**step, "crc32": zlib.crc32(json.dumps(step).encode())})
        lines.append(line)
    (folder / "log.jsonl").write_bytes(b"\n".join(lines))


def place_prompts(folder: Path, content: bytes) -> None:
    """Lay out prompts whose digest fits, where there is a place for one."""
    (folder / "log.jsonl").write_bytes(seeds.text(seeds.STEP) + b"\n")
    zeros = b"0" * 64
    digest = hashlib.sha256(content).hexdigest().encode()
    (folder / "prompts.safetensors").write_bytes(content.replace(zeros, digest, 1))


def place_checkpoint(folder: Path, content: bytes) -> None:
    """Lay out a run's checkpoint whose digest fits."""
    digest = hashlib.sha256(content).hexdigest()
    (folder / "checkpoint.pt").write_bytes(f"cptlite checkpoint, sha256 {digest}\n".encode() + content)


class State:
    """What a checkpoint is read into."""

    steps_done = 0

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        torch.zeros(4).copy_(state_dict["model_state_dict"]["a"])
        self.steps_done = int(state_dict["epoch"])


def place_classifier(folder: Path, content: bytes) -> None:
    """Lay out a classifier of a header and a safetensors file, its digest made to fit."""
    entry, _, tensors = content.partition(CUT)
    with suppress(Exception):  # a file of which no digest can be made
        from safetensors.torch import load

        from cptlite.classifiers.store import _sha256

        header, numbers = seeds.split_header(tensors)
        table = json.loads(entry)
        table["sha256"] = _sha256(table, load(tensors))
        header["__metadata__"] = {ENTRY: json.dumps(table)}
        tensors = seeds.with_header(seeds.text(header), numbers)
    (folder / "classifier.safetensors").write_bytes(tensors)


def classifier_parts(kind: str) -> bytes:
    """Header of a classifier, and its file without."""
    header, numbers = seeds.split_header(seeds.stored_classifier(kind))
    entry = header.pop("__metadata__")[ENTRY].encode()
    return entry + CUT + seeds.with_header(seeds.text(header), numbers)


def read_classifier(folder: Path) -> None:
    """Read a classifier and score with it."""
    stored = unpack_classifier((folder / "classifier.safetensors").read_bytes())
    scores = stored.classifier.scores(torch.ones(2, stored.backbone.embed_dim))
    assert scores.shape == (2, len(stored.class_names))


def place_header(folder: Path, content: bytes) -> None:
    """Lay out a checkpoint of a header and as many zeros as a small CLIP has."""
    (folder / "clip.safetensors").write_bytes(seeds.with_header(content, b"\0" * small_bytes()))


def small_bytes() -> int:
    """Bytes of the smallest CLIP's numbers."""
    return sum(value.nbytes for value in seeds.small_state().values())


def small_header() -> bytes:
    """Header of the smallest CLIP."""
    return seeds.text(seeds.split_header(seeds.save(seeds.small_state()))[0])


def read_backbone(name: str) -> Callable[[Path], None]:
    """Read a checkpoint and build its CLIP."""

    def read(folder: Path) -> None:
        state = read_state_dict(folder / name)
        build_clip(state, "fuzzed")

    return read


def place_pickle(*, jit: bool) -> Callable[[Path, bytes], None]:
    """Lay out an archive around a pickle, with the storages that the seeds have."""

    def place(folder: Path, content: bytes) -> None:
        entries = seeds.entries(seeds.small_archive() if jit else seeds.training_checkpoint())
        (folder / "clip.pt").write_bytes(seeds.zipped({**entries, "data.pkl": content}))

    return place


def place_configuration(name: str) -> Callable[[Path, bytes], None]:
    """Lay out a configuration beside a checkpoint."""

    def place(folder: Path, content: bytes) -> None:
        if not (folder / "clip.safetensors").exists():
            (folder / "clip.safetensors").write_bytes(seeds.save(seeds.small_state()))
        (folder / name).write_bytes(content)

    return place


def read_image(folder: Path) -> None:
    """Read an image and cut its plain view."""
    most, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_PIXELS
    try:
        assert plain_pixels(open_rgb(folder / "image.jpg"), {"resize": 8}).shape == (8, 8, 3)
    finally:
        Image.MAX_IMAGE_PIXELS = most


def place_edits(folder: Path, content: bytes) -> None:
    """Lay out a cache that the content changes as `fuzz_hdf5` has it."""
    path = folder / "cache" / "fake" / "drawn.h5"
    file("cache/fake/drawn.h5")(folder, seeds.cache_file())
    apply_edits(path, content)


def read_cache(folder: Path) -> None:
    """Everything that reads a cache; listing never raises."""
    path = folder / "cache" / "fake" / "drawn.h5"
    for summary in list_caches(folder / "cache"):
        assert summary.problem.isprintable(), repr(summary.problem)
    with open_cache(path) as cache:
        for split in SPLITS:
            count = cache.num_rows(split)
            assert len(cache.labels(split)) == len(cache.row_tasks(split)) == len(cache.paths(split)) == count
            cache.features(split, range(count))
        assert len(cache.bad) == cache.attributes["bad_images"]
    verify_cache(path)


def place_parts(*, manifest: bytes | None = None, part: bytes | None = None) -> Callable[[Path, bytes], None]:
    """Lay out the parts of a pass, one file of which is the content, in the folder that its manifest names."""

    def place(folder: Path, content: bytes) -> None:
        shutil.rmtree(folder / "cache", ignore_errors=True)
        file("cache/fake/manifest.json")(folder, manifest or content)
        name = ".drawn.h5.parts-0"
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            identity = _read_identity(folder / "cache/fake/manifest.json")
            name = PartStore(folder / "cache/fake/drawn.h5", identity).folder.name
        file(f"cache/fake/{name}/manifest.json")(folder, manifest or content)
        file(f"cache/fake/{name}/train-000000.npz")(folder, part or content)

    return place


def read_parts(folder: Path) -> None:
    """What lists passes that are not finished, and finds what they may go on from."""
    for summary in list_caches(folder / "cache"):
        assert all(map(str.isprintable, (summary.dataset, summary.backbone, summary.dtype)))
    for store in find_stores(folder / "cache"):
        store.encoded("train", 4)


def manifest() -> bytes:
    """What a pass writes beside its parts."""
    with TemporaryDirectory() as folder:
        file("drawn.h5")(Path(folder), seeds.cache_file())
        with open_cache(Path(folder) / "drawn.h5") as cache:
            identity = {"schema_version": 2, "part_rows": 4, "anew": False}
            return seeds.text({**identity, "fingerprint": asdict(cache.fingerprint)})


def part() -> bytes:
    """A part of two rows, one of them encoded."""
    buffer = io.BytesIO()
    np.savez(buffer, features=np.ones((2, 1, 4), np.float16), ok=np.array([True, False]))
    return buffer.getvalue()


def place_folders(name: str, *folders: str) -> Callable[[Path, bytes], None]:
    """Lay out a list beside folders of one image each."""

    def place(folder: Path, content: bytes) -> None:
        for each in folders:
            file(f"{each}/1.png")(folder, b"")
        file(name)(folder, content)

    return place
