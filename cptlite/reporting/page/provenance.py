"""Where each number comes from: runs by line, their configuration, machines, and cached features."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cptlite.reporting.page.group import Group, behind
from cptlite.reporting.page.markup import Cell, escape, folded, table_markup
from cptlite.reporting.page.sources import Sources
from cptlite.reporting.results import Result, held_out_tasks, run_parts, run_seconds, task_score
from cptlite.reporting.summaries import Line
from cptlite.reporting.tables import duration
from cptlite.shots import say_shots

__all__ = ["cache_records", "environment_records", "run_records"]

PARTS = {"score": "suite score"}
PLACES = ("folder", "made with", "features")
SHORT = 24  # characters of a fact that has room beside others


def run_records(group: Group, sources: Sources) -> Iterator[str]:
    """Draw the runs of a group, line by line."""
    yield "<h3>Runs</h3>"
    folder = f"<code>{escape(sources.root)}</code>"
    grey = " Grey: tasks that a run learned from, beside those it held out." * any(map(held_out_tasks, group.results))
    yield f'<p class="quiet">Where each number (%) comes from. Folders lie in {folder}, seen from this page.{grey}</p>'
    for place, line in enumerate(group.lines):
        runs = [run for by_seed in line.runs.values() for result in by_seed.values() for run in behind(result)]
        differs = f'<span class="quiet">{escape(line.differs)}</span>' if line.differs else ""
        count = f'<span class="quiet">{len(runs)} run{"s" if len(runs) != 1 else ""}</span>'
        words = f"{group.mark(place)}{escape(line.method)}{differs}{count}"
        inner = f"{_run_table(group, place, line, runs, sources)}\n<h4>Configuration</h4>\n{_configuration(runs)}"
        yield folded(words, inner, name=group.name(place))


def _run_table(group: Group, place: int, line: Line, runs: Sequence[Result], sources: Sources) -> str:
    parts = list(dict.fromkeys(part for run in runs for part in run_parts(run)))
    tasks = list(dict.fromkeys(task for run in runs for task in run["tasks"]))
    halved = " (H)" * ("H" in parts)
    columns = (
        "shots",
        "seed",
        *(PARTS.get(part, part) for part in parts),
        *PLACES,
        *(f"{task}{halved}" for task in tasks),
        *("learned", "time", "peak MiB"),
    )
    bodies = []
    for shots, by_seed in line.runs.items():
        results = (run for _, result in sorted(by_seed.items()) for run in behind(result))
        rows = [_run_row(run, shots, parts, tasks, sources) for run in results]
        bodies.append((group.name(place, shots), rows))
    return table_markup(columns, bodies, words=(0, *map(columns.index, PLACES)))


def _run_row(run: Result, shots: int, parts: Sequence[str], tasks: Sequence[str], sources: Sources) -> list[Cell]:
    scores, source = run_parts(run), sources.of(run)
    held_out = set(held_out_tasks(run))
    of_tasks = []
    for task in tasks:
        counts = not held_out or task in held_out
        word = _percent(task_score(run["tasks"][task])) if task in run["tasks"] else ""
        of_tasks.append(Cell(text=word, kind="" if counts else "unscored"))
    peak = run.get("peak_mib")
    return [
        Cell(text=str(say_shots(shots) or "none")),
        Cell(text=str(run["seed"])),
        *(Cell(text=_percent(scores[part]) if part in scores else "") for part in parts),
        Cell(text=source.folder, link=source.link),
        *(Cell(text=name, link=f"#{name}" if name else "") for name in (source.environment, source.caches)),
        *of_tasks,
        Cell(text=f"{int(run.get('parameters') or 0):,}"),
        Cell(text=duration(run_seconds(run))),
        Cell(text=f"{peak:,.0f}" if isinstance(peak, int | float) else ""),
    ]


def _configuration(runs: Sequence[Result]) -> str:
    """Each option with its value, or with all that runs of the line have."""
    options: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, value in (run.get("config") or {}).items():
            options.setdefault(name, {})[_word(value)] = None
    if not options:
        return '<p class="quiet">Not recorded.</p>'
    return _facts({name: ", ".join(values) for name, values in options.items()})


def environment_records(sources: Sources) -> Iterator[str]:
    """Versions and hardware, each once."""
    if sources.environments.tables:
        yield "<h2>Made with</h2>"
    for name, table in sources.environments.tables.items():
        facts = _facts({key: _word(value) for key, value in table.items()})
        yield f'<div class="record" id="{name}"><h4>{name}</h4>{facts}</div>'


def cache_records(sources: Sources) -> Iterator[str]:
    """Fingerprints of cached features, each set once: what its datasets share, and a row each with the rest."""
    if sources.caches.tables:
        yield "<h2>Features</h2>"
        yield '<p class="quiet">Fingerprints of the caches that runs read.</p>'
    for name, table in sources.caches.tables.items():
        keys = list(dict.fromkeys(key for fingerprint in table.values() for key in fingerprint))
        shared = {key: _word(value) for key, value in _shared(table, keys).items()}
        own = [key for key in keys if key not in shared and key != "dataset"]
        rows = [
            [Cell(text=dataset), *(Cell(text=_word(fingerprint.get(key, ""))) for key in own)]
            for dataset, fingerprint in table.items()
        ]
        columns = ("dataset", *own)
        drawn = table_markup(columns, [("", rows)], words=range(len(columns)))
        yield f'<div class="record" id="{name}"><h4>{name}</h4>{drawn}{_facts(shared)}</div>'


def _shared(table: Mapping[str, Mapping[str, Any]], keys: Sequence[str]) -> dict[str, Any]:
    first, *others = table.values()
    if not others:
        return {}
    return {key: first[key] for key in keys if key in first and all(each.get(key) == first[key] for each in others)}


def _facts(table: Mapping[str, str]) -> str:
    rows = []
    for name, value in sorted(table.items(), key=lambda each: len(each[1]) > SHORT):
        kind = ' class="long"' * (len(value) > SHORT)
        rows.append(f"<div{kind}><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>")
    return f"<dl>{''.join(rows)}</dl>"


def _word(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, list):
        return " + ".join(map(_word, value)) or "none"
    return value if value and isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
