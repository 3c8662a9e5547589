"""A run as files that need no cptlite: class weights, or a graph from pixels to scores, each with a model card.

Axes: K classes of all tasks in task-major order, D joint dimension.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from safetensors.torch import save

import cptlite
from cptlite.backbones import check_user_named, checkpoint_path, load_backbone
from cptlite.classifiers import (
    BackboneFacts,
    Classifier,
    JoinedClassifier,
    LinearClassifier,
    exp32,
    load_classifier,
)
from cptlite.errors import DataError, UsageError
from cptlite.files import read_file, sha256_of, write_alone
from cptlite.runs.card import model_card
from cptlite.runs.files import CLASSIFIER, CONFIG, read_json
from cptlite.runs.load import FinishedRun, read_run
from cptlite.runs.onnx_model import has_graph, pack_onnx

__all__ = ["FORMATS", "ExportReport", "export_run"]

FORMATS = {"safetensors": ".safetensors", "onnx": ".onnx"}
ENTRY = "cptlite"  # of the metadata; a second one would stand in another order each time
FORMULAS = {
    True: "scale * unit_features @ weights.T + bias, where unit_features are image features divided by their length",
    False: "scale * features @ weights.T + bias",
}
IN_GRAPHS = ("tip", "tip-x", "ape", "two-headed")
WHAT_IT_IS = {
    "tip": "cosines with class weights plus votes of the training rows",
    "ape": "cosines with class weights plus weighted votes of the training rows in some channels",
    "tip-x": "cosines with class weights, votes of the training rows and divergences from theirs",
    "image-conditioned": "a net that makes prompts, and with the text encoder class weights, anew for each image",
    "two-headed": "cosines with class weights plus a linear layer on raw features",
    "transport": "several prompts a class, matched with an image's patch features by optimal transport",
    "two-prototypes": "probabilities by the distances to two prototypes a class, mixed",
    "projected": "cosines with class weights after a learned map, whose outcome is normalised for each image",
    "pre-projected": "cosines with class weights of features that the image tower has before its last layer",
}


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written.

    Attributes
    ----------
    path, card : Path
        The file, and the model card beside it.
    format : str
        One of `FORMATS`.
    classes : int
        K.
    sha256 : str
        Of the file.
    difference : float, optional
        Of an ONNX graph the largest between its scores in ONNX Runtime and the classifier's, as a share of the largest
        score.
    """

    path: Path
    card: Path
    format: str
    classes: int
    sha256: str
    difference: float | None = None


def export_run(
    folder: Path, out: Path, *, format: str = "", backbone: str | None = None, force: bool = False
) -> ExportReport:
    """Write the classifier of a finished run, and a model card beside it, for use without cptlite.

    Parameters
    ----------
    folder : Path
        The run's, none of whose own files is touched.
    out : Path
        The file to be; the card has its name with ``.md`` behind it.
    format : str
        One of `FORMATS`; by default what the suffix of ``out`` says.
    backbone : str, optional
        The checkpoint's path, of a run whose backbone is one; asked for by ONNX alone.
    force : bool
        Replace files that are there and hold something else.

    Returns
    -------
    ExportReport

    Raises
    ------
    UsageError
        An unknown format, another file that is there, or a classifier that no file of this format holds.
    DataError
        There is no such run, or a file of it is damaged; other weights than the run's.
    CptliteError
        A package that ONNX takes is not installed, or its scores are not those of the classifier.
    """
    folder, out = Path(folder), Path(out)
    kind, card = _format_of(out, format), out.with_name(f"{out.name}.md")
    if (folder / CLASSIFIER).is_file():  # what needs a text encoder is refused before that is loaded
        load_classifier(folder / CLASSIFIER, text=partial(_refuse, "image-conditioned", kind))
    run = read_run(folder)
    _check_places(folder, run, (out, card))
    classifier = _fitting(run.stored.classifier, kind)
    facts = _facts(run, classifier)
    if kind == "onnx":
        content, difference = _onnx(run, classifier, facts, folder, backbone)
    else:
        assert isinstance(classifier, LinearClassifier)
        content, difference = _safetensors(classifier, facts), None
    environment = read_json(folder / CONFIG).get("environment", {})
    sha256 = sha256_of(content)
    text = model_card(run, facts, environment, file=out.name, sha256=sha256, difference=difference)
    files = {out: content, card: text.encode()}
    for path in files if not force else ():
        if path.exists() and read_file(path) != files[path]:
            raise UsageError(f"{path} is there already, and another: give --force to replace it, or another --out")
    for path, each in files.items():
        write_alone(path, each)
    return ExportReport(
        path=out,
        card=card,
        format=kind,
        classes=len(run.stored.class_names),
        sha256=sha256,
        difference=difference,
    )


