"""What stopped passes leave, found and removed; caches and passes at work stay as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cptlite.cache.prune import find_leftovers
from cptlite.cache.write import writing
from cptlite.cli import app
from cptlite.files import locked

PARTS = ".leaves.h5.parts-0123456789abcdef"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache, what killed passes left beside it, and files of the user's."""
    home = tmp_path / "cache/demo"
    (home / PARTS).mkdir(parents=True)
    (home / PARTS / "train-000000.npz").write_bytes(b"x" * 2**20)
    for name in (
        "leaves.h5",
        ".leaves.h5.lock",
        ".leaves.h5.shard-2.lock",
        ".leaves.h5.123.tmp",
        ".mine",
        ".leaves.h5.parts-mine",
        "coins.h5",
    ):
        (home / name).write_bytes(name.encode())
    (home / ".coins.h5.lock").symlink_to(home / "coins.h5")
    return tmp_path / "cache"


LOCKS = {".leaves.h5.lock": "lock", ".leaves.h5.shard-2.lock": "lock"}
LEFT = {PARTS: "parts", **LOCKS, ".leaves.h5.123.tmp": "temporary"}


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "demo").iterdir()}


def prune(folder: Path, *words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["caches", "--cache-dir", str(folder), *words])
    return done.exit_code, done.stdout, done.stderr


def test_leftovers_are_found_and_nothing_else(folder: Path) -> None:
    assert {each.path.name: each.kind for each in find_leftovers(folder)} == LEFT
    assert {each.target.name for each in find_leftovers(folder)} == {"leaves.h5"}


def test_nothing_is_removed_unasked(folder: Path) -> None:
    before = names(folder)
    code, listed, told = prune(folder, "--prune")
    assert code == 0 and all(name in listed for name in LEFT) and "1.0 MiB" in listed
    assert "nothing removed: --yes removes" in told and names(folder) == before
    assert prune(folder, "--yes")[0] == 2


def test_once_agreed_leftovers_go_and_caches_stay(folder: Path) -> None:
    before = names(folder)
    code, _, told = prune(folder, "--prune", "--yes")
    assert code == 0 and "removed 4 of 4, 1.0 MiB" in told
    assert names(folder) == before - LEFT.keys()
    assert (folder / "demo/leaves.h5").read_bytes() == b"leaves.h5"
    assert "nothing to remove" in prune(folder, "--prune", "--yes")[2]


@pytest.mark.parametrize("holds", ["the file", "a shard"])
def test_a_pass_at_work_keeps_what_is_its_own(holds: str, folder: Path) -> None:
    target = folder / "demo/leaves.h5"
    with writing(target) if holds == "the file" else locked(folder / "demo/.leaves.h5.shard-1.lock", target):
        code, listed, told = prune(folder, "--prune", "--yes", "--json")
    assert code == 1 and ("is writing" in told or "at work on 1 shards" in told)
    removed = [each["removed"] for each in json.loads(listed)["results"]]
    assert removed and not any(removed)
    assert (folder / "demo" / PARTS).exists()
