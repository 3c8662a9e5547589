"""A classifier in one file, with all that says what its scores mean: ``classifier.safetensors``.

The tensors stand under their names, those of a joined classifier's parts under ``<index>/<name>``. The header is JSON
text in the metadata entry ``cptlite``: ``format``, ``sha256`` (over the rest of the header and all tensors),
``classifier`` (``kind`` and plain values; of a joined one its ``parts``), ``tasks`` and ``backbone``. Nothing in the
file is ever run.

Axes: K classes of all tasks in task-major order, D joint dimension.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from cptlite.classifiers.ape import APEClassifier
from cptlite.classifiers.base import Classifier
from cptlite.classifiers.image_conditioned import ImageConditionedClassifier
from cptlite.classifiers.joined import JoinedClassifier
from cptlite.classifiers.linear import LinearClassifier
from cptlite.classifiers.projected import PreProjectedClassifier, ProjectedClassifier
from cptlite.classifiers.state import Misfit, TensorClassifier, shown
from cptlite.classifiers.stored import BackboneFacts, StoredClassifier
from cptlite.classifiers.tip import TipClassifier
from cptlite.classifiers.tip_x import TipXClassifier
from cptlite.classifiers.transport import TransportClassifier
from cptlite.classifiers.two_headed import TwoHeadedClassifier
from cptlite.classifiers.two_prototypes import TwoPrototypeClassifier
from cptlite.datasets.types import METRICS, Task
from cptlite.environment import find_device
from cptlite.errors import DataError, UsageError
from cptlite.files import replacing

if TYPE_CHECKING:
    from cptlite.text.encoder import TextEncoder

__all__ = [
    "load_classifier",
    "pack_classifier",
    "save_classifier",
    "unpack_classifier",
]

TextOf = Callable[[BackboneFacts], "TextEncoder"]

FORMAT = 1
ENTRY = "cptlite"  # of the metadata; a second one would stand in another order each time
KINDS: dict[str, type[TensorClassifier]] = {
    "linear": LinearClassifier,
    "tip": TipClassifier,
    "image-conditioned": ImageConditionedClassifier,
    "transport": TransportClassifier,
    "tip-x": TipXClassifier,
    "ape": APEClassifier,
    "two-headed": TwoHeadedClassifier,
    "two-prototypes": TwoPrototypeClassifier,
    "projected": ProjectedClassifier,
    "pre-projected": PreProjectedClassifier,
}


def save_classifier(path: Path, stored: StoredClassifier) -> None:
    """Write what `pack_classifier` makes: all of the file or nothing."""
    content = pack_classifier(stored)
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(content)


def pack_classifier(stored: StoredClassifier) -> bytes:
    """Make the content of a file of a classifier of any kind, from any device.

    Raises
    ------
    DataError
        The classifier is of no kind that can be stored, or not of these tasks and this backbone.
    """
    classifier = stored.classifier
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()  # a file may not hold one memory under two names
        for name, tensor in classifier.tensors().items()
    }
    header = {
        "format": FORMAT,
        "classifier": {"kind": classifier.kind, **classifier.values()},
        "tasks": [asdict(task) for task in stored.tasks],
        "backbone": asdict(stored.backbone),
    }
    try:
        _take_parts(header["classifier"], tensors, len(stored.class_names), stored.backbone.embed_dim)
    except Misfit as error:
        raise DataError(f"cannot store a classifier with {error}: give its own tasks and backbone") from None
    text = json.dumps({**header, "sha256": _sha256(header, tensors)})
    return save(tensors, metadata={ENTRY: text})


def load_classifier(
    path: Path, *, device: torch.device | str = "cpu", text: TextEncoder | TextOf | None = None
) -> StoredClassifier:
    """Read a classifier that `save_classifier` wrote: its scores are the same to the bit.

    Parameters
    ----------
    path : Path
    device : torch.device or str
        Where its tensors go.
    text : TextEncoder, or callable that gives one from the facts of the backbone, optional
        On ``device``. Used, and called once, only if the classifier encodes prompts when it scores.

    Raises
    ------
    DataError
        There is no such file, or it is damaged or not such a file.
    UsageError
        There is no such device; or the classifier needs a text encoder, and none or another backbone's was given.
    """
    path, device = Path(path), find_device(device)
    if not path.is_file():
        found = "something that is not a file" if path.exists() else "no file"
        raise DataError(
            f"wanted a classifier that cptlite stored at {path}, got {found}: "
            f"train it anew, or give the path of another"
        )
    return unpack_classifier(path.read_bytes(), device=device, text=text, place=f"at {path}")


def unpack_classifier(
    content: bytes,
    *,
    device: torch.device | str = "cpu",
    text: TextEncoder | TextOf | None = None,
    place: str = "in these bytes",
) -> StoredClassifier:
    """Read what `pack_classifier` made; arguments and errors are those of `load_classifier`, ``place`` is for these."""
    device = find_device(device)
    try:
        header, tensors = _read(content)
        tasks, backbone = _read_facts(header)
        names = [name for task in tasks for name in task.class_names]
        parts = _take_parts(header.get("classifier"), tensors, len(names), backbone.embed_dim)
    except (Misfit, RecursionError) as error:
        reason = str(error) if isinstance(error, Misfit) else "a header nested too deep"
        raise DataError(
            f"wanted a classifier that cptlite stored {place}, got {reason}: train it anew, or give the path of another"
        ) from None

    def missing() -> TextEncoder:
        raise UsageError(
            f"the classifier {place} encodes prompts for each image, so it wants a text encoder, got none: "
            f"give that of backbone {shown(backbone.name)} as text"
        )

    # Joined parts share one text encoder.
    provide = cache(missing if text is None else partial(text, backbone) if callable(text) else lambda: text)
    classifier = _build(parts, names, device, provide, header["classifier"]["kind"])
    return StoredClassifier(classifier=classifier, tasks=tasks, backbone=backbone)


def _read(content: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a file that is whole."""
    try:
        tensors = load(content)
        size = int.from_bytes(content[:8], "little")  # of the JSON text that the reader above has checked
        entry = json.loads(content[8 : 8 + size]).get("__metadata__", {}).get(ENTRY)
        if entry is None:
            raise Misfit("a safetensors file of something else")
        header = json.loads(entry)
        if not isinstance(header, dict) or "format" not in header:
            raise Misfit("a header that is no table with a format")
        if header["format"] != FORMAT:
            raise Misfit(f"format {shown(header['format'])} where this version of cptlite reads {FORMAT}")
    except (Misfit, RecursionError):
        raise
    except Exception as error:  # the reader raises a class of its own on a damaged file
        raise Misfit(f"a file that cannot be read ({type(error).__name__}: {shown(str(error))})") from None
    if _sha256(header, tensors) != header.get("sha256"):
        raise Misfit("a damaged file, whose checksum is not that of its content")
    return header, tensors


