"""Datasets fetched from a server of this machine: the folders that are read, whatever happens on the way."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from file_server import FileServer, serving
from filelock import FileLock
from PIL import Image
from scipy.io import savemat
from torchvision import datasets as torchvision
from typer.testing import CliRunner, Result

from cptlite.cli import app
from cptlite.datasets import DatasetSpec, find_dataset, load_catalog, read_dataset
from cptlite.download import dataset as downloading
from cptlite.download import fetch as fetching_files
from cptlite.download import sources
from cptlite.download.dataset import Download
from cptlite.errors import CptliteError, DataError

CATALOG = load_catalog()


def jpg(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def tgz(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def mat(**values: list[int]) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, values)
    return buffer.getvalue()


CLASSES = {name: [f"{name}/{n}.jpg" for n in range(4)] for name in ("a", "b")}
IMAGES = {path: jpg(seed) for seed, path in enumerate(path for paths in CLASSES.values() for path in paths)}


def below(folder: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": content for name, content in files.items()}


def archives() -> dict[str, dict[str, bytes]]:
    """Content of each class's files, tiny, as the real ones are laid out."""
    lists = {f"{part}1.txt": "".join(f"{c}/{n}.jpg\n" for c in CLASSES) for n, part in enumerate(("train", "val"))}
    lists["test1.txt"] = "".join(f"{c}/{n}.jpg\n" for c in CLASSES for n in (2, 3))
    variants = {
        f"images_variant_{part}.txt": f"{n} x\n{n + 3} y\n".encode() for n, part in enumerate(("train", "val", "test"))
    }
    pets = [f"{breed}_{n}" for breed in ("Pug", "Bengal") for n in range(4)]
    food = {c: [path.removesuffix(".jpg") for path in paths] for c, paths in CLASSES.items()}
    return {
        "Caltech101": {
            "caltech-101.zip": zipped(
                {
                    "caltech-101/101_ObjectCategories.tar.gz": tgz(below("101_ObjectCategories", IMAGES)),
                    "caltech-101/show_annotation.m": b"% no archive",
                    "__MACOSX/caltech-101/._Annotations.tar": b"",
                }
            )
        },
        "DTD": {
            "dtd-r1.0.1.tar.gz": tgz(
                below("dtd/images", IMAGES) | {f"dtd/labels/{n}": text.encode() for n, text in lists.items()}
            )
        },
        "EuroSAT": {"EuroSAT.zip": zipped(below("2750", IMAGES))},
        "FGVCAircraft": {
            "fgvc-aircraft-2013b.tar.gz": tgz(
                below("fgvc-aircraft-2013b/data", variants | {"variants.txt": b"x\ny\n"})
                | {f"fgvc-aircraft-2013b/data/images/{n}.jpg": jpg(n) for n in range(6)}
                | {"fgvc-aircraft-2013b/evaluation.m": b"%"}
            )
        },
        "Flowers102": {
            "102flowers.tgz": tgz({f"jpg/image_{n:05d}.jpg": jpg(n) for n in range(1, 7)}),
            "imagelabels.mat": mat(labels=[1, 2, 1, 2, 1, 2]),
            "setid.mat": mat(trnid=[1, 2], valid=[3, 4], tstid=[5, 6]),
        },
        "Food101": {
            "food-101.tar.gz": tgz(
                below("food-101/images", IMAGES)
                | {f"food-101/meta/{part}.json": json.dumps(food).encode() for part in ("train", "test")}
            )
        },
        "OxfordIIITPet": {
            "images.tar.gz": tgz({f"images/{name}.jpg": jpg() for name in pets}),
            "annotations.tar.gz": tgz(
                {f"annotations/{part}.txt": "".join(f"{n} 1 1 1\n" for n in pets).encode() for part in PARTS}
            ),
        },
        "SUN397": {"SUN397.tar.gz": tgz(below("SUN397/a", IMAGES))},
    }


