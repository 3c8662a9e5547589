"""Messages keep what is wrong and what to do, however much a file says between."""

from __future__ import annotations

import pickle

import pytest

from cptlite.errors import CptliteError, DataError, UsageError


@pytest.mark.parametrize("kind", [CptliteError, DataError, UsageError])
def test_the_middle_of_a_long_line_is_left_out(kind: type[CptliteError]) -> None:
    error = kind(f"wanted this, got {'x' * 10_000}; do that\nsecond line")
    first, second = str(error).split("\n")
    assert first.startswith("wanted this, got xxx") and first.endswith("xxx; do that") and " [...] " in first
    assert len(first) < 1300 and second == "second line"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # as workers of a sweep send it


def test_a_message_of_usual_length_is_as_it_was() -> None:
    assert str(DataError("x" * 1000)) == "x" * 1000
