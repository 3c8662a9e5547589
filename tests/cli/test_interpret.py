"""``cptlite interpret`` through the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from run_bench import RunBench, least
from typer.testing import CliRunner, Result

from cptlite.backbones import Backbone
from cptlite.cli import app
from cptlite.reporting.interpreted import words_tables
from cptlite.runs.contexts import Context, NearWord

STILL = {"lr": 1e-30, "warmup_lr": 0.0}
METHODS = ("softcpt", "coop-cs", "zeroshot", "prototype", "taskres")


@pytest.fixture(scope="module")
def runs(backbone: Backbone, caches: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    bench = RunBench(backbone, caches, tmp_path_factory.mktemp("runs"))
    still = least("coop-mt", context_init="a photo of a", **STILL)
    return {"still": bench.train("still", still)} | {name: bench.train("runs", least(name)) for name in METHODS}


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["interpret", *(str(word) for word in words)])


def test_a_context_of_words_that_did_not_move_names_them(runs: dict[str, Path]) -> None:
    done = call(runs["still"], "--json")
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout)["results"]
    (context,) = found["contexts"]
    assert (context["kind"], context["task"], context["class"], context["prompt"]) == ("context", None, None, None)
    nearest = [vector["words"][0] for vector in context["vectors"]]
    assert [(each["word"], each["distance"]) for each in nearest] == [("a", 0), ("photo", 0), ("of", 0), ("a", 0)]
    assert [vector["moved"] for vector in context["vectors"]] == [0, 0, 0, 0]
    assert all(vector["words"][1]["distance"] > 0 and len(vector["words"]) == 3 for vector in context["vectors"])
    assert found["similarity"] is None and "which all tasks share" in found["no_similarity"]
    told = call(runs["still"], "--top", "1", "--measure", "cosine")
    rows = [line.split() for line in told.stdout.splitlines() if line.rstrip().endswith("0.000")]
    assert [row[-2] for row in rows] == ["a", "photo", "of", "a"]
    assert "no similarity of tasks: coop-mt has one context" in told.stderr


def test_what_a_meta_network_makes_is_told_and_drawn(runs: dict[str, Path], tmp_path: Path) -> None:
    picture = tmp_path / "new/tasks.png"
    done = call(runs["softcpt"], "--json", "--tasks-plot", picture)
    assert done.exit_code == 0 and f"drawn: {picture}" in done.stderr, done.output
    (found,) = json.loads(done.stdout)["results"]
    assert [(each["kind"], each["task"]) for each in found["contexts"]] == [
        ("task_context", None),
        *(("generated", task) for task in ("coins", "leaves", "shells")),
    ]
    assert found["similarity"]["tasks"] == ["coins", "leaves", "shells"]
    assert [row[place] for place, row in enumerate(found["similarity"]["cosines"])] == pytest.approx([1, 1, 1])
    with Image.open(picture) as image:
        assert image.format == "PNG" and len(image.getcolors(2**20) or []) > 20
    told = call(runs["softcpt"], "--task", "leaves")
    assert told.exit_code == 0
    assert "meta network makes" in told.stdout and "Similarity of tasks" in told.stdout
    makes = told.stdout.partition("meta network makes")[2].partition("Similarity")[0]
    assert "leaves" in makes and "coins" not in makes


def test_images_of_a_class_are_told_and_drawn(runs: dict[str, Path], caches: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "oak.png"
    for root in (caches.parent, caches.parent / "leaves"):
        done = call(runs["coop-cs"], "--class", "oak", "--sheet", sheet, "--root", root, "--json")
        assert done.exit_code == 0, done.output
        (found,) = json.loads(done.stdout)["results"]
        assert [(each["task"], each["class"]) for each in found["contexts"]] == [("leaves", "oak")]
        images = [*found["class"]["nearest"], *found["class"]["hardest"]]
        assert found["class"]["name"] == "oak" and len(images) == found["class"]["images"] > 0
        assert all((caches.parent / "leaves" / each["image"]).is_file() for each in images)
        with Image.open(sheet) as image:
            drawn = {colour for _, colour in image.convert("RGB").getcolors(2**20) or []}
        with Image.open(caches.parent / "leaves" / images[0]["image"]) as image:
            wanted = {colour for _, colour in image.getcolors(2**20) or []}
        assert wanted & drawn, "pixels of the image, whose size is not changed but to the nearest"
        sheet.unlink()
    told = call(runs["coop-cs"], "--class", "oak")
    assert told.exit_code == 0 and "oak, of leaves: " in told.stdout


@pytest.mark.parametrize(
    ("method", "words", "code", "message"),
    [
        ("zeroshot", [], 2, "got one of zeroshot, which learns nothing: give a run of one of coop-mt"),
        ("prototype", [], 2, "got one of prototype, which learns the mean feature of each class"),
        ("taskres", [], 2, "got one of taskres"),
        ("still", ["--tasks-plot", "t.png"], 2, "which all tasks share"),
        ("still", ["--sheet", "s.png"], 2, "give --class NAME beside --sheet"),
        ("still", ["--class", "oka"], 2, "did you mean 'oak'"),
        ("still", ["--task", "birds"], 2, "unknown task 'birds'"),
        ("still", ["--measure", "manhattan"], 2, "unknown measure 'manhattan'"),
        ("still", ["--class", "oak", "--sheet", "s.png"], 3, "wanted the test images of leaves"),
    ],
)
def test_what_cannot_be_told_is_said_in_a_line(
    runs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    words: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call(runs[method], *words)
    assert done.exit_code == code and message in done.stderr, done.output
    assert done.stderr.count("\n") == 1 and not done.stdout and not list(tmp_path.iterdir())


def test_a_run_s_own_files_are_not_written_and_damage_is_said(
    runs: dict[str, Path], caches: Path, tmp_path: Path
) -> None:
    done = call(runs["softcpt"], "--tasks-plot", runs["softcpt"] / "t.png")
    assert done.exit_code == 2 and "not among the run's own files" in done.stderr
    folder = shutil.copytree(caches.parent / "leaves", tmp_path / "leaves")
    for path in folder.rglob("*.png"):
        path.write_text("no image")
    sheet = tmp_path / "s.png"
    done = call(runs["still"], "--class", "oak", "--sheet", sheet, "--root", tmp_path)
    assert done.exit_code == 3 and "cannot be read (not an image)" in done.stderr and not sheet.exists()


def test_a_table_has_no_more_rows_than_can_be_read() -> None:
    vectors = torch.ones(300, 1)
    contexts = [Context(kind="context", vectors=vectors, start=vectors, task=task) for task in ("a", "b")]
    near = [[NearWord("word", 1, 0.5)]] * 300
    (whole,) = words_tables(contexts[:1], [near])
    (cut,) = words_tables(contexts, [near, near])
    assert len(whole.rows) == 300 and "left out" not in whole.caption
    assert len(cut.rows) == 500 and "left out: 100 more rows; give --task" in cut.caption
    assert (cut.rows[0][0], cut.rows[1][0], cut.rows[300][0]) == ("a", "", "b")
