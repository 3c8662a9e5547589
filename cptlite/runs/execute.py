"""Runs from cache files to finished run directories.

Axes: R runs trained together, K classes of all tasks, D joint dimension.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from cptlite.backbones.clip import Backbone
from cptlite.cache import FeatureCache, open_caches
from cptlite.config import OWN_ROWS, TrainConfig, differ_in_rows_alone
from cptlite.environment import describe_environment, peak_memory_mib
from cptlite.errors import CptliteError, DataError, UsageError
from cptlite.methods.base import FewShotRows, Problem
from cptlite.methods.table import MethodEntry, find_method
from cptlite.metrics import suite_score
from cptlite.runs.evaluate import evaluate
from cptlite.runs.files import finished_results, remove_checkpoints, run_folder, write_classifier, write_json
from cptlite.runs.learn import Learned, OnEpoch, PromptRun, learn_prompts
from cptlite.runs.rows import draw_few_shots, no_rows
from cptlite.text.encoder import TextEncoder

__all__ = ["execute_run", "execute_together", "learn"]


def execute_run(
    config: TrainConfig,
    backbone: Backbone,
    *,
    cache_dir: Path,
    out: Path,
    force: bool = False,
    on_epoch: OnEpoch | None = None,
) -> dict[str, Any]:
    """Train, evaluate and file one run: `execute_together` of one configuration, which see.

    Returns
    -------
    dict
        What ``results.json`` holds.
    """
    options: dict[str, Any] = {"cache_dir": cache_dir, "out": out, "force": force, "on_epoch": on_epoch}
    return execute_together([config], backbone, **options)[0]


def execute_together(
    configs: Sequence[TrainConfig],
    backbone: Backbone,
    *,
    cache_dir: Path,
    out: Path,
    force: bool = False,
    on_epoch: OnEpoch | None = None,
) -> list[dict[str, Any]]:
    """Train, evaluate and file runs that differ in shots and seed alone, as an axis of one forward.

    Parameters
    ----------
    configs : sequence of TrainConfig
        Those of a method that cannot share a forward are trained one after the other.
    backbone : Backbone
        The one named in the configurations.
    cache_dir, out : Path
        Where cache files lie, and where runs go.
    force : bool
        Replace what is in the runs' folders.
    on_epoch : callable, optional
        Told the number of epochs that all runs together have done (of tasks learned separately, their mean) and the
        last epoch's mean loss.

    Returns
    -------
    list of dict
        What each ``results.json`` holds: names, per-task metrics, ``suite_score`` in [0, 1], ``parameters``,
        ``choices`` (numbers chosen on validation rows, by task), ``seconds`` by phase (of a training together, the
        run's share) and ``peak_mib``.

    Raises
    ------
    UsageError
        Unknown method, more shots than there are, configurations that differ in more, or a folder holds another
        configuration.
    DataError
        A cache is missing, or of other weights than the backbone's.
    """
    if not differ_in_rows_alone(configs):
        raise UsageError(f"runs trained together may differ in {' and '.join(OWN_ROWS)} alone: train them one by one")
    with ExitStack() as stack:
        caches = [stack.enter_context(cache) for cache in open_caches(cache_dir, backbone, configs[0].datasets)]
        folders = [run_folder(out, config) for config in configs]
        runs = [_Run(config, backbone, caches, folder) for config, folder in zip(configs, folders, strict=True)]
        if force:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
        done = [finished_results(folder, run.identity) for run, folder in zip(runs, folders, strict=True)]
        pending = [run for run, results in zip(runs, done, strict=True) if results is None]
        if pending:
            _learn(pending, on_epoch)
        return [results or run.finish() for run, results in zip(runs, done, strict=True)]


def learn(
    config: TrainConfig, backbone: Backbone, caches: Sequence[FeatureCache], *, on_epoch: OnEpoch | None = None
) -> Learned:
    """Train one run in memory, as `execute_run` does, without a folder and without a look at test rows.

    Returns
    -------
    Learned
    """
    run = _Run(config, backbone, caches)
    _learn([run], on_epoch)
    assert run.learned is not None
    return run.learned


class _Run:
    """One run: its rows, and its files where it has a folder."""

    def __init__(
        self, config: TrainConfig, backbone: Backbone, caches: Sequence[FeatureCache], folder: Path | None = None
    ) -> None:
        self.config, self.backbone, self.caches, self.folder = config, backbone, caches, folder
        self.identity = {
            "config": config.to_json(),
            "caches": {cache.path.stem: cache.fingerprint.of_pooled() for cache in caches},
        }
        self.seconds: dict[str, float] = {}
        self.learned: Learned | None = None

    @property
    def entry(self) -> tuple[MethodEntry, str]:
        """The method's entry and its variant."""
        return find_method(self.config.method, self.config.variant)

    def new_problem(self) -> Problem:
        """All tasks of the caches, with the text encoder as configured."""
        config, backbone = self.config, self.backbone
        text = TextEncoder(backbone.text_tower, backbone.tokenizer, config.text_path, memory=config.text_memory)
        tasks = tuple(task for cache in self.caches for task in cache.tasks)
        return Problem(tasks=tasks, text=text, templates=config.templates)

    def begin(self) -> tuple[FewShotRows, FewShotRows]:
        """Draw training and validation rows and write ``config.json``; what is refused leaves no folder behind."""
        started = time.monotonic()
        rows = self._draw_rows()
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / "config.json", {**self.identity, "environment": describe_environment(self.device)})
        self.seconds["load"] = round(time.monotonic() - started, 3)
        return rows

    def end(self, learned: Learned) -> None:
        """Keep what training left."""
        self.learned = learned
        self.seconds["train"] = round(learned.seconds, 3)

    def finish(self) -> dict[str, Any]:
        """Evaluate and write the classifier and, last, the results."""
        assert self.learned is not None and self.folder is not None
        config, learned = self.config, self.learned
        started = time.monotonic()
        tasks = evaluate(learned.classifier, self.caches, self.device, local=self.entry[0].needs_local)
        self.seconds["evaluate"] = round(time.monotonic() - started, 3)
        write_classifier(self.folder, self.new_problem(), learned.classifier)
        results = {
            **{key: getattr(config, key) for key in ("method", "recipe", "suite", "backbone", "shots", "seed")},
            "variant": self.entry[1],
            "tasks": tasks,
            "suite_score": suite_score([scores[scores["metric"]] for scores in tasks.values()]),
            "parameters": learned.parameters,
            "choices": learned.choices,
            "seconds": self.seconds,
            "peak_mib": round(peak_memory_mib(self.device), 1),
        }
        write_json(self.folder / "results.json", results)
        remove_checkpoints(self.folder)
        return results

    @property
    def device(self) -> torch.device:
        """Where everything is computed."""
        return self.backbone.device

    def _draw_rows(self) -> tuple[FewShotRows, FewShotRows]:
        """Training and validation rows, where the method looks at any; test rows must be there in any case."""
        for cache in self.caches:
            if cache.num_rows("test") == 0:
                raise DataError(f"{cache.path} has no test rows: leave it out with --dataset, or cache it anew")
        if not self.entry[0].needs_rows:
            nothing = no_rows(self.backbone.embed_dim, self.device)
            return nothing, nothing
        shots, seed, local = self.config.shots, self.config.seed, self.entry[0].needs_local
        return draw_few_shots(self.caches, shots=shots, seed=seed, device=self.device, local=local)


