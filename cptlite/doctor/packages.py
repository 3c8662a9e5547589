"""Whether the packages are there, of versions that fit, and can be imported; and the traps known among them."""

from __future__ import annotations

import json
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, metadata, requires, version
from pathlib import Path

import cptlite
from cptlite.doctor import importing
from cptlite.doctor.findings import FAILED, OK, WARNING, Finding, one_line

__all__ = ["OPTIONAL", "PACKAGES", "Package", "Trial", "check_packages", "check_python", "try_imports"]

SECONDS = 300  # that an import may take; torch takes a minute from a slow disk


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package by its name in the index, the modules that are used of it, and what it is for if one can do without."""

    name: str
    modules: tuple[str, ...]
    use: str = ""
    install: str = ""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How importing went: the first module's file, and the error, of which there is none where it went well."""

    file: str = ""
    error: str = ""


PACKAGES = (
    Package(name="numpy", modules=("numpy",)),
    Package(name="torch", modules=("torch",)),
    Package(name="torchvision", modules=("torchvision",)),
    Package(name="setuptools", modules=("pkg_resources",)),  # which is all that is wanted of it, by clip
    Package(name="clip-anytorch", modules=("clip.clip", "clip.model", "clip.simple_tokenizer")),
    Package(name="h5py", modules=("h5py",)),
    Package(name="scikit-learn", modules=("sklearn.linear_model",)),
    Package(name="typer", modules=("typer",)),
    Package(name="filelock", modules=("filelock",)),
    Package(name="Pillow", modules=("PIL.Image",)),
    Package(name="safetensors", modules=("safetensors.torch",)),
)
ONNX = {"use": "--format onnx", "install": "pip install 'cptlite[onnx]'"}
OPTIONAL = (
    Package(name="matplotlib", modules=("matplotlib.figure",), use="pictures", install="pip install 'cptlite[plot]'"),
    Package(name="pyarrow", modules=("pyarrow.parquet",), use="Parquet", install="pip install pyarrow"),
    Package(name="onnx", modules=("onnx",), **ONNX),
    Package(name="onnxruntime", modules=("onnxruntime",), **ONNX),
    Package(name="onnxscript", modules=("onnxscript",), **ONNX),
    Package(
        name="open_clip_torch",
        modules=("open_clip",),
        use="--backbone openclip:MODEL",
        install="pip install 'cptlite[openclip]'",
    ),
)

PAIR = (
    "torch and torchvision must be of one build: pip install --force-reinstall torch torchvision, in one command and "
    "from one index; constraints.txt has a pair that fits"
)
# What errors of known traps say, and what to do about each.
TRAPS = {
    r"torchvision::|torchvision.*undefined symbol": PAIR,
    r"No module named '?pkg_resources": "setuptools 82 removed what clip imports: pip install 'setuptools>=77.0.3,<82'",
    r"No module named '?clip\.|cannot import name .* from 'clip": (
        "another package goes by the name of clip: pip uninstall clip, then pip install --force-reinstall clip-anytorch"
    ),
    r"numpy\.(_?core|dtype)|_ARRAY_API|compiled using NumPy": (
        "it does not fit its NumPy: pip install --upgrade --force-reinstall {name}"
    ),
    r"SIGILL": "it was built for another processor: install a build of {name} for this one",
    r"cannot open shared object file|DLL load failed|undefined symbol": (
        "a shared library is missing or does not fit: pip install --force-reinstall {name}"
    ),
}
BOUND = re.compile(r"(>=|==|<)\s*([\w.+]+)")


def check_python() -> Iterator[Finding]:
    """Look at the interpreter and at cptlite itself."""
    place = Path(cptlite.__file__).parent
    try:
        bounds = metadata("cptlite")["Requires-Python"] or ""
    except PackageNotFoundError:
        yield Finding(
            name="cptlite",
            state=WARNING,
            found=f"{cptlite.__version__} in {place}, not installed: the versions it needs are not known",
            advice=f"pip install -e {place.parent}",
        )
        bounds = ""
    else:
        yield Finding(name="cptlite", state=OK, found=f"{cptlite.__version__} in {place}")
    misfit = _misfit(platform.python_version(), bounds)
    yield Finding(
        name="Python",
        state=WARNING if misfit else OK,
        found=f"{platform.python_version()}, {sys.executable}{misfit}",
        advice=f"make an environment with Python {bounds}" if misfit else "",
    )


def check_packages(packages: Sequence[Package] = PACKAGES + OPTIONAL) -> Iterator[Finding]:
    """Look at the version of each package and import it."""
    wanted, trials = _requirements("cptlite"), try_imports(packages)
    failed: dict[str, str] = {}
    for package in packages:
        trial, requirement = trials[package.name], wanted.get(package.name.lower(), package.name)
        finding = _judge(package, requirement, trial, failed)
        if trial.error:
            failed[package.name] = trial.error
        yield finding


