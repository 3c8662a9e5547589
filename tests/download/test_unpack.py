"""Archives of every kind, and those that are made to harm."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from cptlite.download import unpack as unpacking
from cptlite.download.unpack import unpack
from cptlite.errors import DataError

FILES = {"images/a/1.jpg": b"one", "images/b/2.jpg": b"two", "labels.txt": b"a\nb\n"}


def tar_of(members: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for member, content in members:
            if member.isreg():
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, **facts: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    for key, value in facts.items():
        setattr(made, key, value)
    return made


def zip_of(members: dict[str | zipfile.ZipInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def unpacked(content: bytes, folder: Path) -> int:
    """Unpack bytes into ``folder/in``, where nothing but that may change."""
    (folder / "archive").write_bytes(content)
    return unpack(folder / "archive", folder / "in")


@pytest.mark.parametrize("kind", ["w:gz", "w", "zip"])
def test_every_kind_unpacks(kind: str, tmp_path: Path) -> None:
    content = zip_of(dict(FILES)) if kind == "zip" else tar_of([(member(n), c) for n, c in FILES.items()], kind)
    seen: list[tuple[int, int | None]] = []
    (tmp_path / "archive").write_bytes(content)
    assert unpack(tmp_path / "archive", tmp_path / "in", lambda *now: seen.append(now)) == 0
    assert tree(tmp_path / "in") == FILES
    assert seen[-1] == (3, 3 if kind == "zip" else None)


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/../../out", "a\\..\\..\\out", ".", "x/" * 40 + "y"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_no_member_leaves_the_folder(kind: str, name: str, tmp_path: Path) -> None:
    content = zip_of({name: b"x"}) if kind == "zip" else tar_of([(member(name), b"x")])
    with pytest.raises(DataError, match="cannot unpack it"):
        unpacked(content, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "in"]
    assert not tree(tmp_path / "in")


LINKS = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)


@pytest.mark.parametrize("kind", LINKS)
def test_links_and_devices_are_left_out(kind: bytes, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    link = member("link", kind, linkname="../out")
    assert unpacked(tar_of([(link, b""), (member("link/evil"), b"x"), (member("good"), b"y")]), tmp_path) == 1
    assert tree(tmp_path / "in") == {"link/evil": b"x", "good": b"y"}
    assert not tree(tmp_path / "out")


def test_links_of_a_zip_are_left_out(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    assert unpacked(zip_of({link: b"/etc", "good": b"y"}), tmp_path) == 1
    assert tree(tmp_path / "in") == {"good": b"y"}


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_bomb_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "ALWAYS", 2**16)
    zeros = bytes(2**22)
    with pytest.raises(DataError, match="far more bytes than it has"):
        unpacked(zip_of({"zeros": zeros}) if kind == "zip" else tar_of([(member("zeros"), zeros)]), tmp_path)
    assert sum(map(len, tree(tmp_path / "in").values())) < 2**20


def test_a_bomb_behind_the_last_member_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "ALWAYS", 2**16)
    content = gzip.compress(tar_of([(member("a"), b"x")], "w") + bytes(2**22))
    with pytest.raises(DataError, match="far more bytes than it has"):
        unpacked(content, tmp_path)


def test_a_long_header_is_not_read(tmp_path: Path) -> None:
    header = member("long", tarfile.GNUTYPE_LONGNAME, size=2**32)
    with pytest.raises(DataError, match="a header claims 4294967296 bytes"):
        unpacked(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(2**20)), tmp_path)


def test_more_members_than_any_dataset_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "MAX_MEMBERS", 2)
    for content in (tar_of([(member(str(n)), b"") for n in range(5)]), zip_of({str(n): b"" for n in range(5)})):
        with pytest.raises(DataError, match="more than 2 members"):
            unpacked(content, tmp_path)


@pytest.mark.parametrize("cut", [0.2, 0.6, 0.95])
@pytest.mark.parametrize("kind", ["w:gz", "zip"])
def test_half_an_archive_is_no_archive(kind: str, cut: float, tmp_path: Path) -> None:
    files = {f"{n}.jpg": os.urandom(3000) for n in range(20)}
    content = zip_of(dict(files)) if kind == "zip" else tar_of([(member(n), c) for n, c in files.items()], kind)
    with pytest.raises(DataError, match="wanted an archive, cannot unpack it"):
        unpacked(content[: int(len(content) * cut)], tmp_path)


@pytest.mark.parametrize("content", [b"", b"<html>no</html>", b"PK\x03\x04" + bytes(50), b"\x1f\x8b" + bytes(50)])
def test_no_archive_at_all(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="wanted an archive, cannot unpack it"):
        unpacked(content, tmp_path)
