"""How a process of ours starts, holds memory and ends; loads nothing.

With PyTorch in it, start and end take longer than many a command's work. The collector of unreachable objects finds
none while modules load, but goes through all that they hold again and again: a quarter of the time. At the end the
interpreter takes every module apart, a second whose outcome is that the process is gone.

Source: of what glibc keeps, mallopt(3).
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from cptlite.errors import UsageError

__all__ = ["GPU_VARIABLE", "keep_freed_memory", "leave", "loading", "name_gpus", "see_gpus"]

GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"
"""Names the GPUs that a process sees, by commas: by their numbers, or as ``nvidia-smi -L`` does."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of glibc's mallopt
MOST_MMAPS, LARGE = 65536, 2**25  # its default, and the bytes that its threshold grows to by itself, at most


@contextmanager
def loading() -> Iterator[None]:
    """Import modules without looking for garbage."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def name_gpus(numbers: Sequence[int]) -> tuple[str, ...]:
    """Name GPUs that this process sees, counted from 0, as `GPU_VARIABLE` does.

    Raises
    ------
    UsageError
        It says itself which it sees, and these are fewer.
    """
    said = os.environ.get(GPU_VARIABLE)
    if said is None:
        return tuple(map(str, numbers))
    names = [name.strip() for name in said.split(",") if name.strip()]
    try:
        return tuple(names[number] for number in numbers)
    except IndexError:
        raise UsageError(
            f"wanted GPUs {', '.join(map(str, numbers))}, got {GPU_VARIABLE}={said}, which shows {len(names)}: give "
            f"numbers below {len(names)}, or unset it"
        ) from None


def see_gpus(numbers: Sequence[int]) -> None:
    """Let this process and those that it starts see some of the GPUs alone, before PyTorch has looked for any."""
    os.environ[GPU_VARIABLE] = ",".join(name_gpus(numbers))


def keep_freed_memory(*, large: bool = True) -> None:
    """Let this process keep what it frees, where its memory is glibc's; elsewhere nothing.

    Without ``large`` what is over 32 MiB is handed back, as it is if nothing is said.

    Large tensors are otherwise handed back at each step or batch of images, and come anew as pages that the system
    fills with zeros: an eighth of a step on General-10's names.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # the heap never shrinks
        libc.mallopt(M_MMAP_THRESHOLD, LARGE)
        libc.mallopt(M_MMAP_MAX, 0 if large else MOST_MMAPS)  # all from the heap


def leave(code: int) -> NoReturn:
    """End the process once what was registered to run at its end has run, and what was printed is out."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # nobody reads any more
            code = code or 1
    os._exit(code)
