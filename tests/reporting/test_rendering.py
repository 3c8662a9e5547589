"""Tables on terminals of any width: nothing is cut, nothing sticks out."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cptlite.reporting import Table, render_table

WIDE = Table(
    title="Wide",
    columns=("method", "differs", *(f"{shots} shots" for shots in (1, 2, 4, 8, 16)), "learned", "time"),
    rows=(
        ("softcpt-nata-full", "context-length 4, lr 0.01", *["71.4 ± 0.7"] * 5, "262,656", "7.75 s"),
        ("zeroshot", "", *["53.0"] * 5, "0", "0.46 s"),
    ),
    words=(0, 1),
)


def drawn(table: Table, width: int) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(render_table(table))
    return stream.getvalue()


@pytest.mark.parametrize("width", [200, 100, 80, 60, 40])
def test_a_table_stays_within_the_terminal_and_whole(width: int) -> None:
    words = drawn(WIDE, width)
    assert max(map(len, words.splitlines())) <= width
    for word in (*WIDE.columns[2:], "softcpt-nata-full", "262,656", "7.75 s"):
        assert word in words, "figures and names are never folded"
    assert words.count("71.4 ± 0.7") == 5


def test_words_are_folded_before_columns_go_below_each_other() -> None:
    assert drawn(WIDE, 120).count("softcpt-nata-full") == 1
    folded = drawn(WIDE, 113)
    assert folded.count("softcpt-nata-full") == 1 and "context-length 4, lr 0.01" not in folded
    parts = drawn(WIDE, 80)
    assert parts.count("softcpt-nata-full") == 2, "the first column stands in each part"


def test_any_width_ends() -> None:
    for width in range(1, 30):
        assert "Wi" in drawn(WIDE, width).replace("\n", "") or width < 2
