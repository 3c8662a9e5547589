"""``cptlite predict`` through the command line: what words and files mean, what is written where, how it ends."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from run_bench import RunBench, least
from typer.testing import CliRunner, Result

from cptlite.backbones import Backbone
from cptlite.cli import app
from cptlite.cli.predict import class_names
from cptlite.errors import DataError
from cptlite.reporting.predicted import TABLE_ROWS, TableSink
from cptlite.runs.predict import ImagePrediction


@pytest.fixture(scope="module")
def runs(backbone: Backbone, caches: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    bench = RunBench(backbone, caches, tmp_path_factory.mktemp("runs"))
    return {method: bench.train("runs", least(method)) for method in ("coop-mt", "coop-ca", "prototype")}


@pytest.fixture
def run(runs: dict[str, Path]) -> Path:
    return runs["coop-mt"]


@pytest.fixture
def photos(caches: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(caches.parent / "leaves", tmp_path / "photos"))


def call(*words: str | Path, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], input=stdin)


def predict(*words: str | Path, stdin: bytes | None = None) -> Result:
    return call("predict", *words, "--device", "cpu", stdin=stdin)


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def refused(done: Result, code: int, *messages: str) -> None:
    assert done.exit_code == code, done.output
    assert done.stderr.count("error:") == 1 and "Traceback" not in done.stderr
    for message in messages:
        assert message in done.stderr


# What comes out


def test_a_table_names_the_likeliest_classes_of_each_task(run: Path, photos: Path) -> None:
    done = predict(run, photos / "ash", "--top", "2")
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines()[4:]]
    lines = [line[-5:] for line in lines if len(line) > 4]
    assert len(lines) == 8 * 3 and done.stdout.count(str(photos)) == 8
    assert [line[0] for line in lines[:3]] == ["coins", "leaves", "shells"]
    assert all({line[1], line[3]} <= {"ash", "elm", "oak"} for line in lines[1::3])
    alone = predict(run, photos / "ash", "-t", "leaves").stdout
    assert (
        "task" not in alone.splitlines()[2].split() and "leaves" not in alone.replace(str(photos), "").splitlines()[4]
    )


def test_csv_json_and_table_say_the_same(run: Path, photos: Path, tmp_path: Path) -> None:
    words = (run, photos, "--top", "3")
    done = predict(*words, "--csv", tmp_path / "new/out.csv", "--json")
    assert done.exit_code == 0 and f"written: {tmp_path / 'new/out.csv'}" in done.stderr
    found = json.loads(done.stdout)
    assert found["run"] == str(run) and found["method"] == "coop-mt" and len(found["results"]) == 24
    rows = rows_of((tmp_path / "new/out.csv").read_text())
    assert rows == rows_of(predict(*words, "--csv", "-").stdout)
    flat = [
        (entry["image"], task, str(rank), each["class"], f"{each['probability']:.4f}", "")
        for entry in found["results"]
        for task, ranked in entry["tasks"].items()
        for rank, each in enumerate(ranked, start=1)
    ]
    assert [tuple(row.values()) for row in rows] == flat
    assert {row["image"] for row in rows} == {str(path) for path in photos.rglob("*.png")}


def test_a_cached_dataset_is_an_input_too(run: Path, caches: Path) -> None:
    own = rows_of((run / "predictions.csv").read_text())
    done = predict(run, "--dataset", "leaves", "--cache-dir", caches, "--task", "leaves", "--top", "1", "--csv", "-")
    assert done.exit_code == 0, done.output
    found = [(row["image"], row["label"], row["class"], row["probability"]) for row in rows_of(done.stdout)]
    assert found == [
        (row["image"], row["label"], row["predicted"], row["probability"]) for row in own if row["task"] == "leaves"
    ]
    both = predict(run, "-d", "leaves", "-d", "coins", "--split", "train", "--cache-dir", caches, "--json")
    labels = [entry["label"]["task"] for entry in json.loads(both.stdout)["results"]]
    assert set(labels) == {"leaves", "coins"} and labels == sorted(labels, reverse=True)
    refused(predict(run, "-d", "leaves", "--split", "dev", "--cache-dir", caches), 2, "unknown split 'dev'")
    refused(predict(run, "-d", "dtd", "--cache-dir", caches), 3, "wanted cached features of dtd")


def test_parquet_has_the_columns_of_the_csv(run: Path, photos: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet is written where pyarrow is installed")
    done = predict(run, photos, "--parquet", tmp_path / "out.parquet", "--csv", tmp_path / "out.csv")
    assert done.exit_code == 0, done.output
    rows = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    written = rows_of((tmp_path / "out.csv").read_text())
    assert [f"{row.pop('probability'):.4f}" for row in rows] == [row.pop("probability") for row in written]
    assert [{name: str(value) for name, value in row.items()} for row in rows] == written


def test_parquet_without_pyarrow_is_said(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = predict(run, photos, "--parquet", tmp_path / "out.parquet")
    refused(done, 1, "writing Parquet needs pyarrow, which is not installed", "pip install pyarrow", "--csv")
    assert not (tmp_path / "out.parquet").exists()


def test_tables_hold_no_more_rows_than_they_show_at_once() -> None:
    shown: list[int] = []
    sink = TableSink(lambda table: shown.append(len(table.rows)), "", several=False)
    for index in range(2 * TABLE_ROWS + 3):
        sink.add(ImagePrediction(str(index), {"leaves": (("ash", 1.0),)}))
    sink.finish()
    assert shown == [TABLE_ROWS, TABLE_ROWS, 3]


# What goes in


def test_stdin_lists_paths(run: Path, photos: Path) -> None:
    listed = f"{photos}/ash/00.png\r\n\n{photos}/elm/01.png\n{photos}/elm/gone.png\n"
    done = predict(run, "-", "-t", "leaves", "--top", "1", "--csv", "-", stdin=listed.encode())
    refused(done, 1, "gone.png: missing", "could not read 1 of 3 images")
    assert [row["image"] for row in rows_of(done.stdout)] == [f"{photos}/ash/00.png", f"{photos}/elm/01.png"]
    refused(predict(run, "-", stdin=b"\n"), 3, "the list on stdin is empty")


def test_bad_images_are_told_and_counted_and_the_others_are_answered(run: Path, photos: Path, tmp_path: Path) -> None:
    cut = photos / "ash/00.png"
    cut.write_bytes(cut.read_bytes()[:100])
    (photos / "ash/01.png").write_text("text")
    (photos / "notes.txt").write_text("no image")
    words = (run, photos, photos / "notes.txt", "-t", "leaves", "--csv", tmp_path / "out.csv")
    done = predict(*words)
    refused(done, 1, "unreadable:", "01.png: not an image", "notes.txt: not an image", "could not read 3 of 25 images")
    assert "left out: 1 file of other kinds than images" in done.stderr
    assert len({row["image"] for row in rows_of((tmp_path / "out.csv").read_text())}) == 22
    skipped = predict(*words, "--skip-bad", "--json")
    assert skipped.exit_code == 0 and skipped.stderr.count("unreadable:") == 3
    entries = json.loads(skipped.stdout)["results"]
    assert len(entries) == 25 and sum("error" in entry for entry in entries) == 3


def test_many_bad_images_are_told_in_few_lines(run: Path, tmp_path: Path) -> None:
    listed = "".join(f"{tmp_path}/{index}.png\n" for index in range(30)).encode()
    done = predict(run, "-", stdin=listed)
    refused(done, 1, "unreadable: and 10 more", "could not read 30 of 30 images")
    assert done.stderr.count("missing") == 20


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes of this kind")
def test_a_pipe_is_not_waited_for(run: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    refused(predict(run, tmp_path / "pipe.png"), 1, "a FIFO, not a file")


def test_what_steers_a_terminal_is_written_out(run: Path, tmp_path: Path) -> None:
    name = "a\x1b[2Jb.png"
    Image.new("RGB", (9, 9)).save(tmp_path / name)
    done = predict(run, tmp_path, "-t", "leaves")
    assert done.exit_code == 0 and "\x1b" not in done.output and "a\\x1b[2Jb.png" in done.stdout


def test_a_name_of_any_bytes_is_predicted_and_written(run: Path, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.png"
    try:
        with open(path, "wb") as file:
            Image.new("RGB", (9, 9)).save(file, "PNG")
    except OSError:
        pytest.skip("the file system has names of text alone")
    done = predict(run, tmp_path, "-t", "leaves", "--json", "--csv", tmp_path / "out.csv")
    assert done.exit_code == 0, done.output
    assert os.fsencode(json.loads(done.stdout)["results"][0]["image"]) == path
    assert "\\udcff.png" in (tmp_path / "out.csv").read_text()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "wanted images or a cached dataset"),
        (["x.png", "--dataset", "leaves"], 2, "wanted images or a cached dataset"),
        (["x.png"], 3, "found nothing there"),
        (["."], 3, "wanted images in ., found none"),
        (["photos", "-t", "birds"], 2, "unknown task 'birds': give one of coins, leaves, shells"),
        (["photos", "--classes", "ash,elm"], 2, "wanted the one task that --classes are of, got none"),
        (["photos", "-t", "leaves", "--classes", "ash,,elm"], 2, "an empty one"),
        (["photos", "-t", "leaves", "--classes", "fir,Fir"], 2, "wanted each class once, got 'Fir' again"),
        (["photos", "-t", "leaves", "--classes", "@names.txt"], 3, "found none: check the path"),
        (["photos", "--json", "--csv", "-"], 2, "both write to stdout"),
        (["photos", "--batch-size", "0"], 2, "batch-size must be at least 1"),
        (["photos", "--workers", "-1"], 2, "workers must be at least 0"),
        (["photos", "--csv", "photos"], 2, "wanted a file to write at photos, got a folder"),
        (["photos", "--precision", "fp16"], 2, "precision 'fp16' needs a GPU"),
    ],
)
def test_what_cannot_be_predicted_is_said(
    run: Path, caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if "photos" in words:
        shutil.copytree(caches.parent / "leaves/ash", tmp_path / "photos")
    refused(predict(run, *words), code, message)


def test_nothing_is_written_among_the_run_s_own_files(run: Path, photos: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    refused(predict(run, photos, "--csv", run / "predictions.csv"), 2, "not among the run's own files")
    refused(predict(run, photos, "--parquet", run / "tasks/x/out.parquet"), 2, "not among the run's own files")
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert predict(run, photos, "--csv", run / "eval/out.csv").exit_code == 0


# Other classes


def test_some_of_a_task_s_classes_are_chosen_from_whatever_the_method(runs: dict[str, Path], photos: Path) -> None:
    for method, folder in runs.items():
        whole = json.loads(predict(folder, photos, "-t", "leaves", "--json").stdout)["results"]
        some = predict(folder, photos, "-t", "leaves", "--classes", "oak, Ash", "--json")
        assert some.exit_code == 0, (method, some.output)
        for entry, other in zip(json.loads(some.stdout)["results"], whole, strict=True):
            ranked: list[dict[str, Any]] = entry["tasks"]["leaves"]
            before = {each["class"]: each["probability"] for each in other["tasks"]["leaves"]}
            assert sum(each["probability"] for each in ranked) == pytest.approx(1, abs=1e-5)
            share = before["oak"] / (before["oak"] + before["ash"])
            assert {each["class"]: each["probability"] for each in ranked}["oak"] == pytest.approx(share, abs=1e-3)


def test_a_new_task_is_asked_of_a_run_that_all_tasks_share(runs: dict[str, Path], photos: Path) -> None:
    words = (photos, "-t", "mushroom", "--classes", "chanterelle,fly agaric", "--csv", "-", "-k", "1")
    done = predict(runs["coop-mt"], *words)
    assert done.exit_code == 0, done.output
    assert {row["task"] for row in rows_of(done.stdout)} == {"mushroom"}
    assert {row["class"] for row in rows_of(done.stdout)} <= {"chanterelle", "fly agaric"}
    refused(predict(runs["coop-ca"], *words), 2, "none for a new task 'mushroom'", "coins, leaves, shells", "coop-mt")
    refused(predict(runs["prototype"], *words), 2, "none for a new one", "coins, leaves, shells", "kgcoop")
    known = ("-t", "leaves", "--classes", "ash,fir")
    assert predict(runs["coop-ca"], photos, *known).exit_code == 0
    refused(predict(runs["prototype"], photos, *known), 2, "'leaves' has (ash, elm, oak)")


def test_classes_of_another_task_are_new_ones_to_this(runs: dict[str, Path], photos: Path) -> None:
    words = (photos, "-t", "leaves", "--classes", "dime,penny", "--json")
    refused(predict(runs["prototype"], *words), 2, "none for a new one")
    done = predict(runs["coop-ca"], *words)
    assert done.exit_code == 0, done.output
    there = predict(runs["coop-ca"], photos, "-t", "coins", "--json")
    found, other = (json.loads(each.stdout)["results"][0]["tasks"] for each in (done, there))
    own, others = (
        {each["class"]: each["probability"] for each in ranked} for ranked in (found["leaves"], other["coins"])
    )
    assert own.keys() == others.keys() and own != others, "each task has a context of its own"


def test_names_come_from_words_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("fly agaric\n\n  oak, white\n")
    assert class_names(f"@{tmp_path / 'names.txt'}") == ["fly agaric", "oak, white"]
    assert class_names('ash, "oak, white" ,elm') == ["ash", "oak, white", "elm"]
    assert class_names(None) == []
    with pytest.raises(DataError, match="wanted a file of class names"):
        class_names("@nowhere.txt")
