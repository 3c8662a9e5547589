"""``cptlite doctor``: planted faults are found, with what to do about each; a sound machine has none."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import namedtuple
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest
import torch
from cache_fakes import FakeBackbone, make_dataset
from typer.testing import CliRunner, Result

from cptlite.backbones.checkpoints import openai_target
from cptlite.cache.encode import encode_dataset
from cptlite.cli import app
from cptlite.doctor import device, examine, folders, packages
from cptlite.doctor.packages import OPTIONAL, PACKAGES, Package, Trial, try_imports

GIB = 2**30
LOADED = ("h5py", "sklearn.linear_model", "PIL.Image", "safetensors.torch", "torchvision", "matplotlib.figure")


class Shelf:
    """A folder to call the command in, and one of packages that stand before the installed ones."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, monkeypatch
        self.modules, self.cache = folder / "modules", folder / "cache"

    def write_module(self, name: str, code: str) -> None:
        """Write a module, and the packages that it lies in."""
        path = self.modules.joinpath(*name.split("."))
        path.parent.mkdir(parents=True, exist_ok=True)
        for package in path.relative_to(self.modules).parents[:-1]:
            (self.modules / package / "__init__.py").touch()
        path.with_suffix(".py").write_text(code, encoding="utf-8")

    def call(self, *words: str) -> Result:
        return CliRunner().invoke(app, ["doctor", *words])

    def findings(self) -> tuple[dict[str, dict[str, str]], int]:
        """Call the command; what it found by name, and the exit code."""
        done = self.call("--json")
        listed = json.loads(done.stdout)["results"]
        assert len({each["name"] for each in listed}) == len(listed)
        return {each["name"]: each for each in listed}, done.exit_code


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    """Return a sound machine whose packages are imported in no time."""
    for name in LOADED:  # the true ones, before the others stand in front of them
        __import__(name)
    made = Shelf(tmp_path, monkeypatch)
    for name in dict.fromkeys(module for package in PACKAGES + OPTIONAL for module in package.modules):
        made.write_module(name, "")
    made.write_module("clip.model", "")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CPTLITE_CACHE", str(made.cache))
    monkeypatch.setattr(sys, "path", [str(made.modules), *sys.path])
    monkeypatch.setattr(device, "DRIVER", tmp_path / "no driver")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    yield made
    left = [path.name for path in tmp_path.rglob("*") if path.name.startswith(folders.PROBE)]
    assert not left


class Fault(NamedTuple):
    """What is planted, the check that finds it, and words of what it says and advises."""

    plant: Callable[[Shelf], Any]
    name: str
    found: str
    advice: str


def module(name: str, code: str) -> Callable[[Shelf], None]:
    return lambda shelf: shelf.write_module(name, code)


def replaced(target: Any, name: str, value: Any) -> Callable[[Shelf], None]:
    return lambda shelf: shelf.patch.setattr(target, name, value)


def raising(error: BaseException) -> Callable[..., NoReturn]:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise error

    return fail


def another_clip(shelf: Shelf) -> None:
    shutil.rmtree(shelf.modules / "clip")
    shelf.write_module("clip", "")


def lacking(shelf: Shelf) -> None:
    real = packages.version
    shelf.patch.setattr(
        packages, "version", lambda name: raising(PackageNotFoundError(name))() if name == "h5py" else real(name)
    )


def versions(**others: str) -> Callable[[Shelf], None]:
    real = packages.version
    return lambda shelf: shelf.patch.setattr(packages, "version", lambda name: others.get(name) or real(name))


def setuptools_82(shelf: Shelf) -> None:
    versions(setuptools="82.0.1")(shelf)
    (shelf.modules / "pkg_resources.py").write_text("raise ModuleNotFoundError(\"No module named 'pkg_resources'\")")


def read_only(shelf: Shelf) -> None:
    """Refuse to make anything under the cache folder: root, who may run the tests, is refused nothing."""
    shelf.cache.mkdir()
    real = tempfile.mkdtemp

    def mkdtemp(suffix: str | None = None, prefix: str | None = None, dir: Any = None) -> str:
        if dir == shelf.cache:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(dir))
        return real(suffix, prefix, dir)

    shelf.patch.setattr(tempfile, "mkdtemp", mkdtemp)


