"""A finished run read back from its folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cptlite.backbones import Backbone, check_user_named, load_backbone, load_image_tower
from cptlite.classifiers import BackboneFacts, StoredClassifier, load_classifier
from cptlite.config import RunConfig, resolve_config
from cptlite.datasets.text_files import shown
from cptlite.environment import find_device
from cptlite.errors import DataError, UsageError
from cptlite.methods.class_texts import TEXT_OPTIONS
from cptlite.runs.files import CLASSIFIER, check_files, complete_config, kept_class_texts, read_json, read_results
from cptlite.text.encoder import TEXT_MEMORY, TextEncoder

__all__ = ["FinishedRun", "Towers", "check_backbone", "read_run"]


@dataclass(kw_only=True)
class Towers:
    """The backbone of a classifier, loaded when it is first asked for; its text tower where prompts are encoded alone.

    Attributes
    ----------
    source : Path or str
        What names the backbone, for messages.
    device : torch.device or str
    given : str, optional
        The backbone as the user names it: what a file names is not opened on its word alone.
    precision : str, optional
        Of the towers; by default as they were when the classifier was learned.
    text_path : str
    text_memory : float
        As of `TextEncoder`.
    linear_backend : str
        Of the towers, on a CPU.
    """

    source: Path | str
    device: torch.device | str = "cpu"
    given: str | None = None
    precision: str | None = None
    text_path: str = "fused"
    text_memory: float = TEXT_MEMORY
    linear_backend: str = "auto"
    _whole: Backbone | None = field(default=None, init=False, repr=False)
    _images: Backbone | None = field(default=None, init=False, repr=False)

    @classmethod
    def of(cls, config: RunConfig, source: Path | str, **settings: Any) -> Towers:
        """Towers that encode as a run did."""
        settings |= {name: getattr(config, name) for name in ("text_path", "text_memory", "linear_backend")}
        return cls(source=source, **settings)

    def text(self, facts: BackboneFacts) -> TextEncoder:
        """Text encoder of the backbone that a classifier was learned with.

        Raises
        ------
        UsageError
            The backbone's name is a path that was not given.
        DataError
            Its weights are not there, or it is not the one that there was.
        """
        self._whole = self._whole or self._load(load_backbone, facts)
        return TextEncoder(self._whole.text_tower, self._whole.tokenizer, self.text_path, memory=self.text_memory)

    def images(self, facts: BackboneFacts) -> Backbone:
        """Backbone for images; without a text tower, unless prompts were encoded before. Errors are those of `text`."""
        self._images = self._whole or self._images or self._load(load_image_tower, facts)
        return self._images

    def _load(self, load: Callable[..., Backbone], facts: BackboneFacts) -> Backbone:
        if self.given is None:
            check_user_named(facts.name, self.given, self.source)
        linear = self.linear_backend if torch.device(self.device).type == "cpu" else "auto"
        how = {"precision": self.precision or facts.precision, "linear_backend": linear}
        backbone = load(self.given or facts.name, device=str(self.device), **how)
        check_backbone(backbone, facts)
        return backbone


def check_backbone(backbone: Backbone, facts: BackboneFacts) -> None:
    """Refuse a backbone that is not the one a classifier was learned with: in weights, or in what it makes of images.

    Raises
    ------
    DataError
        It says which of the two.
    """
    if backbone.weights_sha256 != facts.weights_sha256:
        raise DataError(
            f"wanted the weights that were {facts.name!r} when this classifier was trained (sha256 "
            f"{facts.weights_sha256[:12]}...), got others ({backbone.weights_sha256[:12]}...): put those back"
        )
    then, spec = facts.preprocess, backbone.preprocess_spec
    for name in sorted({*then, *spec}):
        if (value := then.get(name)) != (now := spec.get(name)):
            raise DataError(
                f"wanted images prepared as for this classifier when it was trained ({name} {shown(value)}), got "
                f"{name} {shown(now)} of backbone {backbone.name!r}: use the version of cptlite that trained it, or "
                f"train it anew"
            )


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """What a run's folder holds.

    Attributes
    ----------
    folder : Path
    config : RunConfig
    results : dict
        What ``results.json`` holds.
    stored : StoredClassifier
        The classifier, with its tasks and the facts of its backbone.
    towers : Towers
        Of that backbone.
    """

    folder: Path
    config: RunConfig
    results: dict[str, Any]
    stored: StoredClassifier
    towers: Towers

    @property
    def trained_on(self) -> dict[str, Any]:
        """Fingerprints of the caches that it was trained on, support sets too, by dataset."""
        return {**self.results.get("caches", {}), **self.results.get("support", {})}


def read_run(
    folder: Path, *, device: torch.device | str = "cpu", backbone: str | None = None, precision: str | None = None
) -> FinishedRun:
    """Read a finished run; its backbone is loaded only if its classifier encodes prompts when it scores.

    Parameters
    ----------
    folder : Path
    device : torch.device or str
    backbone : str, optional
        The checkpoint's path, of a backbone that is one: what a file names is not opened on its word alone.
    precision : str, optional
        Of the backbone, where it is loaded; by default that of the run.

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
        given = complete_config(read_json(folder / "config.json", "config")["config"])
        for option in TEXT_OPTIONS:
            if digest := given.get(option):
                given[option] = kept_class_texts(folder, option, digest)
        config = resolve_config(given)
    except (AttributeError, KeyError, TypeError, UsageError) as error:
        reason = f"none for {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"wanted the configuration of a run in {folder / 'config.json'}, got one that cannot be read ({reason}): "
            f"train it anew"
        ) from None
    results = read_results(folder)
    towers = Towers.of(config, folder, device=device, given=backbone, precision=precision)
    stored = load_classifier(folder / CLASSIFIER, device=device, text=towers.text)
    check_files(folder, results)  # last: each reader says more of its own file
    return FinishedRun(folder=folder, config=config, results=results, stored=stored, towers=towers)
