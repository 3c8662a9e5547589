"""``cptlite doctor``: what works on this machine, and what to mend."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cptlite.cli.console import note, print_results
from cptlite.cli.options import CACHE_DIR, ROOT, WHERE, CacheDirOption, JsonOption, RootOption
from cptlite.datasets.text_files import shown
from cptlite.process import loading

if TYPE_CHECKING:
    from cptlite.doctor import Finding

__all__ = ["doctor", "finding_row", "print_advice"]

WIDTH, STATE_WIDTH, NAME_WIDTH = 80, 9, 21  # columns


def doctor(
    root: RootOption = ROOT,
    cache_dir: CacheDirOption = CACHE_DIR,
    out: Annotated[Path, typer.Option("--out", help="Folder of the runs.", rich_help_panel=WHERE)] = Path("runs"),
    json: JsonOption = False,
) -> None:
    """Say what works on this machine, and what to mend.

    Packages, device, folders, weights, datasets and caches are looked at; nothing stays that is written.
    The exit code is 1 if a command would fail.
    """
    note("cptlite doctor: importing every package, which takes seconds")
    findings: list[Finding] = []
    with loading():
        from cptlite.doctor import FAILED, OK, examine

        for finding in examine(root, cache_dir, out):
            findings.append(finding)
            if not json:
                print(finding_row(finding), flush=True)
    failed = [each for each in findings if each.state == FAILED]
    if json:
        print_results([asdict(each) for each in findings])
    else:
        wrong = [each for each in findings if each.state != OK]
        print_advice("What to do", failed + [each for each in wrong if each.state != FAILED])
        print_advice("What could be had besides", [each for each in findings if each.state == OK])
        print(f"\n{len(failed)} of {len(findings)} checks failed, {len(wrong) - len(failed)} with a warning")
    if failed:
        raise typer.Exit(1)


def finding_row(finding: Finding) -> str:
    """State, name and what was found, in columns."""
    head = f"{finding.state:<{STATE_WIDTH}}{shown(finding.name):<{NAME_WIDTH}} "
    indent = " " * (STATE_WIDTH + NAME_WIDTH + 1)
    if len(head) > len(indent):  # a long name has a line of its own
        return f"{_folded(head.rstrip(), ' ' * STATE_WIDTH)}\n{_folded(indent + shown(finding.found), indent)}"
    return _folded(head + shown(finding.found), indent)


def print_advice(title: str, findings: Sequence[Finding]) -> None:
    """Print what to do about each finding; one advice for several once."""
    names: dict[str, list[str]] = {}
    for each in findings:
        if each.advice:
            names.setdefault(each.advice, []).append(each.name)
    if names:
        print(f"\n{title}")
    for advice, of in names.items():
        print(_folded(f"  {shown(', '.join(of))}: {shown(advice)}", " " * 4))


def _folded(text: str, indent: str) -> str:
    return textwrap.fill(
        text, WIDTH, subsequent_indent=indent, break_on_hyphens=False, drop_whitespace=True, replace_whitespace=False
    )