def free(gib: float) -> Callable[[Shelf], None]:
    usage = namedtuple("usage", "total used free")
    return replaced(shutil, "disk_usage", lambda path: usage(100 * GIB, 0, int(gib * GIB)))


def damaged_cache(shelf: Shelf) -> None:
    (shelf.cache / "demo").mkdir(parents=True)
    (shelf.cache / "demo/leaves.h5").write_bytes(b"\x89HDF\r\n\x1a\n and no more")


def damaged_dataset(shelf: Shelf) -> None:
    folder = Path("data/dtd")
    (folder / "images").mkdir(parents=True)
    (folder / "split_zhou_DescribableTextures.json").write_text("{")


FAULTS = {
    "torchvision of another torch": Fault(
        module("torchvision", 'raise RuntimeError("operator torchvision::nms does not exist")'),
        "torchvision",
        "cannot be imported: RuntimeError: operator torchvision::nms does not exist",
        "pip install --force-reinstall torch torchvision, in one command and from one index",
    ),
    "setuptools too new": Fault(setuptools_82, "setuptools", "82.0.1, wanted <82", "pip install 'setuptools"),
    "clip without pkg_resources": Fault(
        module("clip.clip", "import pkg_resources.packaging"),
        "clip-anytorch",
        "No module named 'pkg_resources.packaging'",
        "pip install 'setuptools>=77.0.3,<82'",
    ),
    "another clip": Fault(another_clip, "clip-anytorch", "No module named 'clip.clip'", "pip uninstall clip"),
    "clip without what it needs": Fault(
        module("clip.simple_tokenizer", "import ftfy_that_is_not_there"),
        "clip-anytorch",
        "cannot be imported",
        "ftfy_that_is_not_there is missing: pip install --force-reinstall 'clip-anytorch",
    ),
    "torch that ends Python": Fault(
        module("torch", "import os, signal; os.kill(os.getpid(), signal.SIGILL)"),
        "torch",
        "it ends Python by SIGILL",
        "built for another processor",
    ),
    "torch that exits": Fault(
        module("torch", "import os; os._exit(7)"), "torch", "it ends Python with exit code 7", "force-reinstall 'torch"
    ),
    "h5py without its library": Fault(
        module("h5py", 'raise ImportError("libhdf5.so.310: cannot open shared object file")'),
        "h5py",
        "libhdf5.so.310",
        "pip install --force-reinstall h5py",
    ),
    "scikit-learn for another NumPy": Fault(
        module("sklearn.linear_model", 'raise ValueError("numpy.dtype size changed,\\nmay indicate")'),
        "scikit-learn",
        "numpy.dtype size changed, may indicate",
        "pip install --upgrade --force-reinstall scikit-learn",
    ),
    "h5py not installed": Fault(lacking, "h5py", "not installed", "pip install 'h5py"),
    "read-only cache folder": Fault(read_only, "--cache-dir writing", "Permission denied", "that you may write to"),
    "a file as the cache folder": Fault(
        lambda shelf: shelf.cache.touch(), "--cache-dir folder", "got something else", "another --cache-dir"
    ),
    "no locks": Fault(
        replaced(fcntl, "flock", raising(OSError(errno.ENOLCK, "No locks available"))),
        "--cache-dir locks",
        "a file system without locks",
        "another file system, or with --no-lock",
    ),
    "locks that hold nobody": Fault(
        replaced(fcntl, "flock", lambda *_: None), "--out locks", "given to two", "another file system"
    ),
    "a full disk": Fault(free(0.01), "--out disk", "0.01 GiB free", "free some"),
    "HDF5 that cannot be written": Fault(
        replaced(os, "posix_fallocate", raising(OSError(errno.EOPNOTSUPP, "Operation not supported"))),
        "--cache-dir HDF5",
        "Operation not supported",
        "another file system",
    ),
    "a damaged cache": Fault(damaged_cache, "cache demo/leaves", "cannot be used", "run `cptlite cache` again"),
    "a damaged dataset": Fault(damaged_dataset, "dataset dtd", "cannot be read", "fetch it again"),
    "torch without NumPy": Fault(
        replaced(torch, "from_numpy", raising(RuntimeError("Numpy is not available"))),
        "device",
        "cannot multiply: RuntimeError: Numpy is not available",
        "pip install --force-reinstall torch numpy",
    ),
    "no demo weights": Fault(
        replaced(sys.modules["cptlite.backbones.checkpoints"], "DEMO_CHECKPOINT", Path("nowhere")),
        "weights of demo",
        "found none",
        "force-reinstall",
    ),
    "a check that breaks": Fault(
        replaced(sys.modules["cptlite.environment"], "usable_cores", raising(ZeroDivisionError("by\nzero"))),
        "device",
        "cannot be checked: ZeroDivisionError: by zero",
        "run `cptlite doctor` again",
    ),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_planted_fault_is_found(kind: str, shelf: Shelf) -> None:
    fault = FAULTS[kind]
    fault.plant(shelf)
    found, code = shelf.findings()
    assert code == 1
    assert found[fault.name]["state"] == "failed"
    assert fault.found in found[fault.name]["found"]
    assert fault.advice in found[fault.name]["advice"]


REMARKS = {
    "a version below the bound": Fault(versions(h5py="3.1"), "h5py", "3.1, wanted >=3.10", "pip install 'h5py>=3.10"),
    "torchvision that asks for another torch": Fault(
        versions(torch="2.6.0+cpu"), "torchvision", "which wants torch", "of one build"
    ),
    "little room": Fault(free(2), "--cache-dir disk", "2.00 GiB free", "another disk"),
    "a GPU without CUDA": Fault(replaced(device, "DRIVER", Path("/")), "device", "torch finds nothing", "CUDA"),
    "a picture package that breaks": Fault(
        module("matplotlib.figure", "1 / 0"), "matplotlib", "ZeroDivisionError", "force-reinstall"
    ),
}


@pytest.mark.parametrize("kind", REMARKS)
def test_what_fails_nothing_is_a_warning(kind: str, shelf: Shelf) -> None:
    fault = REMARKS[kind]
    fault.plant(shelf)
    found, code = shelf.findings()
    assert code == 0
    assert found[fault.name]["state"] == "warning"
    assert fault.found in found[fault.name]["found"]
    assert fault.advice in found[fault.name]["advice"]


def test_a_sound_machine(shelf: Shelf) -> None:
    found, code = shelf.findings()
    assert code == 0
    assert {each["state"] for each in found.values()} == {"ok"}
    assert all(list(each) == ["name", "state", "found", "advice"] for each in found.values())
    assert {package.name for package in PACKAGES + OPTIONAL} < found.keys()
    assert found["torch"]["found"] == packages.version("torch")
    assert found["linear, float32"]["found"].split(",")[0] in ("torch", "onednn")
    assert "none to be used" in found["caches"]["found"]
    assert not shelf.cache.exists()


def test_what_is_there_is_named(shelf: Shelf) -> None:
    images = make_dataset(shelf.folder / "images")
    encode_dataset(images, FakeBackbone(), shelf.cache, workers=0)
    (Path("data/fgvc_aircraft") / "images").mkdir(parents=True)
    for name, content in (("RN50", b"PK\x05\x06" + bytes(18)), ("ViT-B/16", b"half of an archive")):
        openai_target(name).parent.mkdir(parents=True, exist_ok=True)
        openai_target(name).write_bytes(content)
    found, code = shelf.findings()
    assert code == 0
    assert found["caches"]["found"].startswith("fake-one/drawn: ")
    assert found["weights"]["found"] == f"RN50, ViT-B/16 in {shelf.folder}/.cache/clip"
    assert "weights of RN50" not in found
    assert found["weights of ViT-B/16"]["state"] == "warning"


def test_a_module_of_the_present_folder_stands_before_the_installed_one(shelf: Shelf) -> None:
    shelf.patch.chdir(shelf.modules)
    shelf.patch.setattr(packages, "distribution", lambda name: Installed())
    found, code = shelf.findings()
    assert code == 0
    assert str(shelf.modules / "clip/clip.py") in found["clip-anytorch"]["found"]
    assert found["clip-anytorch"]["state"] == "warning"


class Installed:
    """A package that lies elsewhere."""

    def locate_file(self, path: str) -> Path:
        return Path("/elsewhere") / path


@pytest.mark.parametrize("kind", ["torch that ends Python", "a damaged cache", "a full disk", "no locks"])
def test_the_text_fits_80_columns_and_steers_no_terminal(kind: str, shelf: Shelf) -> None:
    shelf.cache = shelf.folder / ("a\x1b[2J folder " * 5 + "b" * 100)
    shelf.patch.setenv("CPTLITE_CACHE", str(shelf.cache))
    FAULTS[kind].plant(shelf)
    done = shelf.call()
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line.isprintable() for line in lines)
    name = FAULTS[kind].name
    rows, advice = done.stdout.split("\nWhat to do\n")
    assert any(line.startswith("failed ") and name in line for line in rows.splitlines())
    assert name in advice.split("\nWhat could be had besides\n")[0]
    assert "checks failed" in lines[-1]


