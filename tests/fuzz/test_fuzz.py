"""Every reader keeps the rules of `fuzz_oracle` on changed valid files, made-up ones, and all that once broke one.

``just fuzz`` looks for longer, guided by what each input reaches.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz_oracle import Finding, check
from fuzz_seeds import text
from fuzz_targets import TARGETS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cptlite.datasets.images import UnreadableImageError
from cptlite.errors import CptliteError, DataError

CORPUS = Path(__file__).parent / "corpus"
FOUND = sorted(path for path in CORPUS.glob("*/*") if path.is_file())
JSON_READERS = [
    *"split food bench class-texts results finished config log".split(),
    *"weights weights-configuration manifest-of-parts".split(),
]
TABLE_READERS = "csv kept-results predictions fgvc dtd pets imagenet tasks".split()
SLOW = ("cache-edits", "manifest-of-parts")

few = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def each(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@st.composite
def changed(draw: st.DrawFn, name: str) -> bytes:
    """A valid input of a reader with a few bytes lost, turned, doubled or put in."""
    content = bytearray(draw(st.sampled_from(list(TARGETS[name].seeds()))))
    words = st.one_of(st.binary(max_size=8), st.sampled_from([*TARGETS[name].words, b"\xff\xff\xff\xff", b"\0", b"\n"]))
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(content)))
        stop = min(len(content), start + draw(st.sampled_from([0, 1, 2, 4, 8, 64, len(content)])))
        kept = draw(st.sampled_from([b"", bytes(content[start:stop]) * 2]))
        content[start:stop] = kept + draw(words)
    return bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("name", [each(name) for name in TARGETS])
def test_a_changed_file_is_read_or_one_error(name: str, folder: Path) -> None:
    @few
    @given(changed(name))
    def run(content: bytes) -> None:
        TARGETS[name].check(folder, content)

    run()


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, -1, 10**400, 0.0, -0.0, 1e308, float("nan"), float("inf")])
    | st.text(max_size=6)
    | st.sampled_from(["\x1b[31m", "\n", "\ud800", "../x", "/etc/passwd", "0" * 64, "x" * 3000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def tree(draw: st.DrawFn, name: str) -> bytes:
    """A valid JSON input of a reader in which some values, or their names, are others."""
    content = json.loads(draw(st.sampled_from(list(TARGETS[name].seeds()))).split(b"\n")[0])
    for _ in range(draw(st.integers(1, 3))):
        content = _replaced(draw, content)
    return text(content)


def _replaced(draw: st.DrawFn, content: Any) -> Any:
    if not isinstance(content, dict | list) or not content or draw(st.integers(0, 3)) == 0:
        return draw(VALUES)
    if isinstance(content, list):
        place = draw(st.integers(0, len(content) - 1))
        return [*content[:place], _replaced(draw, content[place]), *content[place + 1 :]]
    name = draw(st.sampled_from(sorted(content)))
    change = draw(st.sampled_from(["value", "value", "drop", "rename"]))
    if change == "value":
        return {**content, name: _replaced(draw, content[name])}
    rest = {key: value for key, value in content.items() if key != name}
    return rest if change == "drop" else {**rest, draw(st.text(max_size=5)): content[name]}


@pytest.mark.slow
@pytest.mark.parametrize("name", [each(name) for name in JSON_READERS])
def test_json_of_other_shapes_is_read_or_one_error(name: str, folder: Path) -> None:
    @few
    @given(tree(name))
    def run(content: bytes) -> None:
        TARGETS[name].check(folder, content)

    run()


FIELDS = st.one_of(
    st.text(max_size=5),
    st.sampled_from(
        ["path", "label", "split", "a/1.png", "../a.png", "C:\\a.png", "é", "e\u0301", "", '"', "train", "0"]
    ),
)


@pytest.mark.parametrize("name", TABLE_READERS)
def test_tables_of_any_words_are_read_or_one_error(name: str, folder: Path) -> None:
    first = TARGETS[name].seeds()[0].split(b"\n")[0]

    @few
    @given(
        st.sampled_from([",", ";", "\t", " ", "/"]), st.lists(st.lists(FIELDS, max_size=4), max_size=6), st.booleans()
    )
    def run(separator: str, rows: list[list[str]], headed: bool) -> None:
        lines = [separator.join(row).encode("utf-8", "surrogatepass") for row in rows]
        TARGETS[name].check(folder, b"\n".join([first, *lines] if headed else lines))

    run()


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_was_found_once_is_read_or_one_error(path: Path, folder: Path) -> None:
    TARGETS[path.parent.name].check(folder, path.read_bytes())


def raising(error: Exception) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        raise error

    return read


def shouts(folder: Path) -> None:
    raise DataError("two\nlines")


def hides_an_allocation(folder: Path) -> None:
    try:
        torch.empty(2**40)
    except RuntimeError:
        raise DataError("damaged") from None


def hangs(folder: Path) -> None:
    while True:
        time.sleep(0)


def swallows(folder: Path) -> None:
    try:
        (folder.parent / "secret").read_bytes()
    except Exception:
        raise DataError("no secret") from None


@pytest.mark.parametrize(
    ("read", "rule"),
    [
        (raising(KeyError("x")), "traceback: KeyError"),
        (raising(MemoryError()), "traceback: MemoryError"),
        (shouts, "message: not one printable line"),
        (raising(UnreadableImageError("x" * 5000)), "message: 5000 characters"),
        (raising(DataError("")), "message: 0 characters"),
        (hides_an_allocation, "memory: "),
        (lambda folder: bytearray(2**30), "traceback: MemoryError"),
        (hangs, "hang: over"),
        (swallows, "reaches out: opens"),
        (lambda folder: (folder / "new").write_bytes(b""), "reaches out: opens"),
        (lambda folder: os.system("true"), "reaches out: os.system"),
        (lambda folder: os.mkfifo(folder / "new"), "changes files"),
    ],
)
def test_the_oracle_sees(read: Callable[[Path], Any], rule: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzz_oracle.CPU_SECONDS", 0.05)
    with pytest.raises(Finding, match=rule):
        check(read, folder, (CptliteError, UnreadableImageError), 256)


def test_the_oracle_passes_what_is_well(folder: Path) -> None:
    (folder / "file").write_bytes(b"x")
    check(lambda folder: io.BytesIO((folder / "file").read_bytes()), folder, (CptliteError,), 256)
    check(raising(DataError("one line")), folder, (CptliteError,), 256)
