"""TorchScript archives are read to the bit without running them."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_fakes import save_archive, tiny_clip

from cptlite.backbones import load_backbone
from cptlite.backbones.archives import read_torch
from cptlite.backbones.checkpoints import read_state_dict
from cptlite.errors import DataError
from cptlite.files import BoundedReader

Entries = dict[str, bytes]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "clip.pt"
    save_archive(tiny_clip(), path)
    return path


def rewritten(source: Path, target: Path, change: Callable[[Entries], None], packing: int = zipfile.ZIP_STORED) -> Path:
    """Copy an archive with its entries changed; the folder in front of their names is left out of the keys."""
    with zipfile.ZipFile(source) as archive:
        folder = archive.namelist()[0].partition("/")[0]
        entries = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(target, "w", packing) as archive:
        for name, content in entries.items():
            archive.writestr(f"{folder}/{name}", content)
    return target


def read_file(path: Path) -> Any:
    with BoundedReader(path) as file:
        return read_torch(file)


@pytest.mark.parametrize("half", [False, True])
def test_an_archive_gives_what_torch_gives_to_the_bit(tmp_path: Path, half: bool) -> None:
    save_archive(tiny_clip(), tmp_path / "clip.pt", half=half)
    wanted = torch.jit.load(str(tmp_path / "clip.pt"), map_location="cpu").state_dict()
    found = read_file(tmp_path / "clip.pt")
    assert list(found) == list(wanted)
    for key, value in wanted.items():
        assert found[key].dtype == value.dtype and found[key].shape == value.shape, key
        assert torch.equal(found[key], value), key
    assert (torch.float16 in {value.dtype for value in found.values()}) == half


@pytest.mark.parametrize("zipped", [True, False])
def test_what_a_training_script_saved_is_read_to_the_bit(tmp_path: Path, zipped: bool) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).to(torch.bfloat16)
    adam = torch.optim.AdamW(model.parameters(), amsgrad=True)
    model(torch.ones(4, 3, dtype=torch.bfloat16)).sum().backward()
    adam.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(adam, [3, 5])  # which keeps a Counter
    shared = torch.arange(6.0).view(2, 3)
    saved = {
        "model": model.state_dict(),
        "optimizer": adam.state_dict(),
        "schedule": schedule.state_dict(),
        "parameter": torch.nn.Parameter(shared.double()),
        "views": [shared, shared.T, shared[1], torch.empty(0)],
        "beside": [shared.shape, torch.device("cpu"), torch.float16, {1, 2}, b"bytes", 2j, None, True, 10**12, -0.5],
    }
    torch.save(saved, tmp_path / "saved.pt", _use_new_zipfile_serialization=zipped)
    wanted, found = torch.load(tmp_path / "saved.pt", weights_only=True), read_file(tmp_path / "saved.pt")
    assert found["beside"][-4:] == wanted["beside"][-4:] and found["model"].keys() == wanted["model"].keys()
    for name in ("model", "optimizer", "parameter", "views"):
        pairs = list(zip(tensors_in(found[name]), tensors_in(wanted[name]), strict=True))
        assert pairs
        for own, theirs in pairs:
            assert own.dtype == theirs.dtype and own.stride() == theirs.stride() and torch.equal(own, theirs)
    assert found["views"][0].data_ptr() == found["views"][1].data_ptr()


@pytest.mark.parametrize("key", [b"K\x01", b")" + b"\x85" * 200_000, b"X\x01\x00\x00\x00x"])
def test_storages_of_an_old_file_have_names_that_its_pickle_has(tmp_path: Path, key: bytes) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "old.pt").read_bytes()
    place = content.rindex(b"\x80\x02]q\x00")
    changed = content[:place] + b"\x80\x02]" + key + b"a." + content[content.index(b"a.", place) + 2 :]
    (tmp_path / "old.pt").write_bytes(changed)
    with pytest.raises(DataError, match="its list of storages is damaged"):
        load_backbone(str(tmp_path / "old.pt"))


def tensors_in(content: Any) -> list[torch.Tensor]:
    if isinstance(content, torch.Tensor):
        return [content]
    items = content.values() if isinstance(content, dict) else content if isinstance(content, list | tuple) else ()
    return [tensor for item in items for tensor in tensors_in(item)]


def test_an_archive_in_another_byte_order(honest: Path, tmp_path: Path) -> None:
    def swap(entries: Entries) -> None:
        entries["byteorder"] = b"big"
        for name, content in entries.items():
            if name.startswith("data/"):  # numbers of 8 bytes are the facts alone
                size = 8 if len(content) == 8 else 4
                entries[name] = b"".join(content[place : place + size][::-1] for place in range(0, len(content), size))

    swapped = read_file(rewritten(honest, tmp_path / "big.pt", swap))
    plain = read_file(honest)
    assert all(torch.equal(swapped[key], plain[key]) for key in plain)


def test_the_facts_are_no_weights_and_the_digest_is_that_of_a_state_dict(honest: Path, tmp_path: Path) -> None:
    torch.save(tiny_clip().state_dict(), tmp_path / "plain.pt")
    assert read_state_dict(honest).keys() == tiny_clip().state_dict().keys()
    digests = {load_backbone(str(path), device="cpu").weights_sha256 for path in (honest, tmp_path / "plain.pt")}
    assert len(digests) == 1


def replaced(old: bytes, new: bytes) -> Callable[[Entries], None]:
    def change(entries: Entries) -> None:
        assert old in entries["data.pkl"]
        entries["data.pkl"] = entries["data.pkl"].replace(old, new, 1)

    return change


def shorten(entries: Entries) -> None:
    entries["data/0"] = entries["data/0"][:-4]


def two_pickles(entries: Entries) -> None:
    del entries["data.pkl"]


NAME = b"ctorch._utils\n_rebuild_tensor_v2\n"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (replaced(NAME, b"cos\nsystem\n"), "an object 'os.system'"),
        (replaced(NAME, b"ctorch\nfrom_file\n"), "an object 'torch.from_file'"),
        (replaced(NAME, b"cbuiltins\neval\n"), "'builtins.eval'"),
        (replaced(b"c__torch__.", b"csubprocess."), "'subprocess.clip.model"),
        (
            replaced(b"ctorch\nFloatStorage\n", b"ctorch\nComplexFloatStorage\n"),
            "'torch.ComplexFloatStorage'",
        ),
        (replaced(b"\x80\x02", b"\x80\x02r\xff\xff\xff\x7f"), "IndexError"),
        (replaced(b"\x80\x02", b"\x80\x02\x96\x00\x00\x00\x00\x00\x00\x00\x00"), "instruction BYTEARRAY8"),
        (replaced(b"\x80\x02", b"\x80\x02\x8e\xff\xff\xff\xff\xff\xff\x00\x00"), "only"),
        (
            replaced(b"K\x4dK\x40", b"K\xffK\x40"),
            "lies outside of its storage of 4928",
        ),  # of the first tensor, (77, 64)
        # Python dies of the digest of a tuple this deep.
        (replaced(b"\x80\x02", b"\x80\x02})" + b"\x85" * 200_000 + b"K\x01s"), "keys are neither texts nor"),
        (replaced(b"\x80\x02", b"\x80\x02cbuiltins\nbytearray\n"), "an object 'builtins.bytearray'"),
        (shorten, "claims 4928 numbers of torch.float32, its entry has 19708 bytes"),
        (two_pickles, "0 entries data.pkl"),
    ],
)
def test_what_no_clip_needs_is_refused(
    honest: Path, tmp_path: Path, change: Callable[[Entries], None], reason: str
) -> None:
    path = rewritten(honest, tmp_path / "changed.pt", change)
    with pytest.raises(DataError, match=rf"(?s)cannot read the checkpoint.*{re.escape(reason)}"):
        load_backbone(str(path))


def test_a_tensor_that_repeats_its_storage_is_refused(honest: Path, tmp_path: Path) -> None:
    # Of the first tensor, (77, 64) with strides (64, 1).
    repeated = replaced(b"(K\x4dK\x40t(K\x40K\x01t", b"(J\x00\x00\x00\x7fK\x40t(K\x00K\x01t")
    with pytest.raises(DataError, match="claims 136365211648 numbers, its storage has 4928"):
        load_backbone(str(rewritten(honest, tmp_path / "changed.pt", repeated)))


def test_packed_and_doubled_entries_are_refused(honest: Path, tmp_path: Path) -> None:
    packed = rewritten(honest, tmp_path / "packed.pt", lambda entries: None, zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match="is compressed"):
        load_backbone(str(packed))
    doubled = rewritten(honest, tmp_path / "doubled.pt", lambda entries: None)
    with zipfile.ZipFile(doubled, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(archive.namelist()[0], b"")
    with pytest.raises(DataError, match="stands twice"):
        load_backbone(str(doubled))


@pytest.mark.parametrize("name", ["version", "byteorder", "Data/0", "code.py"])
def test_only_code_may_be_packed(honest: Path, tmp_path: Path, name: str) -> None:
    """PyTorch reads some entries before anything else, and finds them in any case of their letters."""
    path = rewritten(honest, tmp_path / "packed.pt", lambda entries: without(entries, name))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{archive.namelist()[0].partition('/')[0]}/{name}", b"\0" * 2**20)
    with pytest.raises(DataError, match=f"{name}' is compressed"):
        load_backbone(str(path))


def without(entries: Entries, name: str) -> None:
    entries.pop(name, None)


def test_entries_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """Many entries of a zip's directory may point to one place, each of the file's whole size."""
    torch.save({"weight": torch.zeros(1000)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as archive:
        entries = archive.infolist()
    largest = max(entries, key=lambda entry: entry.file_size)
    with zipfile.ZipFile(tmp_path / "plain.pt", "a") as archive:
        for number in range(5):
            entry = zipfile.ZipInfo(f"plain/data/{100 + number}")
            entry.header_offset, entry.CRC = largest.header_offset, largest.CRC
            entry.file_size = entry.compress_size = largest.file_size
            archive.filelist.append(entry)
            archive.NameToInfo[entry.filename] = entry
        archive._didModify = True  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="claim more bytes than the file has"):
        load_backbone(str(tmp_path / "plain.pt"))


def test_a_flipped_bit_of_a_weight_is_seen(honest: Path, tmp_path: Path) -> None:
    content = bytearray(honest.read_bytes())
    with zipfile.ZipFile(honest) as archive:
        place = archive.getinfo(f"{archive.namelist()[0].partition('/')[0]}/data/1").header_offset
    content[place + 2000] ^= 1
    (tmp_path / "flipped.pt").write_bytes(content)
    with pytest.raises(DataError, match="cannot read the checkpoint .*Bad CRC-32"):
        load_backbone(str(tmp_path / "flipped.pt"))