def test_a_long_error_keeps_its_two_ends(shelf: Shelf) -> None:
    shelf.write_module("h5py", "raise ImportError('first' + ' and\\n more' * 1000 + ' last')")
    found, _ = shelf.findings()
    assert "ImportError: first and more" in found["h5py"]["found"]
    assert found["h5py"]["found"].endswith("more last")
    assert len(found["h5py"]["found"]) < 700


def test_what_needs_a_broken_package_is_not_looked_at(shelf: Shelf) -> None:
    shelf.write_module("h5py", "raise ImportError")
    found, _ = shelf.findings()
    for name in ("caches", "--cache-dir HDF5"):
        assert found[name]["state"] == "warning"
        assert found[name]["found"] == "not looked at: needs h5py"


def test_errors_of_the_same_cause_are_told_as_one(shelf: Shelf) -> None:
    shelf.write_module("numpy", "raise ImportError('broken')")
    shelf.write_module("torch", "import numpy")
    found, _ = shelf.findings()
    assert found["torch"]["advice"] == "mend numpy first, which fails alike"


def test_a_package_that_hangs_is_told(shelf: Shelf) -> None:
    shelf.write_module("slow_one", "import time; time.sleep(60)")
    shelf.patch.setattr(packages, "SECONDS", 0.1)
    trials = try_imports((Package(name="slow_one", modules=("slow_one",)),))
    assert trials["slow_one"].error == "it takes more than 0.1 s"


