"""A finished run read back from its folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cptlite.backbones import check_user_named, load_backbone
from cptlite.classifiers import BackboneFacts, StoredClassifier, load_classifier
from cptlite.config import RunConfig, resolve_config
from cptlite.environment import find_device
from cptlite.errors import DataError, UsageError
from cptlite.runs.files import CLASSIFIER, check_files, read_json, read_results
from cptlite.text.encoder import TextEncoder

__all__ = ["FinishedRun", "read_run", "text_of"]


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """What a run's folder holds.

    Attributes
    ----------
    config : RunConfig
    results : dict
        What ``results.json`` holds.
    stored : StoredClassifier
        The classifier, with its tasks and the facts of its backbone.
    """

    config: RunConfig
    results: dict[str, Any]
    stored: StoredClassifier


def read_run(folder: Path, *, device: torch.device | str = "cpu", backbone: str | None = None) -> FinishedRun:
    """Read a finished run; its backbone is loaded only if its classifier encodes prompts when it scores.

    Parameters
    ----------
    folder : Path
    device : torch.device or str
    backbone : str, optional
        The checkpoint's path, of a backbone that is one: what a file names is not opened on its word alone.

    Raises
    ------
    DataError
        There is no such run, it is not finished, a file of it is damaged, or it has options that this version of
        cptlite does not have.
    UsageError
        Its backbone is a checkpoint's path, and that was not given.
    """
    folder, device = Path(folder), find_device(device)
    missing = [name for name in ("config.json", CLASSIFIER, "results.json") if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"wanted a finished run in {folder}, found no {' and no '.join(missing)}: give the folder that "
            f"cptlite train named as written, or run the same command again, which goes on with it"
        )
    try:
        config = resolve_config(read_json(folder / "config.json", "config")["config"])
    except (KeyError, TypeError, UsageError) as error:
        reason = f"none for {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"wanted the configuration of a run in {folder / 'config.json'}, got one that cannot be read ({reason}): "
            f"train it anew"
        ) from None
    results = read_results(folder)
    stored = load_classifier(
        folder / CLASSIFIER, device=device, text=partial(text_of, config, device, backbone, folder)
    )
    check_files(folder, results)  # last: each reader says more of its own file
    return FinishedRun(config=config, results=results, stored=stored)


def text_of(
    config: RunConfig, device: torch.device | str, given: str | None, source: Path | str, facts: BackboneFacts
) -> TextEncoder:
    """Load the text encoder of a run's backbone again, to encode as the run did: by its name, or as it is given.

    Raises
    ------
    UsageError
        The name is a path that was not given.
    DataError
        Its weights are not there, or others are.
    """
    if given is None:
        check_user_named(facts.name, given, source)
    linear = config.linear_backend if torch.device(device).type == "cpu" else "auto"
    how = {"precision": facts.precision, "linear_backend": linear}
    backbone = load_backbone(given or facts.name, device=str(device), **how)
    if backbone.weights_sha256 != facts.weights_sha256:
        raise DataError(
            f"wanted the weights that were {facts.name!r} when this classifier was trained (sha256 "
            f"{facts.weights_sha256[:12]}...), got others ({backbone.weights_sha256[:12]}...): put those back"
        )
    return TextEncoder(backbone.text_tower, backbone.tokenizer, config.text_path, memory=config.text_memory)
