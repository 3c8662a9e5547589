"""The pages' tables of methods are the method table's, and so is what `cptlite methods` prints."""

from __future__ import annotations

import json
import re

import pytest
from methods_table import PAGES, ROOT, replaced
from typer.testing import CliRunner

from cptlite.cli import app
from cptlite.methods.class_texts import TEXT_OPTIONS
from cptlite.methods.table import METHODS

SEEN = {"names", "validation", *TEXT_OPTIONS}


@pytest.mark.parametrize("page", PAGES)
def test_pages_have_the_tables_that_the_script_makes(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert text == replaced(page), "run python scripts/methods_table.py"
    for name in METHODS:
        assert f"`{name}`" in text


def test_the_command_and_the_page_agree() -> None:
    printed = json.loads(CliRunner().invoke(app, ["methods", "--json"]).stdout)["results"]
    table = (ROOT / "docs/methods.md").read_text(encoding="utf-8").partition("## What it looks at")[0]
    rows = [re.split(r" ?\| ?", line)[1:-1] for line in table.splitlines() if line.startswith("| `")]
    assert [(row[0].strip("`"), row[1], row[2].strip("`")) for row in rows[1:]] == [
        (each["name"], each["learns"], each["parameters"]) for each in printed
    ]


@pytest.mark.parametrize("name", METHODS)
def test_a_row_says_what_it_sees_and_costs(name: str) -> None:
    entry = METHODS[name]
    assert set(entry.sees) <= SEEN and len(set(entry.sees)) == len(entry.sees)
    assert entry.learns and entry.parameters and entry.source and entry.cached
    assert not entry.stepped or entry.cost, "say what a step costs"
    options = {each.name for each in entry.list_options()}
    assert {word for word in entry.sees if word in TEXT_OPTIONS} == options & {*TEXT_OPTIONS}
    if entry.stepped or "templates" in options:
        assert "names" in entry.sees
