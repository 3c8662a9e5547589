"""Results of runs read from their folders, and what a single one says.

A result is the flat dictionary of a run's ``results.json``, with the ``folder`` it was read from; accuracies are in
[0, 1].
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cptlite.datasets.text_files import shown
from cptlite.errors import DataError
from cptlite.files import is_whole
from cptlite.reporting.checks import WANTED, Result, find_wrong
from cptlite.reporting.long_form import read_long_form
from cptlite.shots import read_shots
from cptlite.training.recipe import PAPER

__all__ = [
    "Result",
    "held_out_tasks",
    "load_results",
    "method_label",
    "run_parts",
    "run_seconds",
    "run_shots",
    "task_score",
]


def method_label(result: Result) -> str:
    """Name of the method, with its variant where it has one and a recipe that is not the paper's: ``softcpt-nata``."""
    recipe = result.get("recipe", PAPER)
    words = (result["method"], result.get("variant"), None if recipe == PAPER else recipe)
    return "-".join(word for word in words if word)


def run_shots(result: Result) -> int:
    """Training images per class of a run, or `ALL_SHOTS`; 0 for zero-shot, whatever number it was given."""
    return 0 if result["method"] == "zeroshot" else read_shots(result["shots"])


def run_seconds(result: Result) -> float:
    """Seconds of a run, all phases together."""
    seconds = result.get("seconds") or {}
    return float(seconds.get("total", sum(seconds.values())))


def held_out_tasks(result: Result) -> list[str]:
    """Tasks of a run that it was not trained on."""
    return [task for task, scores in result["tasks"].items() if scores.get("held_out")]


def run_parts(result: Result) -> dict[str, float]:
    """Scores that a run is known by, in [0, 1]: ``score``, or ``base``, ``new`` and ``H``, or ``unseen`` and ``seen``.

    The suite score is among them: as ``H``, the harmonic mean of base and new, and as ``unseen``.
    """
    if "harmonic" in result:
        return {"base": result["base"], "new": result["new"], "H": result["suite_score"]}
    if held_out_tasks(result):
        seen = result.get("seen_score")
        return {"unseen": result["suite_score"], **({} if seen is None else {"seen": seen})}
    return {"score": result["suite_score"]}


def task_score(scores: Mapping[str, Any]) -> float:
    """Score of a task that counts: where it has new classes, the harmonic mean."""
    return float(scores["harmonic"] if "harmonic" in scores else scores[scores["metric"]])


def load_results(paths: Iterable[Path]) -> list[Result]:
    """Read the results of every finished run in some folders, or of a table that was kept without them.

    Parameters
    ----------
    paths : iterable of Path
        Folders to look in at any depth, ``results.json`` files, or CSV files of `long_form`.

    Returns
    -------
    list of mapping
        In order of path, each file once. The configuration of a run that did not write it into its results is taken
        from ``config.json`` beside them; where there is none, the result has no ``config``.

    Raises
    ------
    DataError
        There are none, or a file is not one of results.
    """
    paths = list(paths)
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("results.json")))]
    if not files:
        raise DataError(
            f"no results.json of a finished run lies in {', '.join(map(shown, paths))}. Make one with: cptlite train"
        )
    once = {file.resolve(): file for file in files}.values()
    return [
        result
        for file in once
        for result in (read_long_form(file) if file.suffix.lower() == ".csv" else [_read_result(file)])
    ]


def _read_result(file: Path) -> Result:
    result = _read_table(file)
    if not is_whole(result):
        raise DataError(f"{shown(file)} is damaged: its digest is not that of its content. Train that run again.")
    missing = [key for key in WANTED if key not in result]
    if missing:
        raise DataError(f"{shown(file)} holds no results of a run: it lacks {', '.join(missing)}.")
    beside = file.with_name("config.json")
    if not result.get("config") and beside.is_file():
        earlier = _read_table(beside)
        if not isinstance(earlier.get("config"), dict):
            raise DataError(f"{shown(beside)} holds no configuration of a run: it lacks config. Train that run again.")
        result |= {key: earlier[key] for key in ("config", "caches") if key in earlier}
    wrong = find_wrong(result)
    if wrong:
        raise DataError(f"{shown(file)} holds no results of a run: wanted {wrong}. Train that run again.")
    return {**result, "folder": str(file.parent)}


def _read_table(file: Path) -> dict[str, Any]:
    """Read a JSON file that holds a table."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{shown(file)} cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise DataError(f"{shown(file)} is not JSON ({reason}). Train that run again.") from None
    if not isinstance(content, dict):
        raise DataError(f"{shown(file)} holds no results of a run: it lacks {', '.join(WANTED)}.")
    return content