def _sha256(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Hex digest over the header, its own entry left out, and all tensors by sorted name."""
    rest = {name: value for name, value in header.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_facts(header: Mapping[str, Any]) -> tuple[tuple[Task, ...], BackboneFacts]:
    """Tasks and backbone of a header."""
    tasks = []
    for table in _typed(header, "tasks", list):
        names = _typed(table, "class_names", list)
        texts = {name: _typed(table, name, str) for name in ("id", "name", "template", "metric")}
        if not all(isinstance(name, str) for name in names) or texts["metric"] not in METRICS:
            raise Misfit(f"a task {shown(table)} where class names are text and the metric is one of {METRICS}")
        tasks.append(Task(**texts, class_names=tuple(names)))
    table = _typed(header, "backbone", dict)
    texts = {name: _typed(table, name, str) for name in ("name", "weights_sha256", "precision")}
    dim, preprocess = _typed(table, "embed_dim", int), _typed(table, "preprocess", dict)
    return tuple(tasks), BackboneFacts(**texts, embed_dim=dim, preprocess=preprocess)


def _typed(table: Any, name: str, kind: type) -> Any:
    """Value of a table's entry, of a wanted type."""
    value = table.get(name) if isinstance(table, dict) else None
    if type(value) is not kind:
        raise Misfit(f"{name!r} {shown(value)} in the header where {kind.__name__} belongs")
    return value


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One classifier of a file, or of the several that are joined there."""

    kind: type[TensorClassifier]
    values: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    num_classes: int


def _take_parts(described: Any, tensors: Mapping[str, Tensor], num_classes: int, embed_dim: int) -> tuple[_Part, ...]:
    """Parts, checked, of the classifier that a header describes: one, or those of a joined classifier of K classes."""
    if _typed(described, "kind", str) != JoinedClassifier.kind:
        tables, groups = [{**described, "num_classes": num_classes}], {"0": dict(tensors)}
    else:
        tables = _typed(described, "parts", list)
        groups = {str(index): {} for index in range(len(tables))}
        for name, tensor in tensors.items():
            index, slash, own = name.partition("/")
            if index not in groups or not slash:
                raise Misfit(f"a tensor {shown(name)} that belongs to none of {len(tables)} parts")
            groups[index][own] = tensor
    parts = []
    for table, group in zip(tables, groups.values(), strict=True):
        kind, size = _typed(table, "kind", str), _typed(table, "num_classes", int)
        if kind not in KINDS:
            raise Misfit(f"kind {shown(kind)} where this version of cptlite knows {', '.join(KINDS)}")
        if size < 1:
            raise Misfit(f"a classifier of {size} classes where it has 1 at least")
        values = {name: value for name, value in table.items() if name not in ("kind", "num_classes")}
        KINDS[kind].check_state(group, values, size, embed_dim)
        parts.append(_Part(kind=KINDS[kind], values=values, tensors=group, num_classes=size))
    total = sum(part.num_classes for part in parts)
    if total != num_classes or not parts:
        raise Misfit(f"parts of {total} classes together where the tasks have {num_classes}")
    return tuple(parts)


def _build(
    parts: Sequence[_Part], names: Sequence[str], device: torch.device, text: Callable[[], TextEncoder], kind: str
) -> Classifier:
    """Put a classifier of some kind together from its parts."""
    classifiers: list[Classifier] = []
    sizes = tuple(part.num_classes for part in parts)
    for part, stop in zip(parts, accumulate(sizes), strict=True):
        placed = {name: tensor.to(device, copy=True) for name, tensor in part.tensors.items()}  # lets go of the file
        own_names = names[stop - part.num_classes : stop]
        classifiers.append(part.kind.from_state(placed, part.values, own_names, text))
    return JoinedClassifier(parts=tuple(classifiers), sizes=sizes) if kind == JoinedClassifier.kind else classifiers[0]
