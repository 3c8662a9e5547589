"""A pass divided among processes and machines: the bytes of an undivided one, whatever is killed on the way."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from cache_fakes import FakeBackbone, draw_image, make_dataset
from filelock import FileLock
from typer.testing import CliRunner, Result

import cptlite.cache.encode
from cptlite.cache import open_cache, verify_cache
from cptlite.cache.encode import EncodeReport, encode_dataset
from cptlite.cache.encode_pass import EncodingPass
from cptlite.cache.parts import PartStore
from cptlite.cache.shards import Shard, at_work
from cptlite.cli import app
from cptlite.datasets.types import SPLITS, Dataset
from cptlite.datasets.views import ViewConfig
from cptlite.errors import CptliteError, UsageError

SETTINGS: dict[str, Any] = {"batch_size": 4, "part_rows": 8, "workers": 0, "views": ViewConfig(views=3, seed=2)}
CUTS = ({}, {"batch_size": 64}, {"batch_size": 33}, {"batch_size": 1, "part_rows": 5}, {"patches": True})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("drawn") / "images", sizes=(61, 9, 20))


def encode(dataset: Dataset, cache_dir: Path, shard: str = "", backbone: Any = None, **settings: Any) -> EncodeReport:
    of = Shard.parse(shard) if shard else None
    return encode_dataset(dataset, backbone or FakeBackbone(), cache_dir, shard=of, **{**SETTINGS, **settings})


def content(path: Path) -> bytes:
    """Return the bytes of a cache file but for the second it was made in."""
    verify_cache(path)
    file = io.BytesIO(path.read_bytes())
    with h5py.File(file, "r+") as copied:
        assert len(copied.attrs["created"]) == 25
        copied.attrs["created"] = "2026-01-01T00:00:00+00:00"
    return file.getvalue()


def beside(cache_dir: Path) -> list[str]:
    """What lies beside cache files."""
    return sorted(path.name for path in cache_dir.glob("*/.*"))


@pytest.mark.parametrize(("settings", "count"), [*((cut, 3) for cut in CUTS), ({}, 1), ({}, 2), ({}, 40)], ids=str)
def test_shards_one_after_another_are_an_undivided_pass(
    settings: dict[str, Any], count: int, dataset: Dataset, tmp_path: Path
) -> None:
    whole = encode(dataset, tmp_path / "whole", **settings)
    reports = [encode(dataset, tmp_path / "parts", f"{i}/{count}", **settings) for i in range(count, 0, -1)]
    assert [report.complete for report in reports] == [False] * (count - 1) + [True]
    assert sum(report.encoded_rows for report in reports) == whole.rows == 90
    assert [report.missing_rows for report in reports] == sorted((r.missing_rows for r in reports), reverse=True)
    assert reports[-1].resumed_rows == 90 - reports[-1].encoded_rows
    assert content(reports[-1].path) == content(whole.path)
    assert not beside(tmp_path / "parts")


@pytest.mark.parametrize("settings", CUTS, ids=str)
def test_every_part_is_one_shards(settings: dict[str, Any], dataset: Dataset, tmp_path: Path) -> None:
    written = []
    for index in (1, 2, 3):
        encode(dataset, tmp_path / str(index), f"{index}/3", **settings)
        written.append({path.name for path in (tmp_path / str(index)).glob("*/.*.parts-*/*.npz")})
    assert not written[0] & written[1] and not written[1] & written[2] and not written[0] & written[2]
    encode(dataset, tmp_path / "all", "1/2", **settings)
    part_rows = {**SETTINGS, **settings}["part_rows"]
    assert sum(map(len, written)) == sum(-(-size // part_rows) for size in (61, 9, 20))


def test_rows_are_shared_out_evenly() -> None:
    sizes, batches = dict(zip(SPLITS, (10_000, 3000, 5000), strict=True)), dict.fromkeys(SPLITS, 64)
    own = [Shard(index, 4).own_rows(sizes, batches, 128) for index in range(1, 5)]
    assert all((sum(rows[split].astype(int) for rows in own) == 1).all() for split in SPLITS)
    counts = [sum(int(part.sum()) for part in rows.values()) for rows in own]
    assert max(counts) - min(counts) <= 3 * 128
    # A batch of 512 rows is encoded by one shard, and not by four with a quarter each.
    large = Shard(2, 4).own_rows(sizes, dict.fromkeys(SPLITS, 512), 128)["train"]
    assert np.flatnonzero(large)[:512].tolist() == list(range(512, 1024))


def test_a_killed_shard_goes_on(dataset: Dataset, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(done: int, total: int, split: str) -> None:
        assert total == own
        if done >= 20:
            raise Killed

    own = sum(
        int(rows.sum())
        for rows in Shard(1, 2)
        .own_rows({"train": 61, "val": 9, "test": 20}, {"train": 1, "val": 4, "test": 4}, 8)
        .values()
    )
    with pytest.raises(Killed):
        encode(dataset, tmp_path / "parts", "1/2", on_progress=kill)
    assert not encode(dataset, tmp_path / "parts", "2/2").complete
    again = encode(dataset, tmp_path / "parts", "1/2")
    assert again.complete
    assert 16 <= own - again.encoded_rows <= 20
    assert content(again.path) == content(encode(dataset, tmp_path / "whole").path)
    assert not beside(tmp_path / "parts")


def test_an_undivided_pass_takes_up_what_shards_left(dataset: Dataset, tmp_path: Path) -> None:
    first = encode(dataset, tmp_path / "parts", "1/2")
    rest = encode(dataset, tmp_path / "parts")
    assert rest.complete and rest.resumed_rows == first.encoded_rows
    assert encode(dataset, tmp_path / "parts", "2/2").complete_already
    assert content(rest.path) == content(encode(dataset, tmp_path / "whole").path)


def test_forced_shards_encode_all_anew(dataset: Dataset, tmp_path: Path) -> None:
    encode(dataset, tmp_path / "parts")
    scaled = FakeBackbone(scale=2.0)
    reports = [encode(dataset, tmp_path / "parts", f"{i}/2", backbone=scaled, force=True) for i in (1, 2)]
    assert [report.complete for report in reports] == [False, True]
    assert sum(report.encoded_rows for report in reports) == 90
    assert content(reports[1].path) == content(encode(dataset, tmp_path / "whole", backbone=scaled).path)


def test_bad_images_are_told_by_their_shard_and_by_the_last(dataset: Dataset, tmp_path: Path) -> None:
    broken = make_dataset(tmp_path / "images", sizes=(61, 9, 20))
    bad = [broken.splits["train"].paths[row] for row in (3, 20)]  # of the first and of the third part
    for path in bad:
        (broken.image_root / path).write_bytes(b"no image")
    first, second = (encode(broken, tmp_path / "parts", f"{i}/2") for i in (1, 2))
    assert [image.path for image in first.bad] == bad
    assert (second.complete, second.missing_rows, [image.path for image in second.bad]) == (False, 0, bad)
    done = encode(broken, tmp_path / "parts", "2/2", skip_bad=True)
    assert done.complete and [image.path for image in done.bad] == bad
    assert content(done.path) == content(encode(broken, tmp_path / "whole", skip_bad=True).path)
    for row in (3, 20):
        draw_image(broken.image_root / broken.splits["train"].paths[row], row)


def test_no_two_processes_are_at_one_shard(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cptlite.cache.encode, "SHARD_WAIT", 0.0)
    tried: list[str] = []

    def meanwhile(done: int, total: int, split: str) -> None:
        """Try everything else while the first shard is at work."""
        if done or tried:
            return
        for shard, settings, words in (
            ("1/2", {}, "another process"),
            ("2/3", {}, "wanted shards of one kind, got 3 with --batch-size 4 while .* at work on 2 with 4"),
            ("2/2", {"batch_size": 8}, "got 2 with --batch-size 8"),
            ("", {}, "at work on 1 shards"),
        ):
            with pytest.raises(CptliteError, match=words):
                encode(dataset, tmp_path / "parts", shard, **settings)
            tried.append(shard)
        other = encode(dataset, tmp_path / "parts", "2/2")
        assert not other.complete and other.missing_rows
        tried.append("2/2")

    report = encode(dataset, tmp_path / "parts", "1/2", on_progress=meanwhile)
    assert len(tried) == 5
    assert report.complete
    assert content(report.path) == content(encode(dataset, tmp_path / "whole").path)


def test_the_last_to_let_go_joins(dataset: Dataset, tmp_path: Path) -> None:
    encode(dataset, tmp_path / "parts", "1/2")
    target = tmp_path / "parts/fake-one/drawn.h5"
    with FileLock(target.with_name(".drawn.h5.shard-1.lock")):
        assert at_work(target) == [1]
        second = encode(dataset, tmp_path / "parts", "2/2")
        assert (second.complete, second.missing_rows, second.bad) == (False, 0, ())
    assert encode(dataset, tmp_path / "parts", "1/2").complete


def test_a_shard_that_another_has_joined_sees_the_file(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(dataset, tmp_path / "parts", "2/2", force=True)
    whole_run = EncodingPass.run

    def run(self: EncodingPass) -> None:
        """Encode the shard, and let another process join all before this one looks."""
        whole_run(self)
        if self.shard is not None:
            joining = replace(self, shard=None, bad=[])
            cptlite.cache.encode._encode_missing(joining, False)

    monkeypatch.setattr(EncodingPass, "run", run)
    report = encode(dataset, tmp_path / "parts", "1/2", force=True)
    assert report.complete and report.missing_rows == 0
    with open_cache(report.path) as cache:
        assert [cache.num_rows(split) for split in SPLITS] == [61, 9, 20]


def test_a_killed_process_leaves_no_lock_that_matters(dataset: Dataset, tmp_path: Path) -> None:
    encode(dataset, tmp_path / "parts", "1/2")
    lock = tmp_path / "parts/fake-one/.drawn.h5.shard-7.lock"
    lock.write_text("process 1 on another machine\n")
    assert encode(dataset, tmp_path / "parts").complete
    assert not lock.exists()


@pytest.mark.parametrize("facts", [b"", b"[1]", b'{"count": 9}', b"[" * 3000])
def test_a_damaged_note_on_shards_changes_nothing(facts: bytes, dataset: Dataset, tmp_path: Path) -> None:
    first = encode(dataset, tmp_path / "parts", "1/2")
    store = next((tmp_path / "parts").glob("*/.*.parts-*"))
    (store / "shards.json").write_bytes(facts)
    second = encode(dataset, tmp_path / "parts", "2/2")
    assert second.complete and second.encoded_rows == 90 - first.encoded_rows


def test_parts_that_are_damaged_are_missing(dataset: Dataset, tmp_path: Path) -> None:
    encode(dataset, tmp_path / "parts", "1/2")
    part = sorted((tmp_path / "parts").glob("*/.*.parts-*/*.npz"))[0]
    part.write_bytes(part.read_bytes()[:50])
    assert encode(dataset, tmp_path / "parts", "2/2").missing_rows == 8
    assert encode(dataset, tmp_path / "parts", "1/2").complete


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "a/b", "1/2/3", "-1/2", "1/0", "١/٢", "1/9999999"])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(UsageError, match="shard must be"):
        Shard.parse(text)


def test_missing_rows_of_a_store(dataset: Dataset, tmp_path: Path) -> None:
    encode(dataset, tmp_path / "parts", "1/2")
    identity = json.loads(next((tmp_path / "parts").glob("*/.*.parts-*/manifest.json")).read_text())
    store = PartStore(tmp_path / "parts/fake-one/drawn.h5", identity)
    sizes = {split: len(dataset.splits[split]) for split in SPLITS}
    own = sum(int(rows.sum()) for rows in Shard(1, 2).own_rows(sizes, dict.fromkeys(SPLITS, 1), 8).values())
    assert store.missing_rows(sizes) == 90 - own


def draw_tree(root: Path, per_class: int = 130) -> Path:
    """Draw class folders whose training rows fill several parts of 128."""
    for seed in range(2 * per_class):
        draw_image(root / ("even", "odd")[seed % 2] / f"{seed:03}.png", seed)
    return root


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_tree(tmp_path_factory.mktemp("tree") / "drawings")


def command(tree: Path, cache_dir: Path, *words: str) -> list[str]:
    fixed = ("--dataset", str(tree), "--backbone", "demo", "--cache-dir", str(cache_dir), "--views", "2")
    return ["cache", *fixed, *words]


def call(tree: Path, cache_dir: Path, *words: str) -> Result:
    return CliRunner().invoke(app, command(tree, cache_dir, *words))


def caches(cache_dir: Path) -> bytes:
    (path,) = cache_dir.glob("*/*.h5")
    return content(path)


@pytest.mark.slow
def test_the_command_in_all_three_ways(tree: Path, tmp_path: Path) -> None:
    assert call(tree, tmp_path / "whole").exit_code == 0
    first = call(tree, tmp_path / "machines", "--shard", "1/2")
    assert first.exit_code == 0, first.output
    assert "more are other shards' to encode; the last to end joins all" in first.stdout
    assert not list((tmp_path / "machines").glob("*/*.h5"))
    assert call(tree, tmp_path / "machines", "--shard", "2/2").exit_code == 0
    processes = call(tree, tmp_path / "processes", "--shards", "2", "--json")
    assert processes.exit_code == 0, processes.output
    (facts,) = json.loads(processes.stdout)["results"]
    assert (facts["complete"], facts["encoded_rows"], facts["resumed_rows"]) == (True, 260, 0)
    assert caches(tmp_path / "machines") == caches(tmp_path / "whole") == caches(tmp_path / "processes")
    assert not beside(tmp_path / "processes") and not beside(tmp_path / "machines")
    again = call(tree, tmp_path / "processes", "--shards", "2")
    assert "complete already, nothing read" in again.stdout, again.output


@pytest.mark.slow
@pytest.mark.parametrize("words", [("--shard", "1/2"), ("--shards", "2")], ids=str)
def test_a_killed_command_goes_on(words: tuple[str, ...], tree: Path, tmp_path: Path) -> None:
    """Kill the command, or one of its processes, once that has finished a part."""
    killer = (
        "import os, signal; from cptlite.cache.parts import PartStore; write = PartStore.write\n"
        "def die(self, *args): write(self, *args); os.kill(os.getpid(), signal.SIGKILL)\n"
        "PartStore.write = die\n"
    )
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(killer)
    paths = os.pathsep.join([str(hook), *filter(None, [os.environ.get("PYTHONPATH")])])
    line = [sys.executable, "-m", "cptlite", *command(tree, tmp_path / "cache", *words)]
    died = subprocess.run(line, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=120)
    if words[0] == "--shards":
        assert died.returncode == 1, died.stderr
        assert "was ended from outside" in died.stderr.splitlines()[-1]
    else:
        assert died.returncode == -signal.SIGKILL, died.stderr
    assert not list((tmp_path / "cache").glob("*/*.h5"))
    assert list((tmp_path / "cache").glob("*/.*.parts-*/*.npz"))
    again = call(tree, tmp_path / "cache", *words)
    assert again.exit_code == 0, again.output
    assert "more from a stopped pass" in again.stdout
    if words[0] == "--shard":
        assert call(tree, tmp_path / "cache", "--shard", "2/2").exit_code == 0
    assert call(tree, tmp_path / "whole").exit_code == 0
    assert caches(tmp_path / "cache") == caches(tmp_path / "whole")
    assert not beside(tmp_path / "cache")


def test_a_shard_waits_while_another_begins(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode(dataset, tmp_path / "parts", "1/2")
    held = FileLock(tmp_path / "parts/fake-one/.drawn.h5.lock", thread_local=False)
    held.acquire()
    release = threading.Timer(0.2, held.release)
    release.start()
    assert encode(dataset, tmp_path / "parts", "2/2").complete
    release.join()


def test_more_shards_than_parts(dataset: Dataset, tmp_path: Path) -> None:
    encode(dataset, tmp_path / "parts")
    idle = encode(dataset, tmp_path / "parts", "40/40", force=True)
    assert (idle.complete, idle.encoded_rows) == (False, 0)
    assert not beside(tmp_path / "parts")


def test_usage(tree: Path, tmp_path: Path) -> None:
    for words in (
        ("--shards", "2", "--shard", "1/2"),
        ("--shards", "0"),
        ("--shard", "2/1"),
        ("--shard", "one"),
        ("--shard", "1/2", "--no-lock"),
    ):
        done = call(tree, tmp_path, *words)
        assert done.exit_code == 2, done.output
    assert os.listdir(tmp_path) == []
