"""Results in, one file out that a browser shows without anything else.

Its policy (Content Security Policy, https://www.w3.org/TR/CSP3/) forbids every request, every script but the three
that are written here, by their digest, and code made of text; so a name that were not escaped would still run nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import Template

import cptlite
from cptlite.files import write_alone
from cptlite.reporting.page.charts import SYMBOLS
from cptlite.reporting.page.group import Charts, Group
from cptlite.reporting.page.libraries import vega_bundle
from cptlite.reporting.page.markup import escape, script_json
from cptlite.reporting.page.provenance import cache_records, environment_records, run_records
from cptlite.reporting.page.sections import group_sections
from cptlite.reporting.page.sources import Sources, find_sources
from cptlite.reporting.results import Result, method_label
from cptlite.reporting.summaries import group_results

__all__ = ["write_page"]

HERE = Path(__file__).parent


def write_page(results: Sequence[Result], file: Path, *, title: str = "Results") -> Path:
    """Write the results of runs as one HTML page.

    Parameters
    ----------
    results : sequence of mapping
        As of `load_results`, of any suites and backbones.
    file : Path
        To write, or to replace; its folder is made. Folders of runs are named relative to it.
    title : str

    Returns
    -------
    Path
        The same path. The same results give the same bytes.

    Raises
    ------
    UsageError
        altair or vl-convert-python is not installed, or there is something at the path that is no file.
    DataError
        A run's ``config.json`` or ``predictions.csv`` is damaged, or two runs are of one configuration, shots and seed.
    CptliteError
        The disk is full.
    """
    bundle = vega_bundle()
    sources = find_sources(results, file)
    groups = [Group.of(number, *each) for number, each in enumerate(group_results(results).items(), start=1)]
    charts = Charts()
    body = "\n".join(_body(title, results, groups, sources, charts))
    style, script = (f"\n{(HERE / name).read_text(encoding='utf-8')}" for name in ("page.css", "page.js"))
    page = Template((HERE / "page.html").read_text(encoding="utf-8")).substitute(
        policy=_policy(style, bundle, script),
        title=escape(title),
        style=style,
        body=body,
        charts=script_json({"specs": charts.specs, "charts": charts.charts, "symbols": SYMBOLS}),
        bundle=bundle,
        script=script,
    )
    write_alone(file, page.encode())
    return file


def _policy(style: str, *scripts: str) -> str:
    digests = " ".join(map(_digest, scripts))
    return f"default-src 'none'; script-src {digests}; style-src {_digest(style)}; base-uri 'none'; form-action 'none'"


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _body(
    title: str, results: Sequence[Result], groups: Sequence[Group], sources: Sources, charts: Charts
) -> Iterator[str]:
    yield f"<header><h1>{escape(title)}</h1>"
    yield f"<p>{escape(_about(results, sources))}</p>"
    if len(groups) > 1:
        items = (f'<li><a href="#g{each.number}">{escape(each.title)}</a></li>' for each in groups)
        yield f"<nav><ul>{''.join(items)}</ul></nav>"
    yield "</header>\n<main>"
    for group in groups:
        yield f'<section aria-labelledby="g{group.number}">'
        yield from group_sections(group, charts)
        yield from run_records(group, sources)
        yield "</section>"
    yield from environment_records(sources)
    yield from cache_records(sources)
    yield "</main>"
    yield f'<footer class="quiet">Written by cptlite {escape(cptlite.__version__)}.</footer>'


def _about(results: Sequence[Result], sources: Sources) -> str:
    """Say what the page is of: how many runs, of what, made by which versions."""
    methods, backbones = ({*map(method_label, results)}, {str(result.get("backbone") or "") for result in results})
    versions = {
        f"cptlite {table.get('cptlite', 'of unknown version')}"
        + (f" at {commit}" if (commit := table.get("commit")) else "")
        for table in sources.environments.tables.values()
    }
    words = [_count(len(results), "run"), f"of {_count(len(methods), 'method')}"]
    if names := sorted(backbones - {""}):
        words.append(f"on backbone{'s' if len(names) > 1 else ''} {', '.join(names)}")
    return " ".join(words) + (f", made by {', '.join(sorted(versions))}." if versions else ".")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"
