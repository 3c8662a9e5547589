"""What a check found, and how one that cannot be done is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from cptlite.errors import CptliteError

__all__ = ["FAILED", "OK", "WARNING", "Finding", "examined", "named", "one_line"]

OK, WARNING, FAILED = "ok", "warning", "failed"
FRONT, BACK = 400, 200  # characters that are kept of a long text: what is wrong, and what to do


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found.

    Attributes
    ----------
    name : str
        Of the check.
    state : str
        "ok", "warning" (it works, but mind this) or "failed" (a command would fail).
    found : str
        In a line.
    advice : str
        What to do; of a check that is ok, what could be had besides. Empty where there is nothing.
    """

    name: str
    state: str
    found: str
    advice: str = ""


def examined(name: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Give what a check finds; whatever error ends it is a finding too, under the name."""
    try:
        yield from check()
    except Exception as error:  # a library that is half broken raises anything at all
        reason = one_line(error) if isinstance(error, CptliteError) else named(error)
        yield Finding(
            name=name,
            state=FAILED,
            found=f"cannot be checked: {reason}",
            advice="mend what it says, then run `cptlite doctor` again",
        )


def named(error: BaseException) -> str:
    """Say in a line of what kind an error is, and what it says."""
    return one_line(f"{type(error).__name__}: {error}")


def one_line(text: object) -> str:
    """Write a text without line breaks, its middle left out where it is long."""
    line = " ".join(str(text).split())
    return line if len(line) <= FRONT + BACK else f"{line[:FRONT]} [...] {line[-BACK:]}"
