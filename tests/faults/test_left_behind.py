"""What others take away, leave behind or damage is noticed where it would end in a result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from run_bench import BACKBONE, RunBench, encode_datasets, least
from test_run_files import content_of, files_up_to, flipped, places
from typer.testing import CliRunner

import cptlite.runs.execute
import cptlite.runs.learn
from cptlite.backbones import load_backbone
from cptlite.cli import app
from cptlite.drawings import draw_suite
from cptlite.drawings.suite import TASKS
from cptlite.errors import CptliteError, DataError
from cptlite.files import write_alone
from cptlite.reporting import load_results, render_table
from cptlite.reporting.tables import Table
from cptlite.timing.pictures import draw_photos


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> RunBench:
    folder, backbone = tmp_path_factory.mktemp("shelf"), load_backbone(BACKBONE, device="cpu")
    return RunBench(backbone, encode_datasets(backbone, folder), folder)


def gone_process() -> int:
    """The number of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


# Left behind


def test_the_lock_of_a_killed_process_goes_with_the_next_command(bench: RunBench, tmp_path: Path) -> None:
    folder = bench.train("locked", least("prototype"))
    whole = content_of(folder)
    (folder / ".run.lock").write_text(f"process {gone_process()} on here\n")
    bench.train("locked", least("prototype"))
    assert content_of(folder) == whole
    (path,) = bench.caches.rglob("coins.h5")
    lock = path.with_name(".coins.h5.lock")
    lock.write_text("")
    words = ["cache", "-d", str(bench.folder / "coins"), "--backbone", BACKBONE, "--cache-dir", str(bench.caches)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0 and "nothing read" in done.output, done.output
    assert not lock.exists()


def test_a_file_that_nobody_goes_on_from_is_whole_and_tidied(tmp_path: Path) -> None:
    path = tmp_path / "made" / "shots.png"
    write_alone(path, b"old")
    gone, alive = (path.with_name(f".shots.png.{process}.tmp") for process in (gone_process(), os.getppid()))
    foreign = path.with_name(".shots.png.mine.tmp")
    for each in (gone, alive, foreign):
        each.write_bytes(b"half")
    with files_up_to(2), pytest.raises(CptliteError, match="no space left"):
        write_alone(path, b"new")
    assert path.read_bytes() == b"old"
    write_alone(path, b"new")
    assert path.read_bytes() == b"new"
    assert sorted(path.parent.iterdir()) == sorted([alive, foreign, path])


# Taken away


@pytest.mark.parametrize("name", ["log.jsonl", "prompts.safetensors", "config.json", "tasks/coins/log.jsonl"])
def test_a_file_that_is_gone_before_the_results_are_written_is_missed(
    bench: RunBench, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    config = least("coop-ca", separate="/" in name)
    evaluate = cptlite.runs.execute.evaluate

    def lose(*arguments: Any, **options: Any) -> Any:
        (path,) = (bench.folder / "lost").rglob(name)
        path.unlink()
        return evaluate(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(cptlite.runs.execute, "evaluate", lose)
        with pytest.raises(CptliteError, match=f"{name}.*which this run wrote"):
            bench.train("lost", config)
    assert not list((bench.folder / "lost").rglob("results.json"))
    for path in (bench.folder / "lost").rglob("*.*"):
        path.unlink(missing_ok=True)


def test_a_log_that_lost_lines_while_it_was_written_ends_no_training(
    bench: RunBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(epochs: float, _: float) -> None:
        if epochs == 1:
            next((bench.folder / "short").rglob("log.jsonl")).unlink()

    with pytest.raises(DataError, match=r"log\.jsonl, got a damaged one \((\d+ lines for \d+ steps|line 1 is damaged)"):
        bench.train("short", least("coop-ca", epochs=2), lose)
    assert not list((bench.folder / "short").rglob("prompts.safetensors"))


# Damaged


def test_a_flipped_bit_in_results_is_never_reported(bench: RunBench) -> None:
    path = bench.train("reported", least("prototype")) / "results.json"
    content = path.read_bytes()
    wanted = load_results([path])
    for bit in places(len(content), 150):
        path.write_bytes(flipped(content, bit))
        try:
            if json.loads(path.read_bytes()) == json.loads(content):
                continue  # a space of the layout became another
        except ValueError:
            pass
        with pytest.raises(DataError, match=r"results\.json (is damaged|is not JSON|holds no)"):
            load_results([path])
    path.write_bytes(content)
    assert load_results([path]) == wanted


@pytest.mark.parametrize("size", [0, 100, 1000])
def test_pictures_are_not_cut_off_by_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    with files_up_to(size), pytest.raises(CptliteError, match="no space left in"):
        draw_suite(tmp_path, rows_per_class={"train": 1, "val": 1, "test": 1})
    assert not (tmp_path / "demo/suite.json").exists() and len(list((tmp_path / "demo").iterdir())) < len(TASKS)
    with files_up_to(size), pytest.raises(OSError):
        draw_photos(tmp_path, 1)


# Shown


@pytest.mark.parametrize("name", ["no\nerror: all is lost", "no\x1b[2J", "no\udc80"])
def test_a_message_is_one_line_that_steers_no_terminal(tmp_path: Path, name: str) -> None:
    for words in (["report", name], ["caches", "--cache-dir", name], ["bench", "--classes", name]):
        done = CliRunner().invoke(app, words)
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == (words[0] != "caches") and "\x1b" not in done.stderr


def test_a_table_steers_no_terminal() -> None:
    from rich.console import Console

    with (console := Console(width=200)).capture() as captured:
        words = ("a\x1b[2Jb", "c\nd")
        console.print(render_table(Table(title="t\x1b[0m", columns=words, rows=(words,), caption="e\x1b\nf")))
    assert "\x1b[2J" not in captured.get() and "\\x1b[2Jb" in captured.get() and "c\\nd" in captured.get()
