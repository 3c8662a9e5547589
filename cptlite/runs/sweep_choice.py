"""Which values of options to take, of those that a sweep ran through: chosen on validation rows, never on test rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cptlite.config import RunConfig
from cptlite.environment import find_device
from cptlite.metrics import mean_and_std
from cptlite.runs.folders import run_folder
from cptlite.runs.load import read_run
from cptlite.runs.reevaluate import evaluate_run
from cptlite.runs.sweep import opened_caches

__all__ = ["Candidate", "choose_options", "validation_score"]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One configuration at one number of shots, over its seeds.

    Attributes
    ----------
    config : RunConfig
        Of its first seed.
    validation, test : float
        Mean suite scores in [0, 1]; of base to new classes, that of the base classes' validation rows.
    seeds : int
        How many runs are finished.
    chosen : bool
        Whether its validation score is the highest of those of the same data, method and shots, the first of equal
        ones; one that lacks a run is not chosen.
    """

    config: RunConfig
    validation: float
    test: float
    seeds: int
    chosen: bool = False


def choose_options(
    outcomes: Sequence[tuple[RunConfig, dict[str, Any] | None]], score: Callable[[RunConfig], float]
) -> list[Candidate]:
    """Choose among the configurations of each method, on the same data and shots.

    Parameters
    ----------
    outcomes : sequence of (RunConfig, dict or None)
        The runs of a sweep, and what each ``results.json`` holds; None for one that came to nothing.
    score : callable
        Gives the score of a run on validation rows, `validation_score`. Test scores are only passed on.

    Returns
    -------
    list of Candidate
        The whole grid, where there is a choice: side by side those that one is chosen of.
    """
    grid: dict[tuple[Any, ...], dict[RunConfig, list[tuple[RunConfig, dict[str, Any] | None]]]] = {}
    for config, results in outcomes:
        same = (config.suite, config.datasets, config.method, config.shots)
        grid.setdefault(same, {}).setdefault(replace(config, seed=0), []).append((config, results))
    candidates: list[Candidate] = []
    for by_config in grid.values():
        if len(by_config) > 1:
            candidates += _choose_one(list(by_config.values()), score)
    return candidates


def validation_score(config: RunConfig, out: Path, cache_dir: Path) -> float:
    """Score a finished run on all cached validation rows of what it learned from, in [0, 1]; kept in its ``eval``.

    Raises
    ------
    DataError
        There are none of a task.
    """
    device = find_device(config.device)
    run = read_run(run_folder(out, config), device=device, backbone=config.backbone)
    with opened_caches(config, cache_dir) as caches:
        found = evaluate_run(run, caches, device, "val").results
    return float(found["base"] if "harmonic" in found else found["suite_score"])


def _choose_one(
    rivals: Sequence[Sequence[tuple[RunConfig, dict[str, Any] | None]]], score: Callable[[RunConfig], float]
) -> list[Candidate]:
    most = max(map(len, rivals))
    candidates = []
    for runs in rivals:
        done = [(config, results) for config, results in runs if results is not None]
        if not done:
            continue
        validation = mean_and_std([score(config) for config, _ in done])[0]
        test = mean_and_std([results["suite_score"] for _, results in done])[0]
        candidates.append(Candidate(config=done[0][0], validation=validation, test=test, seeds=len(done)))
    whole = [each for each in candidates if each.seeds == most]
    best = max(whole, key=lambda each: each.validation, default=None)
    return [replace(each, chosen=each is best) for each in candidates]
