"""README's table of methods is the method table's."""

from __future__ import annotations

from pathlib import Path

from methods_table import markdown

README = Path(__file__).parents[2] / "README.md"


def test_readme_has_the_table_that_the_script_prints() -> None:
    text = README.read_text(encoding="utf-8")
    table = text.partition("<!-- methods -->\n")[2].partition("\n\n")[0]
    assert table == markdown(), "run python scripts/methods_table.py and put what it prints into README.md"