def _learn(runs: Sequence[_Run], on_epoch: OnEpoch | None) -> None:
    """Train every run: prompts together, where the method can share a forward; fits one after the other."""
    entry = runs[0].entry[0]
    problem = runs[0].new_problem()
    if entry.prompts is None:
        for run in runs:
            _fit(run, problem)
        return
    try:
        started = [PromptRun(config=run.config, rows=run.begin()[0], folder=run.folder) for run in runs]
        for run, learned in zip(runs, learn_prompts(problem, started, on_epoch), strict=True):
            run.end(learned)
    except RuntimeError as error:  # PyTorch has a class of its own for the GPU's memory only
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise CptliteError(
            f"ran out of memory on {runs[0].device} with --text-memory {runs[0].config.text_memory:g} (GiB) for "
            f"{len(problem.class_names)} classes and {len(runs)} run(s) at a time: give a smaller --text-memory"
        ) from None


def _fit(run: _Run, problem: Problem) -> None:
    train, val = run.begin()
    started = time.monotonic()
    torch.manual_seed(run.config.seed)
    probe_factory = run.entry[0].probe
    assert probe_factory is not None
    probe = probe_factory()
    classifier = probe.fit(problem, train, val)
    seconds = time.monotonic() - started
    run.end(Learned(classifier=classifier, parameters=probe.num_parameters(), seconds=seconds, choices=probe.choices_))