PARTS = ("trainval", "test")
ARCHIVES = archives()
SPECS = [spec for spec in CATALOG.datasets.values() if spec.download]


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """Serve everything, and let torchvision's classes name this server."""
    with serving() as server:
        for kind, files in ARCHIVES.items():
            server.files |= {f"{kind}/{name}": content for name, content in files.items()}
            pairs = [(f"{server.url}/{kind}/{name}", md5(content)) for name, content in files.items()]
            of_class = getattr(torchvision, kind)
            if kind in sources.IN_METHODS:
                monkeypatch.setitem(sources.IN_METHODS, kind, pairs[0])
            elif kind == "OxfordIIITPet":
                monkeypatch.setattr(of_class, "_RESOURCES", tuple(pairs))
            elif kind == "Flowers102":
                monkeypatch.setattr(of_class, "_download_url_prefix", f"{server.url}/{kind}/")
                named = zip(("image", "label", "setid"), files.items(), strict=True)
                monkeypatch.setattr(of_class, "_file_dict", {key: (name, md5(of)) for key, (name, of) in named})
            elif kind == "SUN397":
                monkeypatch.setattr(of_class, "_DATASET_URL", pairs[0][0])
                monkeypatch.setattr(of_class, "_DATASET_MD5", pairs[0][1])
            else:
                monkeypatch.setattr(of_class, "_URL", pairs[0][0])
                monkeypatch.setattr(of_class, "_MD5", pairs[0][1], raising=kind != "FGVCAircraft")
        yield server


def of_dtd(server: FileServer, root: Path) -> Download:
    """A download of textures, with a split file of this server's."""
    rows = [[path, label, name] for label, name in enumerate(CLASSES) for path in CLASSES[name]]
    server.files["split.json"] = json.dumps({"train": rows[::2], "val": rows[1:2], "test": rows[3::2]}).encode()
    spec = replace(CATALOG.datasets["dtd"], split_url=f"{server.url}/split.json", counts=(4, 1, 3))
    return Download(spec=spec, root=root, waits=(0.0,))


