"""What can go wrong for a user, and the exit code each kind ends with.

Every message says what was wanted, what was found and what to do about it.
"""

__all__ = ["CptliteError", "DataError", "DataWarning", "UsageError"]

FRONT, BACK = 800, 400  # characters of a line that are kept where it is longer: what is wrong, and what to do


class CptliteError(Exception):
    """Base of every error meant for the user; the command line exits with ``exit_code``.

    A message may repeat what a file says, which has any length: the middle of a long line is left out.
    """

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        lines = message.split("\n")
        super().__init__("\n".join(line if len(line) <= FRONT + BACK else _shortened(line) for line in lines))


class UsageError(CptliteError, ValueError):
    """A value the user gave is not one of those allowed."""

    exit_code = 2


class DataError(CptliteError):
    """Data or weights are missing, unreadable or not the ones asked for."""

    exit_code = 3


class DataWarning(UserWarning):
    """Data of which some is short: what is done goes on with what there is."""


def _shortened(line: str) -> str:
    return f"{line[:FRONT]} [...] {line[-BACK:]}"
