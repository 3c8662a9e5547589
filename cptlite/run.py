"""One run from cache files to a finished run directory.

``config.json`` is written first and ``results.json`` last, so a directory without results is unfinished and gone on
with; one with results is returned as it is when it was made by the same configuration and refused when not.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from cptlite.backbone import Backbone, backbone_slug
from cptlite.cache import FeatureCache, cache_path, open_cache
from cptlite.config import TrainConfig
from cptlite.environment import describe_environment, peak_memory_mib
from cptlite.errors import DataError, UsageError
from cptlite.evaluation import evaluate
from cptlite.files import replacing
from cptlite.methods.base import Classifier, FewShotRows, Problem, PromptMethod, PromptOptions
from cptlite.methods.table import find_method
from cptlite.metrics import suite_score
from cptlite.rows import draw_few_shots, no_rows
from cptlite.text import TextEncoder
from cptlite.training import Recipe, train_prompts

__all__ = ["execute_run", "finished_results", "run_folder"]

OnEpoch = Callable[[int, float], None]
Choices = TypeVar("Choices", Recipe, PromptOptions)


def run_folder(out: Path, config: TrainConfig) -> Path:
    """Folder of a run: ``OUT/<suite>/<method>/<backbone>/shots16-seed1``."""
    entry, variant = find_method(config.method, config.variant)
    method = config.method if not variant or variant == entry.variants[0] else f"{config.method}-{variant}"
    slug = backbone_slug(config.backbone)
    return out / config.suite / method / slug / f"shots{config.shots}-seed{config.seed}"


def finished_results(folder: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Results in a run's folder, if it is done; None where it is not.

    Parameters
    ----------
    folder : Path
    identity : dict
        ``config`` and ``caches`` as the run would write them.

    Raises
    ------
    UsageError
        The folder holds a run, finished or to be gone on with, of another configuration or other cached features.
    DataError
        A file of that run is damaged.
    """
    stored, results = folder / "config.json", folder / "results.json"
    begun = results.exists() or (folder / "checkpoint.pt").exists()
    if not (begun and stored.exists()):
        return None
    old = _read_json(stored, "config")
    changed = [f"{key} {there!r} there, {asked!r} asked" for key, there, asked in _differences(old, identity)]
    if changed:
        raise UsageError(
            f"{folder} holds a run of another configuration ({'; '.join(changed)}): "
            f"give --force to replace it, or another --out"
        )
    return _read_json(results, "tasks") if results.exists() else None


def _read_json(path: Path, key: str) -> dict[str, Any]:
    """Read a table with some key."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict) or key not in content:
        raise DataError(
            f"wanted what an earlier run wrote at {path}, got a damaged file: "
            f"give --force to train anew, or another --out"
        )
    return content


def _differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(name, old value, new value) of what differs, looking into nested tables."""
    for key, value in new.items():
        there = old.get(key)
        if isinstance(value, dict) and isinstance(there, dict):
            yield from ((f"{key}.{name}", was, now) for name, was, now in _differences(there, value))
        elif there != value:
            yield key, there, value


def execute_run(
    config: TrainConfig,
    backbone: Backbone,
    *,
    cache_dir: Path,
    out: Path,
    force: bool = False,
    on_epoch: OnEpoch | None = None,
) -> dict[str, Any]:
    """Train, evaluate and file one run.

    Parameters
    ----------
    config : TrainConfig
    backbone : Backbone
        The one named in the configuration.
    cache_dir, out : Path
        Where cache files lie, and where runs go.
    force : bool
        Replace what is in the run's folder.
    on_epoch : callable, optional
        Told the number of epochs done and the epoch's mean loss.

    Returns
    -------
    dict
        What ``results.json`` holds: names, per-task metrics, ``suite_score`` in [0, 1], ``parameters``, ``choices``
        (numbers chosen on validation rows, by task), ``seconds`` by phase and ``peak_mib``.

    Raises
    ------
    UsageError
        Unknown method, more shots than there are, or the folder holds another configuration.
    DataError
        A cache is missing, or of other weights than the backbone's.
    """
    folder = run_folder(out, config)
    if force:
        shutil.rmtree(folder, ignore_errors=True)
    with ExitStack() as stack:
        caches = [stack.enter_context(_open(cache_dir, name, backbone)) for name in config.datasets]
        identity = {
            "config": config.to_json(),
            "caches": {cache.path.stem: asdict(cache.fingerprint) for cache in caches},
        }
        done = finished_results(folder, identity)
        if done is not None:
            return done
        return _Run(config, backbone, caches, folder).execute(identity, on_epoch)


