"""What a GPU has to show, in parts of less than ten minutes each, the most important first.

    python scripts/gpu_day.py                        # parts that are not done yet, as many as nine minutes hold
    python scripts/gpu_day.py --list                 # what there is, what it shows, what is done
    python scripts/gpu_day.py --only graphs          # one part, whatever is done
    python scripts/gpu_day.py --device cpu --small   # all of it on a processor at tiny sizes: does it run?

A part is done when its ``gpu-NAME.json`` lies in --results (``bench/results``; without a GPU, or small, the folder
``rehearsal`` in it): hardware, versions, commit, date and a list of rows of numbers. It is not run again, so a call
that was cut off, or the machine lent anew, goes on with the next. Where only one folder comes back from the machine,
``--out`` is that folder: files are written there, and looked for in both. Each part has a process of its own, which is
ended after its minutes; one that fails says why, and the others go on. Nothing is downloaded: weights are random,
images are drawn. Needs the package, and pytest for the tests.

Exit code 0: all parts asked for are done; 1: some are not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_parts import attention, equality, figures, graphs, profiling
from gpu_parts.setting import Part, Setting

from cptlite.environment import describe_environment
from cptlite.files import write_whole

PARTS: dict[str, Part] = {
    "equality-text": Part(shows="text features and gradients are the processor's", minutes=4, run=equality.text),
    "equality-training": Part(shows="every method learns what it learns there", minutes=6, run=equality.trainings),
    "graphs": Part(shows="every method's step is recorded, the same and faster", minutes=8, run=graphs.graphs),
    "tests": Part(shows="the tests that need a GPU pass", minutes=4, run=profiling.gpu_tests),
    "attention": Part(shows="which attention is fastest at each suite's sizes", minutes=8, run=attention.attention),
    "general10": Part(
        shows="a whole training of General-10", minutes=9, run=partial(figures.training, suite="general10", runs=1)
    ),
    "plant6": Part(
        shows="whole trainings of Plant-6, alone and 15 together",
        minutes=9,
        run=partial(figures.training, suite="plant6", runs=15),
    ),
    "full": Part(shows="whole trainings by the full recipe", minutes=6, run=figures.full_batches),
    "pass-rn50": Part(
        shows="images a second from files to the cache, RN50", minutes=5, run=partial(figures.the_pass, backbone="RN50")
    ),
    "pass-vit": Part(shows="the same, ViT-B/16", minutes=5, run=partial(figures.the_pass, backbone="ViT-B/16")),
    "equality-images": Part(shows="features of images are the processor's", minutes=3, run=equality.images),
    "memory": Part(shows="what a step holds, by runs and by --text-memory", minutes=4, run=figures.memory),
    "together": Part(shows="what runs gain together", minutes=6, run=figures.together),
    "text": Part(shows="the text path against the original's way", minutes=8, run=figures.ways),
    "profile": Part(shows="where a step's time goes", minutes=3, run=profiling.step_profile),
}
RESULTS = Path(__file__).parents[1] / "bench" / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; the exit code."""
    given = _parse(arguments)
    setting = Setting(device=given.device, small=given.small, tell=lambda words: print(f"  {words}", flush=True))
    rehearsal = setting.small or setting.place.type == "cpu"
    results = given.results or (RESULTS / "rehearsal" if rehearsal else RESULTS)
    folders = [results, *([given.out] if given.out else [])]
    done = {name for name in PARTS if any(_is_done(folder, name, setting) for folder in folders)}
    if given.list:
        for name, part in PARTS.items():
            print(f"{name:18} {'done' if name in done else f'{part.minutes:g} min':6} {part.shows}")
        return 0
    if given.only:
        _run(given.only, setting, folders[-1])
        return 0
    ended = time.monotonic() + 60 * given.minutes
    left = [name for name in PARTS if name not in done]
    for name in list(left):
        if time.monotonic() + 60 * PARTS[name].minutes > ended:
            continue
        if _run_apart(name, setting, folders[-1], min(PARTS[name].minutes, (ended - time.monotonic()) / 60)):
            left.remove(name)
    print(f"left: {', '.join(left)}" if left else "all parts are done")
    return 1 if left else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What a GPU has to show, part by part.")
    parser.add_argument("--list", action="store_true", help="Say what there is and what is done.")
    parser.add_argument("--only", choices=PARTS, help="Run one part, here and now.")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
    parser.add_argument("--small", action="store_true", help="At tiny sizes: to see that it runs.")
    parser.add_argument("--minutes", type=float, default=9.5, help="Begin no part that may end after these.")
    parser.add_argument("--results", type=Path, help="Where finished parts lie.")
    parser.add_argument("--out", type=Path, help="Where new ones go, by default there too.")
    return parser.parse_args(arguments)


def _path(folder: Path, name: str) -> Path:
    return folder / f"gpu-{name}.json"


def _is_done(folder: Path, name: str, setting: Setting) -> bool:
    """Whether a part's file is there, of the same kind of device and sizes."""
    try:
        found = json.loads(_path(folder, name).read_text(encoding="utf-8"))
        return (found["device"], found["small"]) == (setting.place.type, setting.small)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _run(name: str, setting: Setting, folder: Path) -> dict[str, Any]:
    """Run a part and write its file."""
    print(f"{name}: {PARTS[name].shows}", flush=True)
    started = time.monotonic()
    rows = []
    for row in PARTS[name].run(setting):
        print(f"  {json.dumps(row)}", flush=True)  # so that a part that is cut off has shown something
        rows.append(row)
    found = {
        "part": name,
        "device": setting.place.type,
        "small": setting.small,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_environment(setting.place),
        "rounds_products": torch.backends.cuda.matmul.allow_tf32,
        "rounds_convolutions": torch.backends.cudnn.allow_tf32,
        "seconds": round(time.monotonic() - started, 1),
        "rows": rows,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(_path(folder, name), (json.dumps(found, indent=1) + "\n").encode())
    return found


def _run_apart(name: str, setting: Setting, folder: Path, minutes: float) -> bool:
    """Run a part in a process of its own; whether it was done."""
    command = [sys.executable, __file__, "--only", name, "--device", setting.device, "--results", str(folder)]
    command += ["--small"] * setting.small
    try:
        return subprocess.run(command, timeout=60 * minutes).returncode == 0
    except subprocess.TimeoutExpired:
        print(f"{name}: not done after {minutes:.1f} minutes", flush=True)
        return False


if __name__ == "__main__":
    sys.exit(main())
