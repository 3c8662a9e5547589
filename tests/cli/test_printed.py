"""What is printed of files steers no terminal and stops no command."""

from __future__ import annotations

import io
import json
import sys

import pytest
import typer
from typer.testing import CliRunner

from cptlite.cli.console import note, print_results
from cptlite.cli.groups import CommandGroup
from cptlite.errors import DataError


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("word", ["é", "half a letter: \ud800"])
def test_json_of_any_words_is_printed(word: str, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, write_through=True))
    print_results([word], suite=word)
    assert json.loads(raw.getvalue()) == {"suite": word, "results": [word]}


def test_a_message_of_any_words_keeps_its_lines_and_steers_nothing() -> None:
    app = typer.Typer(cls=CommandGroup)

    @app.callback()
    def main(debug: bool = False) -> None:
        """Take what every command takes."""

    @app.command()
    def fail() -> None:
        raise DataError("wanted\n  this\x1b[2J\x07")

    @app.command()
    def tell() -> None:
        note("drawn:\n  this\x1b[2J")

    assert CliRunner().invoke(app, ["tell"]).stderr == "drawn:\n  this\\x1b[2J\n"
    done = CliRunner().invoke(app, ["fail"])
    assert done.exit_code == DataError.exit_code
    assert done.stderr == "error: wanted\n  this\\x1b[2J\\x07\n"
