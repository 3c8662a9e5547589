"""What folders of runs hold but for times, so that two sweeps can be compared byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["differences", "learned", "read_runs", "without_times"]

LEARNED = ("prompts.safetensors", "classifier.safetensors")
TIMES = ("seconds", "peak_mib", "peak_of", "crc32", "sha256")  # the last two are digests of lines and files with times
BESIDE = ("environment", "files")  # where it was made, perhaps while its checkout was edited; digests of files compared


def learned(out: Path) -> dict[str, bytes]:
    """Read what was learned, by run and file."""
    return {str(path.relative_to(out)): path.read_bytes() for name in LEARNED for path in out.rglob(name)}


def read_runs(out: Path) -> dict[str, Any]:
    """Read every file of the runs of a folder, by its path in there: bytes, but of JSON what it says but for times."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name = path.relative_to(out).as_posix()
        if path.suffix == ".jsonl":
            found[name] = [without_times(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        elif path.suffix == ".json":
            found[name] = without_times(json.loads(path.read_text(encoding="utf-8")))
        else:
            found[name] = path.read_bytes()
    return found


def without_times(content: Any) -> Any:
    """Leave out of what JSON holds, at every depth, what differs from one time to the next."""
    if isinstance(content, list):
        return [without_times(each) for each in content]
    if not isinstance(content, dict):
        return content
    return {name: without_times(value) for name, value in content.items() if name not in (*TIMES, *BESIDE)}


def differences(one: Path, other: Path) -> list[str]:
    """Name the files of two folders of runs that differ in more than times, or are in one of them alone."""
    first, second = read_runs(one), read_runs(other)
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