def test_what_a_package_prints_is_no_result(shelf: Shelf) -> None:
    shelf.write_module("loud_one", "import os; print('hello', flush=True); os.write(1, b'hello')")
    (trial,) = try_imports((Package(name="loud_one", modules=("loud_one",)),)).values()
    assert trial == Trial(file=str(shelf.modules / "loud_one.py"))


def test_with_nothing_that_works_it_still_answers(shelf: Shelf) -> None:
    for name in ("numpy", "torch", "torchvision", "h5py", "clip", "sklearn", "pkg_resources"):
        shutil.rmtree(shelf.modules / name, ignore_errors=True)
        shelf.write_module(name, "raise RuntimeError('broken')")
    for name in ("typer", "filelock", "PIL", "safetensors", "matplotlib"):  # the true ones
        shutil.rmtree(shelf.modules / name, ignore_errors=True)
        (shelf.modules / f"{name}.py").unlink(missing_ok=True)
    path = os.pathsep.join(filter(None, (str(shelf.modules), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "cptlite", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    failed = {each["name"] for each in json.loads(done.stdout)["results"] if each["state"] == "failed"}
    assert {"numpy", "torch", "torchvision", "h5py", "clip-anytorch", "scikit-learn"} <= failed


def test_a_gpu_is_described(cuda: object, shelf: Shelf) -> None:
    class Properties:
        total_memory = 80 * GIB

    shelf.patch.setattr(torch.cuda, "is_available", lambda: True)
    shelf.patch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    found, code = shelf.findings()
    assert code == 0
    assert "with 80 GiB" in found["device"]["found"]
    assert found["precision"]["found"] == "bf16"
    assert found["linear, bf16"]["found"] == "torch, by --linear-backend auto"


@pytest.mark.slow
def test_the_environment_of_the_tests_is_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "DRIVER", tmp_path / "no driver")
    failed = [each for each in examine(tmp_path, tmp_path, tmp_path) if each.state == "failed"]
    assert not failed
