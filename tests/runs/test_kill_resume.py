"""A pass killed with SIGKILL at any moment goes on to the bytes of an undisturbed one.

The moments are counted: every report of progress, flush to disk, renaming and deletion is one. Children come from a
fork server, which imports torch once for all of them.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import pytest
from cache_fakes import FakeBackbone, make_dataset
from torch import Tensor

from cptlite.cache import list_caches, open_cache, verify_cache
from cptlite.cache.encode import EncodeReport, encode_dataset
from cptlite.cache.layers import before_projection
from cptlite.datasets.types import SPLITS
from cptlite.datasets.views import ViewConfig

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")

SETTINGS: dict[str, Any] = {
    "views": ViewConfig(views=2),
    "patches": True,
    "pre_projection": True,
    "batch_size": 4,
    "part_rows": 4,
    "workers": 2,
}
NEVER = 10**9
NUM_ROWS = 37


@dataclass
class SlowBackbone(FakeBackbone):
    """Takes its time over a batch, and notes how many rows of pixels it was given."""

    seconds: float = 0.0
    images: int = 0

    def encode_images(self, images: Tensor) -> Tensor:
        time.sleep(self.seconds)
        self.images += int((images.flatten(1).std(dim=1) > 0.25).sum())  # rows done before are blank
        return super().encode_images(images)


@dataclass
class Fate:
    """Counts moments and dies at one of them."""

    moment: int
    passed: int = 0
    names: list[str] = field(default_factory=list)

    def meet(self, name: str) -> None:
        self.passed += 1
        self.names.append(name)
        if self.passed == self.moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, module: Any, name: str) -> None:
        """Make moments of the time just before and just after a function's work."""
        original: Callable = getattr(module, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            self.meet(f"before {name}")
            result = original(*arguments, **options)
            self.meet(f"after {name}")
            return result

        setattr(module, name, watched)


def run_pass(root: Path, cache_dir: Path, moment: int, seconds: float, results: SimpleQueue) -> None:
    """In the child: one pass; tells how many images were encoded and which moments there were."""
    fate, backbone = Fate(moment), SlowBackbone(seconds=seconds)
    for name in ("fsync", "replace", "unlink"):
        fate.watch(os, name)
    fate.watch(shutil, "rmtree")
    dataset = make_dataset(root)
    report = encode_dataset(dataset, backbone, cache_dir, **SETTINGS, on_progress=lambda *_: fate.meet("progress"))
    results.put((report, backbone.images, fate.names))


@pytest.fixture(scope="module")
def server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cptlite.cache.encode", "pytest"])
    return context


class Bench:
    """Images, and a cache folder that children fill and die over."""

    def __init__(self, server: ForkServerContext, folder: Path) -> None:
        self.server, self.root, self.cache_dir = server, folder / "images", folder / "cache"
        make_dataset(self.root)

    def killed(self, moment: int) -> None:
        child = self.start(moment)
        child.join(60)
        assert child.exitcode == -signal.SIGKILL

    def start(self, moment: int = NEVER, seconds: float = 0.0) -> Any:
        self.results = self.server.SimpleQueue()
        child = self.server.Process(target=run_pass, args=(self.root, self.cache_dir, moment, seconds, self.results))
        child.start()
        return child

    def completed(self) -> tuple[EncodeReport, int, list[str]]:
        child = self.start()
        child.join(60)
        assert child.exitcode == 0
        return self.results.get()

    def finished_rows(self) -> int:
        """Rows that need not be encoded again."""
        found = [sum(summary.rows.values()) for summary in list_caches(self.cache_dir)]
        return max(found, default=0)

    def check_goes_on(self, undisturbed: list) -> None:
        finished = self.finished_rows()
        report, images, _ = self.completed()
        assert report.complete
        if report.complete_already:
            assert finished == NUM_ROWS and images == 0
        else:
            assert report.resumed_rows == finished and report.encoded_rows == NUM_ROWS - finished
            # One or two views each, forwarded for patch features and for those before the projection.
            assert NUM_ROWS - finished <= images <= 4 * (NUM_ROWS - finished)
        assert held(report.path) == undisturbed
        verify_cache(report.path)
        left = [path.name for path in report.path.parent.iterdir() if not path.name.endswith(".lock")]
        assert left == ["drawn.h5"]


def held(path: Path) -> list:
    with open_cache(path) as cache:
        arrays = [
            [read(split).tobytes() for read in (cache.features, cache.patches, cache.labels, cache.row_tasks)]
            for split in SPLITS
        ]
        [before] = before_projection([cache])
        arrays += [[before.features(split).tobytes()] for split in SPLITS]
        return [arrays, [cache.paths(split) for split in SPLITS], cache.tasks, cache.fingerprint]


@pytest.fixture(scope="module")
def undisturbed(server: ForkServerContext, tmp_path_factory: pytest.TempPathFactory) -> tuple[list, list[str]]:
    """Content of the file that nobody disturbed, and the names of the moments of its making."""
    bench = Bench(server, tmp_path_factory.mktemp("undisturbed"))
    report, _, names = bench.completed()
    return held(report.path), names


@pytest.fixture
def bench(server: ForkServerContext, tmp_path: Path) -> Bench:
    return Bench(server, tmp_path)


@pytest.mark.parametrize(
    "last", ["after progress", "before fsync", "before replace", "after replace", "before rmtree", "after rmtree"]
)
def test_killed_while_the_file_is_made(bench: Bench, undisturbed: tuple[list, list[str]], last: str) -> None:
    content, names = undisturbed
    last = last.replace("after progress", "progress")
    bench.killed(max(moment for moment, name in enumerate(names, 1) if name == last))
    bench.check_goes_on(content)


def test_killed_again_and_again(bench: Bench, undisturbed: tuple[list, list[str]]) -> None:
    content, names = undisturbed
    for moment in (len(names) // 4, len(names) // 3, len(names) // 5, 3):
        before = bench.finished_rows()
        bench.killed(moment)
        assert bench.finished_rows() >= before
    assert bench.finished_rows() > 0
    bench.check_goes_on(content)


def test_killed_from_outside(bench: Bench, undisturbed: tuple[list, list[str]]) -> None:
    content, _ = undisturbed
    child = bench.start(seconds=0.1)
    deadline = time.monotonic() + 30
    while not bench.finished_rows() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.05)
    child.kill()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert 0 < bench.finished_rows() < NUM_ROWS
    bench.check_goes_on(content)