def _open(cache_dir: Path, dataset: str, backbone: Backbone) -> FeatureCache:
    expected = {"dataset": dataset, "weights_sha256": backbone.weights_sha256}
    return open_cache(cache_path(cache_dir, backbone.slug, dataset), expected)


@dataclass(frozen=True, kw_only=True)
class _Learned:
    """What training left: the classifier, and facts for ``results.json``."""

    classifier: Classifier
    parameters: int
    seconds: float = 0.0  # of training, earlier attempts included
    choices: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass
class _Run:
    config: TrainConfig
    backbone: Backbone
    caches: Sequence[FeatureCache]
    folder: Path

    def execute(self, identity: dict[str, Any], on_epoch: OnEpoch | None) -> dict[str, Any]:
        config, device = self.config, self.backbone.device
        clock = _Clock()
        train, val = self._draw_rows()
        text = TextEncoder(self.backbone.text_tower, self.backbone.tokenizer, config.text_path)
        problem = Problem(tasks=tuple(task for cache in self.caches for task in cache.tasks), text=text)
        clock.mark("load")
        # Written once all is known to fit: what is refused leaves no folder behind.
        self.folder.mkdir(parents=True, exist_ok=True)
        _write_json(self.folder / "config.json", {**identity, "environment": describe_environment(device)})
        learned = self._learn(problem, train, val, on_epoch)
        clock.mark("train", at_least=learned.seconds)
        tasks = evaluate(learned.classifier, self.caches, device)
        clock.mark("evaluate")
        self._write_classifier(problem, learned.classifier)
        results = {
            **{key: getattr(config, key) for key in ("method", "suite", "backbone", "shots", "seed")},
            "variant": find_method(config.method, config.variant)[1],
            "tasks": tasks,
            "suite_score": suite_score([scores[scores["metric"]] for scores in tasks.values()]),
            "parameters": learned.parameters,
            "choices": learned.choices,
            "seconds": clock.seconds,
            "peak_mib": round(peak_memory_mib(device), 1),
        }
        _write_json(self.folder / "results.json", results)
        (self.folder / "checkpoint.pt").unlink(missing_ok=True)
        return results

    def _draw_rows(self) -> tuple[FewShotRows, FewShotRows]:
        """Training and validation rows, where the method looks at any; test rows must be there in any case."""
        for cache in self.caches:
            if cache.num_rows("test") == 0:
                raise DataError(f"{cache.path} has no test rows: leave it out with --dataset, or cache it anew")
        device = self.backbone.device
        if not find_method(self.config.method, self.config.variant)[0].needs_rows:
            nothing = no_rows(self.backbone.embed_dim, device)
            return nothing, nothing
        return draw_few_shots(self.caches, shots=self.config.shots, seed=self.config.seed, device=device)

    def _learn(self, problem: Problem, train: FewShotRows, val: FewShotRows, on_epoch: OnEpoch | None) -> _Learned:
        entry, variant = find_method(self.config.method, self.config.variant)
        torch.manual_seed(self.config.seed)
        if entry.prompts is None:
            assert entry.probe is not None
            probe = entry.probe()
            classifier = probe.fit(problem, train, val)
            return _Learned(classifier=classifier, parameters=probe.num_parameters(), choices=probe.choices_)
        method = entry.prompts(problem, _choices(PromptOptions, self.config), variant)
        seconds = train_prompts(
            method,
            train,
            _choices(Recipe, self.config),
            seed=self.config.seed,
            folder=self.folder,
            on_epoch=on_epoch,
        )
        self._write_prompts(method)
        return _Learned(classifier=method.classifier(), parameters=method.num_parameters(), seconds=seconds)

    def _write_prompts(self, method: PromptMethod) -> None:
        from safetensors.torch import save_file

        learnables = {name: value.detach().cpu().contiguous() for name, value in method.named_parameters()}
        with replacing(self.folder / "prompts.safetensors") as path:
            save_file(learnables, path)

    def _write_classifier(self, problem: Problem, classifier: Classifier) -> None:
        arrays: dict[str, Any] = {
            **classifier.arrays(),
            "names": np.array(problem.class_names),
            "tasks": np.array([task.id for task in problem.tasks for _ in task.class_names]),
        }
        with replacing(self.folder / "classifier.npz") as path, path.open("wb") as file:
            np.savez(file, **arrays)


class _Clock:
    """Seconds since the last mark, by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def mark(self, phase: str, at_least: float = 0.0) -> None:
        now = time.monotonic()
        self.seconds[phase] = round(max(now - self._last, at_least), 3)
        self._last = now


def _choices(kind: type[Choices], config: TrainConfig) -> Choices:
    """Pick the part of a configuration that a room below methods takes."""
    return kind(**{item.name: getattr(config, item.name) for item in fields(kind)})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
