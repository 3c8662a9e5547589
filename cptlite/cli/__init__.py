"""The command ``cptlite``: parse, call, print; no logic.

Rooms that load torch are imported inside the commands, so that help and completion come at once.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from cptlite.cli.bench import bench
from cptlite.cli.cache import cache
from cptlite.cli.caches import caches, verify
from cptlite.cli.datasets import datasets
from cptlite.cli.demo import demo
from cptlite.cli.doctor import doctor
from cptlite.cli.download import download
from cptlite.cli.eval import evaluate
from cptlite.cli.export import export
from cptlite.cli.extend import extend
from cptlite.cli.groups import CommandGroup
from cptlite.cli.import_features import import_features
from cptlite.cli.interpret import interpret
from cptlite.cli.methods import methods
from cptlite.cli.predict import predict
from cptlite.cli.report import report
from cptlite.cli.reproduce import reproduce
from cptlite.cli.sweep import sweep
from cptlite.cli.train import train
from cptlite.cli.train_options import TrainCommand
from cptlite.process import leave

__all__ = ["app", "main", "run"]

app = typer.Typer(
    name="cptlite",
    cls=CommandGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from cptlite import __version__

        typer.echo(f"cptlite {__version__}")
        raise typer.Exit


@app.callback()
def cptlite(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", envvar="CPTLITE_DEBUG", help="Show where an error came from."),
    ] = False,
) -> None:
    """Few-shot prompt tuning of CLIP from cached features.

    Encode the images once with [bold]cache[/], then [bold]train[/] from them in seconds to minutes.
    Start with [bold]cptlite demo[/]: it needs no data and no network.
    """


START = "Start here"
DATA = "Prepare data"
TRAIN = "Train"
USE = "Use what was trained"
RESULTS = "See results"

app.command(rich_help_panel=START)(demo)
app.command(rich_help_panel=START)(doctor)
app.command(rich_help_panel=DATA)(datasets)
app.command(rich_help_panel=DATA)(download)
app.command(rich_help_panel=DATA)(cache)
app.command("import-features", rich_help_panel=DATA)(import_features)
app.command(rich_help_panel=DATA)(caches)
app.command(rich_help_panel=DATA)(verify)
app.command(rich_help_panel=TRAIN)(methods)
app.command(rich_help_panel=TRAIN, cls=TrainCommand)(train)
app.command(rich_help_panel=TRAIN)(sweep)
app.command(rich_help_panel=TRAIN)(reproduce)
app.command(rich_help_panel=USE)(predict)
app.command(rich_help_panel=USE)(extend)
app.command(rich_help_panel=USE)(interpret)
app.command("eval", rich_help_panel=RESULTS)(evaluate)
app.command(rich_help_panel=RESULTS)(report)
app.command(rich_help_panel=RESULTS)(export)
app.command(rich_help_panel=RESULTS)(bench)


def main() -> int:
    """Run the command; return 0 done, 1 failed, 2 wrong usage or 3 data or weights missing."""
    code = 0
    try:
        app(prog_name="cptlite")
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else 1
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def run() -> NoReturn:
    """Run the command as a process of its own."""
    leave(main())
