"""What can go wrong for a user, and the exit code each kind ends with.

Every message says what was wanted, what was found and what to do about it.
"""

__all__ = ["CptliteError", "DataError", "UsageError"]


class CptliteError(Exception):
    """Base of every error meant for the user; the command line exits with ``exit_code``."""

    exit_code = 1


class UsageError(CptliteError, ValueError):
    """A value the user gave is not one of those allowed."""

    exit_code = 2


class DataError(CptliteError):
    """Data or weights are missing, unreadable or not the ones asked for."""

    exit_code = 3


class DataWarning(UserWarning):
    """Data of which some is short: what is done goes on with what there is."""