def _format_of(out: Path, format: str) -> str:
    by_suffix = {suffix: name for name, suffix in FORMATS.items()}
    if format and format not in FORMATS:
        raise UsageError(f"unknown format {format!r}: give {' or '.join(FORMATS)}")
    if by_suffix.get(out.suffix) is None or (format and FORMATS[format] != out.suffix):
        wanted = FORMATS[format] if format else " or ".join(by_suffix)
        raise UsageError(f"wanted --out to be a file name that ends in {wanted}, got {str(out)!r}: give one")
    return by_suffix[out.suffix]


def _check_places(folder: Path, run: FinishedRun, paths: tuple[Path, ...]) -> None:
    """Refuse to write over the run's own files, and over folders."""
    own = {(folder / name).resolve() for name in run.results.get("files", {CLASSIFIER: ""})}
    for path in paths:
        if path.resolve() in own:
            raise UsageError(f"{path} is the run's own file, which stays as it is: give another --out")
        if path.is_dir():
            raise UsageError(f"{path} is a folder: give another --out")


def _fitting(classifier: Classifier, format: str) -> Classifier:
    """Return a classifier that a format holds; refuse others."""
    if isinstance(classifier, LinearClassifier) or (has_graph(classifier) and format == "onnx"):
        return classifier
    kind = classifier.parts[0].kind if isinstance(classifier, JoinedClassifier) else classifier.kind
    _refuse(kind, format)


def _refuse(kind: str, format: str, _: BackboneFacts | None = None) -> NoReturn:
    """Say what a classifier is that a format does not hold, and what to use."""
    instead = "use it through cptlite.load_run(RUN), or train coop-ca or kgcoop, whose class weights are fixed"
    if kind in IN_GRAPHS:
        instead = "give --format onnx and a name that ends in .onnx, which holds it whole"
    raise UsageError(
        f"wanted a classifier that is linear in the image feature, got one of kind {kind!r} ({WHAT_IT_IS[kind]}), "
        f"which --format {format} does not hold: {instead}"
    )


def _facts(run: FinishedRun, classifier: Classifier) -> dict[str, Any]:
    """All that scores need to be understood, as plain values."""
    stored, start, tasks = run.stored, 0, []
    for task in stored.tasks:
        stop = start + len(task.class_names)
        words = {name: getattr(task, name) for name in ("id", "name", "template", "metric")}
        tasks.append({**words, "start": start, "stop": stop})
        start = stop
    backbone = {name: value for name, value in asdict(stored.backbone).items() if name != "preprocess"}
    if path := checkpoint_path(stored.backbone.name):  # where it lay here concerns nobody else
        backbone["name"] = stored.backbone.name.removesuffix(path) + Path(path).name
    facts = {
        "format": "cptlite-export 1",
        "cptlite_version": cptlite.__version__,
        "classifier": classifier.kind,
        "class_names": list(stored.class_names),
        "tasks": tasks,
        "preprocess": dict(stored.backbone.preprocess),
        "backbone": backbone,
        **{name: run.results.get(name) for name in ("method", "variant", "recipe", "shots", "seed")},
        "run_sha256": run.results.get("sha256"),
    }
    if isinstance(classifier, LinearClassifier):
        scale, unit = classifier.logit_scale, classifier.unit_length
        facts |= {"logit_scale": scale, "scale": exp32(scale), "unit_length": unit, "scores": FORMULAS[unit]}
    return facts


def _safetensors(classifier: LinearClassifier, facts: Mapping[str, Any]) -> bytes:
    """Class weights (K, D) and biases (K,), float32, with the facts as JSON under ``cptlite`` in the metadata."""
    tensors = {name: getattr(classifier, name).float().cpu().contiguous() for name in ("weights", "bias")}
    return save(tensors, metadata={ENTRY: json.dumps(facts, sort_keys=True)})


def _onnx(
    run: FinishedRun,
    classifier: Classifier,
    facts: Mapping[str, Any],
    folder: Path,
    given: str | None,
) -> tuple[bytes, float]:
    """Load the run's image tower on the CPU in float32, whatever it computed in, and put the classifier behind it."""
    learned_with = run.stored.backbone
    check_user_named(learned_with.name, given, folder)
    backbone = load_backbone(given or learned_with.name, device="cpu", precision="float32", linear_backend="torch")
    if backbone.weights_sha256 != learned_with.weights_sha256:
        raise DataError(
            f"wanted the weights that were {learned_with.name!r} when the run was trained (sha256 "
            f"{learned_with.weights_sha256[:12]}...), got others ({backbone.weights_sha256[:12]}...): put those back"
        )
    return pack_onnx(classifier, backbone, facts)
