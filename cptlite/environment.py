"""What a number was measured with: versions, hardware, commit and memory.

Sources: of the resident peak's reset, proc(5), ``/proc/pid/clear_refs``.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import cptlite
from cptlite.errors import UsageError
from cptlite.process import name_gpus

__all__ = [
    "PeakMemory",
    "describe_environment",
    "find_device",
    "measure_peak",
    "multiplies_bf16",
    "processor_vendor",
    "usable_cores",
    "visible_gpus",
]

PACKAGES = ("torch", "clip-anytorch", "numpy", "h5py", "scikit-learn")
CLEAR_REFS, STATUS, CPU_INFO = Path("/proc/self/clear_refs"), Path("/proc/self/status"), Path("/proc/cpuinfo")
RESET_PEAK = "5"  # what clear_refs takes for "set the peak resident size to the present one"


@dataclass
class PeakMemory:
    """Most memory that was in use at a time; filled in when the measured block of `measure_peak` ends.

    Attributes
    ----------
    mib : float or None
        In MiB: what PyTorch had allocated on the GPU, or the resident size of the process; what was in use before the
        block and during it is included. None where the system does not say.
    peak_of : str
        "run" for a peak within the block; "process" where the system cannot reset its record, so that ``mib`` is the
        peak since the process started.
    """

    mib: float | None = None
    peak_of: str = "run"


@contextmanager
def measure_peak(device: torch.device) -> Iterator[PeakMemory]:
    """Measure the peak memory of the block that is entered; blocks must not overlap, not in threads either.

    Parameters
    ----------
    device : torch.device
        A GPU's own memory is measured, or with a CPU the process's.

    Yields
    ------
    PeakMemory
        To be read after the block, which also fills it in if an error ends it.
    """
    peak = PeakMemory()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif not _reset_resident_peak():
        peak.peak_of = "process"
    try:
        yield peak
    finally:
        if device.type == "cuda":
            peak.mib = torch.cuda.max_memory_allocated(device) / 2**20
        else:
            peak.mib = _status_mib("VmHWM") if peak.peak_of == "run" else _process_peak_mib()


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Versions, hardware and, in a checkout, the commit."""
    return {
        "cptlite": cptlite.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "processor": _processor(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


def find_device(device: torch.device | str) -> torch.device:
    """Find the device of a name: ``auto`` (the GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises
    ------
    UsageError
        There is none of that name.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        known = place.type in ("cpu", "cuda")
    except (RuntimeError, TypeError):
        known = False
    if not known:
        raise UsageError(f"unknown device {str(device)!r}: give auto, cpu, cuda or cuda:N")
    if place.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {str(device)!r} wants a GPU and torch finds none: give --device cpu")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise UsageError(f"device {str(device)!r} wants a GPU that torch does not find: give cuda:0 to cuda:{last}")
    return place


def visible_gpus(device: str) -> tuple[str, ...]:
    """Name the GPUs that a device leaves open, as `cptlite.process.GPU_VARIABLE` does: none of a processor's or of one.

    Raises
    ------
    UsageError
        There is no such device.
    """
    place = find_device(device)
    if place.type != "cuda" or place.index is not None:
        return ()
    return name_gpus(range(torch.cuda.device_count()))


def multiplies_bf16() -> bool:
    """Whether the processor has instructions that multiply bf16, where PyTorch knows."""
    asked = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(has() for has in asked if has is not None)


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _reset_resident_peak() -> bool:
    """Set the peak resident size to the present one; whether that worked, which takes Linux."""
    try:
        CLEAR_REFS.write_text(RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return _status_mib("VmHWM") is not None


def _status_mib(name: str) -> float | None:
    """Size of this process that Linux records under a name, in MiB."""
    try:
        lines = STATUS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    kib = next((line.split()[1] for line in lines if line.startswith(f"{name}:")), None)
    return None if kib is None else int(kib) / 2**10


def _process_peak_mib() -> float | None:
    """Peak resident size since the process started, in MiB; None on Windows, which lacks the module."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes, the others KiB


def _commit() -> str | None:
    """Short hash of the checkout the package runs from; None for an installed package."""
    folder = Path(cptlite.__file__).parents[1]
    if not (folder / ".git").exists():
        return None
    try:
        run = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()


def processor_vendor() -> str:
    """Vendor that the processor names itself, such as ``AuthenticAMD``; empty where the system does not say."""
    return _of_processor("vendor_id") or ""


def _processor() -> str:
    return _of_processor("model name") or platform.processor() or platform.machine()


def _of_processor(name: str) -> str | None:
    """Find what Linux says of the first core."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), None)
