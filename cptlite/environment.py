"""What a number was measured with: versions, hardware, commit and memory."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import cptlite

__all__ = ["describe_environment", "peak_memory_mib"]

PACKAGES = ("torch", "clip-anytorch", "numpy", "h5py", "scikit-learn")


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Versions, hardware and, in a checkout, the commit."""
    return {
        "cptlite": cptlite.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


def peak_memory_mib(device: torch.device) -> float:
    """Peak memory so far in MiB: allocated on the GPU, or of the process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if platform.system() == "Darwin" else 2**10)


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


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