def files_in(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_every_dataset_lies_as_it_is_read(spec: DatasetSpec, server: FileServer, tmp_path: Path) -> None:
    root = tmp_path / "data"
    folder = Download(spec=spec, root=root, split=False).run()
    assert spec.torchvision is not None
    assert folder == root / spec.torchvision.directory
    dataset = read_dataset(spec, root)
    paths = [path for rows in dataset.splits.values() for path in rows.paths]
    assert paths and all((dataset.image_root / path).is_file() for path in paths)
    assert not (root / "downloads").exists()
    asked = len(server.asked)
    assert asked == len(ARCHIVES[spec.download or ""])
    assert Download(spec=spec, root=root, split=False).run() == folder
    assert len(server.asked) == asked


def test_the_split_file_is_put_beside_and_read(server: FileServer, tmp_path: Path) -> None:
    fetching = of_dtd(server, tmp_path)
    notes: list[str] = []
    replace(fetching, on_note=notes.append).run()
    assert (tmp_path / "dtd/dtd/split_zhou_DescribableTextures.json").read_bytes() == server.files["split.json"]
    assert [len(read_dataset(fetching.spec, tmp_path).splits[split]) for split in ("train", "val", "test")] == [4, 1, 3]
    assert [line.split()[0] for line in notes] == ["fetching", "unpacking", "fetching"]
    assert not (tmp_path / "downloads").exists()


@pytest.mark.parametrize("wrong", [b"<html>sign in</html>", b'{"train": [], "val": [], "test": []}', None])
def test_without_the_split_file_it_says_what_is_missing(
    wrong: bytes | None, server: FileServer, tmp_path: Path
) -> None:
    fetching = of_dtd(server, tmp_path)
    good = server.files.pop("split.json")
    if wrong is not None:
        server.files["split.json"] = wrong
    with pytest.raises(DataError, match="without the split file that others use: (.|\n)*put it at .*Textures.json"):
        fetching.run()
    assert find_dataset(fetching.spec, tmp_path)
    assert not (tmp_path / "downloads").exists()
    replace(fetching, split=False).run()
    server.files["split.json"] = good
    before = len(server.asked)
    fetching.run()
    assert server.asked[before:] == [("split.json", None)]


def test_a_killed_transfer_goes_on(server: FileServer, tmp_path: Path) -> None:
    fetching = of_dtd(server, tmp_path)
    server.break_after = [1000, 0, 0]
    with pytest.raises(CptliteError, match="got 1000 bytes"):
        fetching.run()
    assert not (tmp_path / "dtd").exists()
    assert [path.name for path in downloading.parts_of(fetching.spec, tmp_path)] == ["dtd-r1.0.1.tar.gz.part"]
    fetching.run()
    assert ("DTD/dtd-r1.0.1.tar.gz", "bytes=1000-") in server.asked


def test_a_kill_while_unpacking_leaves_no_half_dataset(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetching = of_dtd(server, tmp_path)

    def kill(done: int, total: int | None, stage: str) -> None:
        if stage == "unpacking" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace(fetching, on_progress=kill).run()
    assert not find_dataset(fetching.spec, tmp_path)
    assert not (tmp_path / "dtd").exists()
    fetching.run()
    assert [path for path, _ in server.asked].count("DTD/dtd-r1.0.1.tar.gz") == 1
    assert not (tmp_path / "downloads").exists()


def test_an_archive_that_was_put_there_by_hand_is_taken(server: FileServer, tmp_path: Path) -> None:
    fetching = replace(of_dtd(server, tmp_path), split=False)
    server.answers = [404]
    with pytest.raises(DataError, match="answers 404") as caught:
        fetching.run()
    target = tmp_path / "downloads/dtd/dtd-r1.0.1.tar.gz"
    assert f"put it at {target} and run the same command again" in str(caught.value)
    assert fetching.spec.page in str(caught.value)
    target.parent.mkdir(parents=True)
    target.write_bytes(server.files["DTD/dtd-r1.0.1.tar.gz"])
    fetching.run()
    assert len(server.asked) == 1


def test_an_archive_of_something_else_is_not_put_in_place(server: FileServer, tmp_path: Path) -> None:
    fetching = Download(spec=CATALOG.datasets["eurosat"], root=tmp_path, split=False)
    other = zipped({"readme.txt": b"moved"})
    server.files["EuroSAT/EuroSAT.zip"] = other
    sources.IN_METHODS["EuroSAT"] = (sources.IN_METHODS["EuroSAT"][0], md5(other))  # the fixture puts it back
    with pytest.raises(DataError, match="wanted archives of eurosat, .*eurosat/2750 are not in them"):
        fetching.run()
    assert not (tmp_path / "eurosat").exists()


def test_what_lies_there_is_not_replaced(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "dtd/dtd/images").mkdir(parents=True)
    (tmp_path / "dtd/dtd/split_mine.json").write_text("{}")
    fetching = replace(of_dtd(server, tmp_path), split=False)
    with pytest.raises(DataError, match="wanted to put images into .*dtd/dtd, where there is one; move it away"):
        fetching.run()
    (tmp_path / "dtd/dtd/images").rmdir()
    fetching.run()
    assert find_dataset(fetching.spec, tmp_path)
    assert (tmp_path / "dtd/dtd/split_mine.json").exists()


def test_two_at_once(server: FileServer, tmp_path: Path) -> None:
    fetching = of_dtd(server, tmp_path)
    (tmp_path / "downloads").mkdir()
    with FileLock(tmp_path / "downloads/.dtd.lock"), pytest.raises(CptliteError, match="another process"):
        fetching.run()
    assert not server.asked
    fetching.run()


def test_a_full_disk_is_seen_before_it_is_full(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = server.files["DTD/dtd-r1.0.1.tar.gz"]
    free = downloading.SPARE + 2 * len(content)
    usage = downloading.shutil.disk_usage(tmp_path)._replace
    monkeypatch.setattr(downloading.shutil, "disk_usage", lambda folder: usage(free=free - 1))
    fetching = replace(of_dtd(server, tmp_path), split=False)
    with pytest.raises(CptliteError, match="fetching and unpacking dtd wants 0.3 GiB"):
        fetching.run()
    assert not files_in(tmp_path)
    monkeypatch.setattr(downloading.shutil, "disk_usage", lambda folder: usage(free=free))
    fetching.run()


def test_archives_are_kept_if_asked_for(server: FileServer, tmp_path: Path) -> None:
    replace(of_dtd(server, tmp_path), keep=True).run()
    assert files_in(tmp_path / "downloads") == ["dtd/dtd-r1.0.1.tar.gz"]


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["download", *map(str, words)])


def test_the_command_fetches_suites_and_manifests(server: FileServer, tmp_path: Path) -> None:
    manifest = tmp_path / "mine.toml"
    of_dtd(server, tmp_path)
    manifest.write_text(f'[datasets.dtd]\nsplit_url = "{server.url}/split.json"\ncounts = [4, 1, 3]\n')
    done = call(manifest, "--root", tmp_path / "data")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"dtd: {tmp_path}/data/dtd/dtd\n"
    assert f"fetching {server.url}/DTD/dtd-r1.0.1.tar.gz" in done.stderr
    both = call("fgvc", "food101", "--root", tmp_path / "data", "--no-split", "--json")
    assert [each["name"] for each in json.loads(both.stdout)["results"]] == ["fgvc_aircraft", "food101"]


def test_one_that_fails_does_not_keep_others_from_coming(server: FileServer, tmp_path: Path) -> None:
    done = call("stanford_cars", "fgvc", "--root", tmp_path)
    assert done.exit_code == 3
    assert done.stdout == f"fgvc_aircraft: {tmp_path}/fgvc-aircraft-2013b/data\n"
    assert "get it from https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md#stanfordcars and place it as" in (
        done.stderr
    )
    assert f"{tmp_path}/stanford_cars/" in done.stderr


@pytest.mark.parametrize("name", [name for name, spec in CATALOG.datasets.items() if spec.page and not spec.download])
def test_what_is_fetched_by_hand_says_where_it_is_and_belongs(name: str, tmp_path: Path) -> None:
    done = call(name, "--root", tmp_path / "data")
    assert done.exit_code == 3
    assert CATALOG.datasets[name].page in done.stderr
    assert f"{tmp_path}/data/{CATALOG.datasets[name].layout.directory}/" in done.stderr
    assert not (tmp_path / "data").exists()


def test_an_interrupt_says_what_is_kept(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    server.break_after = [1000, 0]
    monkeypatch.setattr(fetching_files.time, "sleep", interrupt)
    done = call("fgvc", "--root", tmp_path)
    assert done.exit_code == 130
    assert f"kept: {tmp_path}/downloads/fgvc_aircraft/fgvc-aircraft-2013b.tar.gz.part, 0.0 MB" in done.stderr
    assert "the same command goes on" in done.stderr


def test_the_list_fits_a_terminal(tmp_path: Path) -> None:
    shown = call("--list", "--root", tmp_path)
    assert shown.exit_code == 0
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert all(spec.name in shown.stdout for spec in SPECS)
    facts = json.loads(call("--list", "--root", tmp_path, "--json", "dtd", "ucf101").stdout)["results"]
    assert [(each["name"], each["fetched"], each["found"]) for each in facts] == [
        ("dtd", True, False),
        ("ucf101", False, False),
    ]
    assert facts[0]["files"] == [{"url": torchvision.DTD._URL, "md5": torchvision.DTD._MD5}]
    assert os.listdir(tmp_path) == []


def test_no_name_and_an_unknown_one() -> None:
    assert call().exit_code == 2
    assert call("cifra").exit_code == 2
