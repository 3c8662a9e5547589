"""Reading the split files others publish: CoOp's and the original SoftCPT's.

CoOp's ``split_zhou_<Name>.json`` is ``{"train" | "val" | "test": [[path, label, class name]]}``; the
original SoftCPT's ``split_dk_<Name>.json`` has rows ``[path, [label], [task]]`` and the names under
``"meta"``.
"""

from __future__ import annotations

import reprlib
import unicodedata
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from cptlite.datasets.drafts import Draft, Place, TaskDraft
from cptlite.datasets.listed import listed_path
from cptlite.datasets.text_files import read_json, shown
from cptlite.datasets.types import SPLITS
from cptlite.errors import DataError

__all__ = ["read_split_file"]

COOP_ROW = "[path, label, class name]"
SOFTCPT_ROW = "[path, [label], [task]]"
ADVICE = "fetch the file again or use another"


def read_split_file(place: Place) -> Draft:
    """Read a split file of either form; one with ``"meta"`` is the original SoftCPT's.

    Raises
    ------
    DataError
        Not JSON, other keys, rows of another form, a label with two names or none.

    Notes
    -----
    Paths written on Windows, or absolute ones below the image folder, are taken.
    """
    path = place.split_file
    content = read_json(path)
    lists = isinstance(content, dict) and all(isinstance(content.get(key), list) for key in SPLITS)
    if not lists:
        got = f"keys {', '.join(map(repr, islice(content, 8)))}" if isinstance(content, dict) else "no table"
        raise DataError(
            f"{shown(path)}: wanted a split file with the lists 'train', 'val' and 'test', got {got}; {ADVICE}"
        )
    draft = _softcpt_draft(path, content) if "meta" in content else _coop_draft(path, content)
    rows = {
        split: [(listed_path(image, place.images), label, task) for image, label, task in of_split]
        for split, of_split in draft.rows.items()
    }
    return replace(draft, rows=rows, listed=True)


def _coop_draft(path: Path, content: dict[str, Any]) -> Draft:
    """Check CoOp's rows and collect the class names by label."""
    names: dict[int, str] = {}
    rows: dict[str, list[tuple[str, int, int]]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        for number, row in enumerate(content[split]):
            if not (isinstance(row, list) and len(row) == 3 and _is_coop_row(*row)):
                raise _bad_row(path, split, number, COOP_ROW, row)
            image, label, name = row
            if unicodedata.normalize("NFC", names.setdefault(label, name)) != unicodedata.normalize("NFC", name):
                raise DataError(
                    f"{shown(path)}: wanted one name per label, got {names[label]!r} and {name!r} for "
                    f"label {label} ({split} row {number}); correct the file"
                )
            rows[split].append((image, label, 0))
    _check_gap(path, names)
    task = TaskDraft(class_names=tuple(names[label] for label in sorted(names)))
    return Draft(source=path, tasks=(task,), rows=rows)


def _check_gap(path: Path, names: dict[int, str]) -> None:
    """Refuse labels that do not run from 0 without a gap."""
    gaps = list(islice((label for label in range(max(names, default=0)) if label not in names), 5))
    if gaps:
        raise DataError(
            f"{shown(path)}: wanted labels 0 to {max(names)} without a gap, no row has label "
            f"{', '.join(map(str, gaps))}; number the classes anew"
        )


def _softcpt_draft(path: Path, content: dict[str, Any]) -> Draft:
    """Check the original SoftCPT's rows against the names in its ``meta``."""
    tasks = _softcpt_tasks(path, content["meta"])
    rows: dict[str, list[tuple[str, int, int]]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        for number, row in enumerate(content[split]):
            if not (isinstance(row, list) and len(row) == 3 and _is_softcpt_row(*row)):
                raise _bad_row(path, split, number, SOFTCPT_ROW, row)
            image, (label,), (task,) = row
            if task >= len(tasks) or label >= len(tasks[task].class_names):
                raise DataError(
                    f"{shown(path)}: wanted labels and tasks named in 'meta', got label {label} of task "
                    f"{task} ({split} row {number}); {ADVICE}"
                )
            rows[split].append((image, label, task))
    return Draft(source=path, tasks=tasks, rows=rows)


def _softcpt_tasks(path: Path, meta: Any) -> tuple[TaskDraft, ...]:
    """Collect tasks and class names; a lone task takes its name from the catalogue."""
    classes = meta.get("taskid2cname") if isinstance(meta, dict) else None
    if not isinstance(classes, list) or not classes or not all(map(_is_texts, classes)):
        raise DataError(f"{shown(path)}: wanted class names by task in meta.taskid2cname; {ADVICE}")
    if len(classes) == 1:
        return (TaskDraft(class_names=tuple(classes[0])),)
    names = meta.get("taskid2tname")
    if not _is_texts(names) or len(names) != len(classes):
        raise DataError(f"{shown(path)}: wanted {len(classes)} task names in meta.taskid2tname; {ADVICE}")
    return tuple(
        TaskDraft(class_names=tuple(of_task), number=number, name=name)
        for number, (of_task, name) in enumerate(zip(classes, names, strict=True))
    )


def _is_label(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _is_coop_row(image: Any, label: Any, name: Any) -> bool:
    return isinstance(image, str) and _is_label(label) and isinstance(name, str)


def _is_softcpt_row(image: Any, labels: Any, tasks: Any) -> bool:
    pair = all(isinstance(v, list) and len(v) == 1 and _is_label(v[0]) for v in (labels, tasks))
    return isinstance(image, str) and pair


def _bad_row(path: Path, split: str, number: int, wanted: str, row: Any) -> DataError:
    """Error for a row of the wrong form."""
    return DataError(
        f"{shown(path)}: wanted rows {wanted} with labels from 0, got {reprlib.repr(row)} "
        f"({split} row {number}); {ADVICE}"
    )
