"""Runs in folders as `execute_runs` leaves them, made up, and what stands in the tables of a page of them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from cptlite.config import resolve_config
from cptlite.datasets.types import Task
from cptlite.reporting import load_results
from cptlite.reporting.page import write_page
from cptlite.runs.files import CONFIG, PREDICTIONS, write_json, write_predictions, write_results
from cptlite.runs.predictions import TaskPredictions, pack_predictions, suite_scores

CLASSES = {"leaf": ("oak", "elm", "ash", "fir"), "coin": ("cent", "dime", "penny"), "shell": ("cone", "cowrie")}
ENVIRONMENT = {"cptlite": "0.1.0", "commit": "abc1234", "torch": "2.15.0", "processor": "a processor", "cores": 2}
IMAGES = 12  # of a class


def file_run(
    root: Path,
    method: str = "coop-mt",
    *,
    shots: int | str = 4,
    seed: int = 1,
    named: dict[str, tuple[str, ...]] | None = None,
    predictions: bool = True,
    **options: Any,
) -> Path:
    """File a run whose predictions are drawn, and whose scores are those of its predictions; return its folder."""
    named = CLASSES if named is None else named
    words = json.dumps([method, shots, seed, {name: str(value) for name, value in options.items()}])
    draw = random.Random(words)
    given = {"method": method, "suite": "mine", "datasets": list(named), "backbone": "demo", "shots": shots}
    config = resolve_config({**given, "seed": seed, **options})
    found = [_predicted(draw, task, names, config) for task, names in named.items()]
    scores = {each.task.id: each.scores() for each in found}
    folder = root / method / f"{draw.getrandbits(32):08x}" / f"shots{shots}-seed{seed}"
    folder.mkdir(parents=True)
    fingerprint = {"backbone": "demo", "weights_sha256": "ab" * 32, "views": 1}
    caches = {task: {"dataset": task, "split_sha256": f"{task}-split", **fingerprint} for task in named}
    own = {"config": json.loads(json.dumps(config.to_json())), "caches": caches}
    write_json(folder / CONFIG, {**own, "environment": ENVIRONMENT})
    if predictions:
        write_predictions(folder, pack_predictions(found))
    results = {
        **{key: getattr(config, key) for key in ("method", "suite", "backbone", "shots", "seed", "variant")},
        "shots": shots,
        "recipe": config.recipe_name,
        **own,
        "tasks": scores,
        **suite_scores(scores),
        "parameters": draw.randrange(100, 10**6),
        "seconds": {"train": draw.uniform(0.01, 300), "evaluate": 0.01},
        "peak_mib": draw.uniform(100, 2000),
    }
    written = [folder / name for name in (CONFIG, *([PREDICTIONS] if predictions else []))]
    write_results(folder, results, written)
    return folder


def _predicted(draw: random.Random, task: str, names: tuple[str, ...], config: Any) -> TaskPredictions:
    labels = np.repeat(np.arange(len(names)), IMAGES)
    predicted = np.array([label if draw.random() < 0.6 else draw.randrange(len(names)) for label in labels])
    halved = config.classes == "base"
    base = np.arange(len(names)) < (len(names) + 1) // 2
    return TaskPredictions(
        task=Task(id=task, name=task, class_names=names, template="a photo of a {}.", metric="acc1"),
        images=tuple(f"{number}.png" for number in range(len(labels))),
        labels=labels,
        predicted=predicted,
        ranks=np.where(labels == predicted, 1, 2),
        probabilities=np.full(len(labels), 0.5),
        held_out=task in config.held_out_tasks,
        base=base if halved else None,
        of_half=np.where(base[labels] == base[predicted], predicted, np.where(base, 0, len(names) - 1)[labels])
        if halved
        else None,
    )


def file_suite(root: Path) -> None:
    """File runs of two methods at two numbers of shots, two configurations of one, and zero-shot."""
    for seed in (1, 2, 3):
        for shots in (1, 4):
            file_run(root, "coop-mt", shots=shots, seed=seed)
            file_run(root, "coop-mt", shots=shots, seed=seed, lr=0.5)
    file_run(root, "softcpt", shots=4)
    file_run(root, "zeroshot", shots=4)


def file_folds(root: Path) -> None:
    for seed in (1, 2):
        for task in CLASSES:
            file_run(root, seed=seed, held_out_tasks=(task,))


def file_base(root: Path) -> None:
    for seed in (1, 2):
        file_run(root, seed=seed, classes="base")
    file_run(root, "softcpt", classes="base")


SUITES: dict[str, Callable[[Path], Any]] = {
    "suite": file_suite,
    "one run": file_run,
    "one task": lambda root: file_run(root, named={"leaf": CLASSES["leaf"]}, shots="all"),
    "zero-shot alone": lambda root: file_run(root, "zeroshot"),
    "base to new": file_base,
    "tasks held out in turn": file_folds,
    "two tasks held out": lambda root: file_run(root, held_out_tasks=("leaf", "coin")),
}


@dataclass
class Cell:
    """What a table's cell shows, and where it leads."""

    text: str = ""
    link: str = ""
    value: str = ""


