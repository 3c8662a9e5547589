from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import cptlite
from cptlite.classifiers.store import unpack_classifier
from cptlite.environment import describe_environment, find_device, measure_peak, usable_cores
from cptlite.errors import UsageError

CPU = torch.device("cpu")
needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resets the peak through /proc")


def touch(mib: int) -> None:
    """Take memory, use all of it, and give it back."""
    np.ones(mib * 2**17)


BLOCKS = """
import numpy as np, torch
from cptlite.environment import measure_peak
peaks = []
for mib in (300, 50, 0):
    with measure_peak(torch.device("cpu")) as peak:
        np.ones(mib * 2**17)
    peaks.append(peak)
print(*(f"{peak.mib:.1f} {peak.peak_of}" for peak in peaks))
"""


@pytest.mark.slow
@needs_linux
def test_the_peak_is_that_of_the_block_alone() -> None:
    """In a process of its own: one that has freed much already finds room without growing."""
    done = subprocess.run([sys.executable, "-c", BLOCKS], capture_output=True, text=True, check=True)
    first, second, idle = (float(word) for word in done.stdout.split()[::2])
    assert done.stdout.split()[1::2] == ["run"] * 3
    assert second <= first - 150
    assert idle <= second - 40


@needs_linux
def test_the_peak_counts_what_is_held_within_the_block() -> None:
    held = np.ones(100 * 2**17)
    with measure_peak(CPU) as peak:
        held = held + 1
    assert peak.mib is not None and peak.mib > 200


@needs_linux
def test_an_error_in_the_block_leaves_a_peak() -> None:
    with pytest.raises(KeyError), measure_peak(CPU) as peak:
        raise KeyError
    assert peak.mib is not None and peak.mib > 0


@pytest.mark.parametrize("refused", [PermissionError, FileNotFoundError])
def test_a_peak_that_cannot_be_reset_says_so(monkeypatch: pytest.MonkeyPatch, refused: type[OSError]) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise refused

    pytest.importorskip("resource")
    touch(300)
    monkeypatch.setattr(Path, "write_text", refuse)
    with measure_peak(CPU) as peak:
        touch(1)
    assert peak.peak_of == "process"
    assert peak.mib is not None and peak.mib > 300


def test_a_gpu_is_asked_for_its_own_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    device, calls = torch.device("cuda", 1), []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: calls.append(("reset", device)))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: calls.append(("read", device)) or 3 * 2**20)
    with measure_peak(device) as peak:
        calls.append("work")
    assert calls == [("reset", device), "work", ("read", device)]
    assert (peak.mib, peak.peak_of) == (3.0, "run")


@pytest.mark.gpu
def test_the_peak_of_a_gpu_is_that_of_the_block_alone() -> None:
    device = torch.device("cuda")
    with measure_peak(device) as first:
        torch.ones(300 * 2**18, device=device)
    with measure_peak(device) as second:
        torch.ones(50 * 2**18, device=device)
    assert first.mib is not None and second.mib is not None and first.peak_of == second.peak_of == "run"
    assert second.mib == pytest.approx(first.mib - 250, abs=1)


def test_without_the_resource_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, where nothing can be reset either."""
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr("cptlite.environment.CLEAR_REFS", Path("no such folder") / "clear_refs")
    with measure_peak(CPU) as peak:
        pass
    assert (peak.mib, peak.peak_of) == (None, "process")


@pytest.mark.slow
def test_the_package_needs_no_module_of_posix() -> None:
    """Every file is imported in a process without the modules and functions that Windows lacks."""
    code = """
import importlib, os, pkgutil, sys
for name in ("resource", "fcntl", "pwd", "grp", "termios"):
    sys.modules[name] = None
import torch, clip, h5py, filelock, joblib, sklearn, typer  # they have ways of their own on Windows
for name in ("sched_getaffinity", "posix_fallocate", "fork", "getuid", "geteuid"):
    delattr(os, name)
import cptlite
for item in pkgutil.walk_packages(cptlite.__path__, "cptlite."):
    if not item.name.endswith("__main__"):
        importlib.import_module(item.name)
from cptlite.environment import describe_environment
print(describe_environment(torch.device("cpu"))["cores"] == os.cpu_count())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr


def test_cores_are_those_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 5}, raising=False)
    assert usable_cores() == describe_environment(CPU)["cores"] == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert usable_cores() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "mps", "", "CPU", "cuda:-1", "cpu;rm", "\x1b[31m"])
@pytest.mark.parametrize(
    "load",
    [
        lambda device: find_device(device),
        lambda device: cptlite.load_backbone("demo", device=device),
        lambda device: cptlite.load_run("no-run", device=device),
        lambda device: cptlite.load_classifier("no-file", device=device),
        lambda device: unpack_classifier(b"", device=device),
    ],
)
def test_an_unknown_device_is_one_message_wherever_it_enters(load: Callable[[str], object], name: str) -> None:
    with pytest.raises(UsageError, match=r"^unknown device .*: give auto, cpu, cuda or cuda:N$") as caught:
        load(name)
    assert "\x1b" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:9"])
def test_a_gpu_that_is_not_there(name: str) -> None:
    with pytest.raises(UsageError, match=f"device '{name}' wants a GPU and torch finds none: give --device cpu"):
        find_device(name)


def test_devices_that_are_there() -> None:
    assert find_device("cpu") == find_device(CPU) == CPU
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
