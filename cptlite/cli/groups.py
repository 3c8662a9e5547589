"""How a command ends: the message and the exit code of each kind of error."""

from __future__ import annotations

import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from cptlite.datasets.text_files import shown, shown_lines
from cptlite.errors import CptliteError

__all__ = ["CommandGroup"]

INTERRUPTED = 130  # 128 + SIGINT, as shells count


class CommandGroup(TyperGroup):
    """Commands whose errors for the user end in one message; any other error is a bug and shows."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command, turning errors into a message on stderr and an exit code."""
        try:
            return super().invoke(ctx)
        except CptliteError as error:
            _explain(str(error), ctx.params["debug"])
            raise typer.Exit(error.exit_code) from None
        except BrokenPipeError:
            raise
        except OSError as error:  # a full disk, a folder that may not be written
            _explain(_describe(error), ctx.params["debug"])
            raise typer.Exit(CptliteError.exit_code) from None
        except KeyboardInterrupt:
            typer.echo("\ninterrupted: the same command goes on where this one stopped", err=True)
            raise typer.Exit(INTERRUPTED) from None


def _explain(message: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    typer.echo(f"error: {shown_lines(message)}", err=True)


def _describe(error: OSError) -> str:
    """Repeat what the system says, and about which file."""
    reason = shown(error.strerror or str(error) or type(error).__name__)
    place = f": {shown(error.filename)}" if error.filename else ""
    return f"{reason}{place} (cptlite --debug COMMAND shows where)"
