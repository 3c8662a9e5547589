"""Inject faults into every command that writes, and write down what came of it.

python tests/faults/inject.py --seed 0 --table tests/README.md
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ["OMP_NUM_THREADS"] = "1"  # children are forked, which wants one thread
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from fault_commands import COMMANDS, Shelf
from fault_damage import DAMAGES
from fault_kinds import STRIKES
from fault_process import warm_up
from fault_trials import Row, Trials

BEGIN, END = "<!-- faults -->\n", "<!-- /faults -->\n"
SHARED_MEMORY = Path("/dev/shm")
LONG = 5  # points of a kind and a command, three times as many of damage, which takes less
IN_TURN = ("cache", "cache, resumed", "train kgcoop, resumed", "train prototype --force, again", "report --out")


def main() -> int:
    """Inject; 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the points")
    parser.add_argument("--points", type=int, default=LONG, help="of each kind and command, at most")
    parser.add_argument("--in-turn", action="store_true", help="every kind once, on one command after the other")
    parser.add_argument("--table", type=Path, help="Markdown file to write the table into, between its marks")
    parser.add_argument("--kind", default="", help="only kinds with this in their name")
    parser.add_argument("--command", default="", help="only commands with this in their name")
    given = parser.parse_args()
    torch.set_num_threads(1)
    started = time.monotonic()
    warm_up()
    place = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    with TemporaryDirectory(dir=place) as folder:
        os.chmod(folder, 0o755)  # a try may be made as somebody else
        if given.in_turn:
            rows = inject_in_turn(Path(folder), given.seed)
        else:
            rows = inject(Path(folder), given.seed, given.points, given.kind, given.command)
    lines = table_of(rows)
    print("\n".join(lines))
    if given.table:
        write_table(given.table, lines, given.seed, given.points, time.monotonic() - started)
    gc.unfreeze()  # libraries complain about what is left at the end
    return int(any(row.failed for row in rows))


def inject(folder: Path, seed: int, most: int, kind: str, command: str) -> list[Row]:
    """Try every kind on every command."""
    shelf, rows = Shelf(folder), []
    for number, (name, strike) in enumerate({**STRIKES, **DAMAGES}.items()):
        for place, each in enumerate(COMMANDS):
            if kind not in name or command not in each.name:
                continue
            row, since = Row(name, each.name), time.monotonic()
            draw = np.random.default_rng((seed, number, place))
            points = most * (3 if name in DAMAGES else 1)
            strike(Trials(shelf, each, folder), row, draw, max(1, int(points * each.share)))
            if row.points:
                rows.append(row)
                took = f"{time.monotonic() - since:.1f} s"
                print(f"{name}: {each.name}: {row.points} points, {len(row.failed)} failed, {took}", file=sys.stderr)
            for line in row.failed:
                print(f"FAILED {line}", file=sys.stderr)
    return rows


def inject_in_turn(folder: Path, seed: int) -> list[Row]:
    """Try every kind that takes no process of its own once, on one command after the other."""
    shelf, rows = Shelf(folder), []
    commands = [each for each in COMMANDS if each.name in IN_TURN]
    for number, (name, strike) in enumerate({**STRIKES, **DAMAGES}.items()):
        for place in range(0 if "outside" in name else len(commands)):
            command = commands[(number + place) % len(commands)]
            row = Row(name, command.name)
            strike(Trials(shelf, command, folder), row, np.random.default_rng((seed, number)), 1)
            if row.points:
                rows.append(row)
                sys.stderr.writelines(f"FAILED {line}\n" for line in row.failed)
                break
    return rows


def table_of(rows: list[Row]) -> list[str]:
    """Lines of Markdown."""
    lines = ["| kind | command | points tried | failed |", "|---|---|---|---|"]
    for kind in dict.fromkeys(row.kind for row in rows):
        same = [row for row in rows if row.kind == kind]
        lines += [f"| {kind} | `{row.command}` | {row.points} | {len(row.failed)} |" for row in same]
    total, failed = sum(row.points for row in rows), sum(len(row.failed) for row in rows)
    return [*lines, f"| **all** | | **{total:,}** | **{failed}** |"]


def write_table(path: Path, lines: list[str], seed: int, most: int, seconds: float) -> None:
    """Replace what stands between the marks."""
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    made = (
        f"`python tests/faults/inject.py --seed {seed}{'' if most == LONG else f' --points {most}'} --table "
        f"tests/README.md`, {date.today()}, {seconds / 60:.0f} minutes on one of {os.cpu_count()} cores, no GPU:"
    )
    path.write_text("".join([before, BEGIN, made, "\n\n", "\n".join(lines), "\n", END, after]), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