@dataclass
class Table:
    """Headings, and rows with the identifier of the body that they stand in."""

    columns: list[str] = field(default_factory=list)
    rows: list[tuple[str, list[Cell]]] = field(default_factory=list)


class Reader(HTMLParser):
    """Reads a page's tables, the names of its elements, and its charts."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.tables: list[Table] = []
        self.sections: list[str] = []  # heading over each table
        self.headings: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.charts: dict[str, Any] = {}
        self.policy = ""
        self._body, self._open, self._heading = "", "", ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.tags.append(tag)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if "href" in given else []
        if "http-equiv" in given:
            self.policy = given["content"]
        if tag == "table":
            self.tables.append(Table())
            self.sections.append(self._heading)
        elif tag == "tbody":
            self._body = given.get("id", "")
        elif tag == "tr" and "tbody" in self.tags and self.tables[-1].columns:
            self.tables[-1].rows.append((self._body, []))
        elif tag in ("th", "td"):
            if given.get("scope") == "col":
                self.tables[-1].columns.append("")
            else:
                self.tables[-1].rows[-1][1].append(Cell(value=given.get("data-value", "")))
        elif tag == "a" and self._open in ("th", "td") and self.tables[-1].rows:
            self.tables[-1].rows[-1][1][-1].link = given["href"]
        if tag in ("th", "td", "script", "h2", "h3", "h4"):
            self._open = tag if given.get("type") != "application/json" else "charts"
            if tag in ("h2", "h3"):
                self._heading = ""

    def handle_endtag(self, tag: str) -> None:
        if tag in ("h2", "h3"):
            self.headings.append(self._heading)
        if tag in ("th", "td", "script", "h2", "h3", "h4"):
            self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "charts":
            self.charts = json.loads(data)
        elif self._open in ("h2", "h3"):
            self._heading += data
        elif self._open in ("th", "td"):
            table = self.tables[-1]
            if table.rows:
                table.rows[-1][1][-1].text += data
            else:
                table.columns[-1] += data


def page_of(folder: Path) -> tuple[str, Reader]:
    file = write_page(load_results([folder]), folder.parent / "page.html")
    text = file.read_text(encoding="utf-8")
    return text, Reader(text)


def tables_under(read: Reader, heading: str) -> list[Table]:
    return [table for table, over in zip(read.tables, read.sections, strict=True) if over == heading]


def runs_by_id(read: Reader, beside: Path) -> dict[str, list[tuple[dict[str, Any], dict[str, Cell]]]]:
    """What results.json holds of each run in the tables of runs, and its cells by heading, by where figures lead."""
    found: dict[str, list[tuple[dict[str, Any], dict[str, Cell]]]] = {}
    for table in tables_under(read, "Runs"):
        for name, row in table.rows:
            cells = dict(zip(table.columns, row, strict=True))
            file = beside / unquote(cells["folder"].link)
            found.setdefault(name, []).append((json.loads(file.read_text(encoding="utf-8")), cells))
    return found