def _judge(package: Package, requirement: str, trial: Trial, failed: Mapping[str, str]) -> Finding:
    """Say whether a package will do; ``failed`` are errors of those before it."""
    name, worst = package.name, WARNING if package.use else FAILED
    try:
        found = version(name)
    except PackageNotFoundError:
        if package.use:
            advice = f"{package.install}, for {package.use}"
            return Finding(name=name, state=OK, found=f"not installed, wanted by {package.use} alone", advice=advice)
        return Finding(name=name, state=FAILED, found="not installed", advice=f"pip install '{requirement}'")
    misfit = _misfit(found, requirement)
    if trial.error:
        said = f"{found}{misfit}, cannot be imported: {one_line(trial.error)}"
        if misfit:  # the one thing that is known to be wrong of this very package
            return Finding(name=name, state=worst, found=said, advice=f"pip install '{requirement}'")
        return Finding(name=name, state=worst, found=said, advice=_advice(package, requirement, trial.error, failed))
    if misfit:
        return Finding(name=name, state=WARNING, found=f"{found}{misfit}", advice=f"pip install '{requirement}'")
    if name == "torchvision" and (misfit := _pair_misfit()):
        return Finding(name=name, state=WARNING, found=f"{found}, which wants torch {misfit}", advice=PAIR)
    if _is_shadowed(name, trial.file):
        return Finding(
            name=name,
            state=WARNING,
            found=f"{found} is installed, but {trial.file} is imported, which is of the present folder",
            advice="run cptlite in another folder, or rename this",
        )
    return Finding(name=name, state=OK, found=found)


def _advice(package: Package, requirement: str, error: str, failed: Mapping[str, str]) -> str:
    alike = next((name for name, earlier in failed.items() if earlier == error), None)
    if alike is not None:
        return f"mend {alike} first, which fails alike"
    for pattern, advice in TRAPS.items():
        if re.search(pattern, error):
            return advice.format(name=package.name)
    if missing := re.search(r"No module named '([\w.]+)'", error):
        return f"{missing[1]} is missing: pip install --force-reinstall '{requirement}'"
    return f"pip install --force-reinstall '{requirement}'"


def try_imports(packages: Sequence[Package]) -> dict[str, Trial]:
    """Import packages, in order, elsewhere than in this process.

    Returns
    -------
    dict of str to Trial
        By name. One that ends the process, or does not end, is told as an error.
    """
    trials: dict[str, Trial] = {}
    while waiting := [package for package in packages if package.name not in trials]:
        words = (json.dumps(sys.path), json.dumps([(each.name, each.modules) for each in waiting]))
        command = [sys.executable, "-P", importing.__file__, *words]
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=SECONDS)
            told, ending = done.stdout, _ending(done.returncode)
        except subprocess.TimeoutExpired as late:
            told, ending = late.stdout or b"", f"it takes more than {SECONDS} s"
        for line in told.splitlines():
            facts = json.loads(line)
            trials[facts["name"]] = Trial(file=facts["file"], error=facts["error"])
        left = [package.name for package in waiting if package.name not in trials]
        if left and not any(trials[each.name].error for each in waiting if each.name in trials):
            trials[left[0]] = Trial(error=ending)  # the one that was being imported
    return trials


def _ending(code: int) -> str:
    """Say how a process ended that should have told something."""
    names = {-each.value: each.name for each in signal.Signals}
    return f"it ends Python by {names[code]}" if code in names else f"it ends Python with exit code {code}"


def _requirements(name: str) -> dict[str, str]:
    """List what a package asks for, by name in small letters, without markers: ``{"torch": "torch>=2.5.1"}``."""
    try:
        lines = requires(name) or []
    except PackageNotFoundError:
        return {}
    parts = (re.sub(r"[\s()]", "", line.partition(";")[0]) for line in lines)
    return {re.split(r"[^\w.-]", part)[0].lower(): part for part in parts}


def _misfit(found: str, requirement: str) -> str:
    """Say what a version is not, of the bounds in a requirement; nothing where it fits."""
    for sign, bound in BOUND.findall(requirement):
        here, there = _release(found), _release(bound)
        fits = {">=": here >= there, "<": here < there, "==": here == there}[sign]
        if not fits:
            return f", wanted {sign}{bound}"
    return ""


def _release(text: str) -> tuple[int, ...]:
    """Numbers of a version, of three parts at least: ``(2, 15, 0)`` for ``2.15.0+cpu``."""
    match = re.match(r"\d+(\.\d+)*", text)
    numbers = tuple(map(int, match[0].split("."))) if match else ()
    return (*numbers, *(0,) * (3 - len(numbers)))


def _pair_misfit() -> str:
    """Bounds of torchvision's on torch that the torch here does not keep."""
    asked = _requirements("torchvision").get("torch", "")
    try:
        return asked.removeprefix("torch") if _misfit(version("torch"), asked) else ""
    except PackageNotFoundError:
        return ""


def _is_shadowed(name: str, file: str) -> bool:
    """Whether a module is one of the present folder, and the package another."""
    here, installed = Path.cwd(), Path(str(distribution(name).locate_file(""))).resolve()
    path = Path(file).resolve()
    return bool(file) and path.is_relative_to(here) and not path.is_relative_to(installed)
