"""One fault: a folder in a command's state, the command with its fate, and what is right afterwards.

The command ends as it may, says at most one line of error and no traceback, leaves nothing behind and nobody's files
changed; the same command, undisturbed, then ends with what it would have made in the first place.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from fault_commands import Command, Shelf, leftovers_in, outcome_of, strangers_in
from fault_process import HANGS, Ended, Fate, run

from cptlite.cache.parts import find_stores

__all__ = ["SAID", "Row", "Trials", "complaints", "left_behind", "without_force"]

SAID = (1, 2, 3)
CarryOut = Callable[[Sequence[str], Path], Ended]
DONE = re.compile(r"^leaves: (\d+) images in .*?(?:, (\d+) more from a stopped pass)?: ", re.MULTILINE)
FORCED = ("cache", "train")  # what has --force
ROWS = 24  # images that the command cache encodes


@dataclass
class Row:
    """A line of the table: what was tried, and what went wrong."""

    kind: str
    command: str
    points: int = 0
    failed: list[str] = field(default_factory=list)

    def note(self, where: str, problems: Collection[str]) -> None:
        """Count one fault, with what was wrong after it."""
        self.points += 1
        if problems:
            self.failed.append(f"{self.kind} / {self.command} / {where}: {'; '.join(problems)}")


def complaints(ended: Ended, allowed: Collection[int]) -> Iterator[str]:
    """What is wrong with an ending."""
    if ended.code == HANGS:
        yield "it hangs"
    elif ended.code not in allowed:
        yield f"exit code {ended.code}: {ended.err[-300:]!r}"
    both = ended.out + ended.err
    if "Traceback" in both or "Exception ignored" in both:
        yield f"a traceback: {both[-300:]!r}"
    said = [line for line in ended.err.splitlines() if line.startswith(("error: ", "interrupted: "))]
    if ended.code >= 0 and (len(said) != (ended.code > 0) or said and not ended.err.endswith(f"{said[0]}\n")):
        yield f"exit code {ended.code} with {len(said)} messages: {ended.err[-300:]!r}"


def without_force(command: Command) -> tuple[str, ...]:
    """The words that go on with what is there."""
    return tuple(word for word in command.words if word != "--force")


def left_behind(folder: Path, there: Collection[str]) -> list[str]:
    """Temporary files and locks that an ended command left, unless they were there before; parts are gone on from."""
    left = [name for name in leftovers_in(folder) if name.endswith((".tmp", ".lock")) and name not in there]
    return [f"left behind: {left}"] * bool(left)


class Trials:
    """Faults of one command.

    Parameters
    ----------
    shelf : Shelf
    command : Command
    folder : Path
        For one try after the other.
    """

    def __init__(self, shelf: Shelf, command: Command, folder: Path) -> None:
        self.shelf, self.command, self.folder = shelf, command, folder
        self.wanted = shelf.reference(command)
        self.numbers = count()

    @contextmanager
    def laid_out(self, where: Path | None = None) -> Iterator[Path]:
        """A folder for one try."""
        folder = (where or self.folder) / f"try{next(self.numbers)}"
        try:
            yield self.shelf.lay_out(self.command, folder)
        finally:
            shutil.rmtree(folder)

    def points(self, fate: Fate) -> tuple[str, ...]:
        """The points that an undisturbed command passes."""
        known = self.shelf.points.setdefault(self.command, {})
        which = (fate.calls, fate.writes_only)
        if which not in known:
            with self.laid_out() as folder:
                ended = run(self.command.words, folder, fate=fate)
                assert ended.code == 0, ended.err
                known[which] = ended.points
        return known[which]

    def attempt(
        self,
        row: Row,
        where: str,
        allowed: Collection[int],
        *,
        prepare: Callable[[], None] = lambda: None,
        fate: Fate | None = None,
        leaves: bool = False,
    ) -> None:
        """Try one fate; a fault that never struck, exit code 0 where others are allowed too, counts for nothing."""
        with self.laid_out() as folder:
            before, there = strangers_in(folder), leftovers_in(folder)
            ended = run(self.command.words, folder, prepare=prepare, fate=fate)
            if ended.code == 0 and len(allowed) > 1 and fate is None:
                return
            problems = [*complaints(ended, allowed)]
            if ended.code >= 0 and not leaves:
                problems += left_behind(folder, there)
            row.note(where, [*problems, *self.after(folder, before)])

    def after(self, folder: Path, before: dict[str, str], carry_out: CarryOut = run) -> Iterator[str]:
        """What is wrong with a folder after a fault, and after the same command went on with it."""
        if strangers_in(folder) != before:
            yield "files of others were touched"
        yield from self.goes_on(folder, carry_out=carry_out)
        if strangers_in(folder) != before:
            yield "files of others were touched when it went on"

    def goes_on(self, folder: Path, *, may_refuse: bool = False, carry_out: CarryOut = run) -> Iterator[str]:
        """What is wrong when the same command is given again, undisturbed; if it may refuse, --force has to mend it."""
        finished = _finished_rows(folder)
        again = carry_out(self.command.words, folder)
        refused = may_refuse and again.code in SAID
        yield from complaints(again, SAID if refused else (0,))
        if refused and self.command.words[0] not in FORCED:  # another --out is what the message offers
            for name in self.command.outputs:
                shutil.rmtree(folder / name)
            again = run(self.command.words, folder)
            yield from complaints(again, (0,))
        elif refused:
            again = run((*without_force(self.command), "--force"), folder)
            yield from complaints(again, (0,))
        elif again.code:
            return
        elif self.command.words[0] == "cache" and "--force" not in self.command.words:
            yield from _encoded_too_much(again, finished)
        yield from self.differences(folder)
        if left := leftovers_in(folder):
            yield f"left behind in the end: {left}"

    def differences(self, folder: Path) -> Iterator[str]:
        """What differs from what an undisturbed command makes."""
        try:
            found: dict[str, Any] = outcome_of(folder, self.command)
        except Exception as error:
            yield f"what was made cannot be read: {type(error).__name__} {error}"
            return
        wrong = [name for name in {**found, **self.wanted} if found.get(name) != self.wanted.get(name)]
        if wrong:
            yield f"a silent difference in {sorted(wrong)}"


def _finished_rows(folder: Path) -> int:
    return sum(sum(store.finished_rows().values()) for store in find_stores(folder / "cache"))


def _encoded_too_much(ended: Ended, finished: int) -> Iterator[str]:
    """Whether a pass that went on encoded anew what had been finished."""
    if found := DONE.search(ended.out):
        encoded, resumed = int(found[1]), int(found[2] or 0)
        if (encoded, resumed) != (ROWS - finished, finished):
            yield f"{finished} of {ROWS} rows were finished, but {encoded} encoded and {resumed} taken over"
