"""Files that are only data run nothing, reach nothing else and hang nothing."""

from __future__ import annotations

import os
import pickle
import socket
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from cptlite.backbones import load_backbone
from cptlite.errors import DataError

VICTIM = b"as it was"


def hostile_module(victim: Path) -> nn.Module:
    """A scripted module that overwrites a file while `torch.jit.load` reads it."""
    name, size = str(victim), len(VICTIM)

    class Hostile(nn.Module):
        __constants__ = ("name", "size")

        def __init__(self) -> None:
            super().__init__()
            self.name, self.size = name, size
            self.weight = nn.Parameter(torch.zeros(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.weight

        @torch.jit.export
        def __getstate__(self) -> tuple[torch.Tensor, bool]:
            return (self.weight, self.training)

        @torch.jit.export
        def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
            written = torch.from_file(self.name, True, self.size, dtype=torch.uint8).fill_(88)
            self.weight = state[0] + written.sum()
            self.training = state[1]

    return Hostile()


class Wrapper(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.visual = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.visual(x)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("name", ["clip.pt", "clip.bin", "clip.safetensors"])
def test_a_hostile_archive_leaves_the_disk_as_it_was(nested: bool, there: bool, name: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    module = hostile_module(victim)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Wrapper(module) if nested else module).save(str(tmp_path / name))
    if there:
        victim.write_bytes(VICTIM)
    with pytest.raises(DataError, match="cannot read the checkpoint"):
        load_backbone(str(tmp_path / name), device="cpu")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, *["victim"] * there])
    assert not there or victim.read_bytes() == VICTIM
    # The recipe works where the archive is run, so that this test can fail.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.load(str(tmp_path / name))
    assert victim.read_bytes() == b"X" * len(VICTIM)


class HostileObject:
    """Pickled as a call that writes a file."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.victim),))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("key", ["model", "args", ""])
def test_a_hostile_pickle_leaves_the_disk_as_it_was(packed: bool, key: str, tmp_path: Path) -> None:
    content = {key: HostileObject(tmp_path / "victim")} if key else HostileObject(tmp_path / "victim")
    torch.save(content, tmp_path / "clip.pt", _use_new_zipfile_serialization=packed)
    with pytest.raises(DataError, match=r"an object '\w+\.mkdir', and only tensors are read"):
        load_backbone(str(tmp_path / "clip.pt"), device="cpu")
    (tmp_path / "clip.pt").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match="cannot read the checkpoint"):
        load_backbone(str(tmp_path / "clip.pt"), device="cpu")
    assert not (tmp_path / "victim").exists()


def make_special(kind: str, path: Path) -> None:
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as server:
            before = Path.cwd()
            os.chdir(path.parent)  # a socket's path may have 108 bytes
            try:
                server.bind(path.name)
            finally:
                os.chdir(before)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()


SPECIAL = ("a pipe", "a socket", "a device", "a folder")


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", ["clip.pt", "clip.safetensors"])
def test_a_special_file_as_a_checkpoint_is_not_opened(kind: str, name: str, tmp_path: Path) -> None:
    make_special(kind, tmp_path / name)
    with pytest.raises(DataError, match=f"wanted a checkpoint at .*, got {kind}"):
        load_backbone(str(tmp_path / name), device="cpu")


def test_a_special_file_as_a_configuration_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "clip.pt")
    with pytest.raises(DataError, match="do not fit"):
        load_backbone(str(tmp_path / "clip.pt"), device="cpu")
