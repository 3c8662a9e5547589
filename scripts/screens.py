"""What commands show on a terminal of 80 columns: printed as Markdown, for docs/screens.md.

Trains on caches that ``cptlite demo`` left: ``python scripts/screens.py demo > docs/screens.md``. Commands run on a
pseudo terminal; of a bar its last states are kept, and the folders of this machine are left out.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

COLUMNS = "80"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
KEPT = 3  # states of a bar


def main() -> None:
    """Print every screen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="folder that cptlite demo made")
    demo = parser.parse_args().demo.resolve()
    print(f"# Screens at {COLUMNS} columns\n\nMade by `python scripts/screens.py DEMO` on {date.today()}.")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "demo").mkdir()
        for name in ("data", "cache"):
            (work / "demo" / name).symlink_to(demo / name)
        for words in (
            "--help",
            "demo",
            "train --cache-dir demo/cache --method coop-mt --recipe full --shots 1,4 --seed 1,2",
            "predict runs/demo/coop-mt-full/demo/shots4-seed1 demo/data/demo/counts/test/four --task demo_counts",
            "caches --cache-dir demo/cache",
        ):
            print(f"\n## `cptlite {words}`\n\n```text\n{screen(words.split(), work)}\n```")


def screen(words: list[str], folder: Path) -> str:
    """Run a command and return what its terminal showed."""
    parent, child = pty.openpty()
    environment = {**os.environ, "COLUMNS": COLUMNS, "TERM": "xterm", "NO_COLOR": "1"}
    command = [sys.executable, "-c", "import sys; sys.argv[0] = 'cptlite'; from cptlite.cli import run; run()", *words]
    work = subprocess.Popen(command, cwd=folder, env=environment, stdin=child, stdout=child, stderr=child)
    os.close(child)
    shown = b""
    while True:
        try:
            more = os.read(parent, 2**16)
        except OSError:  # Linux: the other end is closed
            break
        if not more:
            break
        shown += more
    os.close(parent)
    assert work.wait() == 0, shown.decode()
    return as_text(shown.decode())


def as_text(shown: str) -> str:
    """Leave out what moves the cursor; of a line that was drawn over and over keep a few states."""
    lines = []
    for line in shown.replace("\r\n", "\n").split("\n"):
        states = [ESCAPES.sub("", state).rstrip() for state in re.split(r"\r|\x1b\[2K", line)]
        states = list(dict.fromkeys(state for state in states if state))
        step = max(1, len(states) // KEPT)
        lines += states[::-1][::step][:KEPT][::-1] if len(states) > 1 else states or [""]
    return "\n".join(lines).strip("\n")


if __name__ == "__main__":
    main()
