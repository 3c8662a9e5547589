"""The HTML page: words of files in it, where it leads, its bytes, what it refuses; its numbers are tested beside."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import pytest
from page_runs import CLASSES, ENVIRONMENT, Reader, file_run, file_suite, page_of, runs_by_id
from typer.testing import CliRunner

from cptlite.cli import app
from cptlite.errors import DataError, UsageError
from cptlite.reporting import load_results
from cptlite.reporting.page import libraries, write, write_page
from cptlite.reporting.page.markup import sort_value

pytestmark = pytest.mark.usefixtures("one_bundle")

HOSTILE = "</script><img src=x onerror=alert(1)>"
EXPRESSIONS = (
    '{"signal": "alert(1)"}',
    "datum.x",
    "'+alert(1)+'",
    "]]><!--<script>",
    "\u2028\x1b[31m",
    "a\tb",
    "$body",
)


def test_of_many_classes_those_with_mistakes_are_shown(tmp_path: Path) -> None:
    names = tuple(f"class {number}" for number in range(60))
    folder = file_run(tmp_path / "runs", named={"many": names})
    text, read = page_of(tmp_path / "runs")
    (data,) = (chart["data"] for chart in read.charts["charts"] if chart["spec"] == "matrix")
    assert "40 of 60 classes, those with the most mistakes" in text
    wrong: Counter[str] = Counter()
    for row in csv.DictReader((folder / "predictions.csv").read_text(encoding="utf-8").splitlines()):
        if row["label"] != row["predicted"]:
            wrong.update((row["label"], row["predicted"]))
    assert len(data["names"]) == 40 and data["names"] == sorted(data["names"], key=names.index)
    assert min(wrong[name] for name in data["names"]) >= max(wrong[name] for name in {*names} - {*data["names"]})


def test_runs_without_predictions_configuration_or_a_folder(tmp_path: Path) -> None:
    (folder,) = (file_run(tmp_path / "runs", predictions=False),)
    (folder / "config.json").unlink()
    _, read = page_of(tmp_path / "runs")
    assert "What is taken for what" not in read.headings and read.policy
    (result,) = map(dict, load_results([tmp_path / "runs"]))
    bare = {key: value for key, value in result.items() if key not in ("folder", "config", "caches", "files")}
    text = write_page([bare], tmp_path / "bare.html").read_text(encoding="utf-8")
    assert "folder not recorded" in text and "Not recorded." in text


def test_each_number_leads_to_machine_and_fingerprint(tmp_path: Path) -> None:
    file_suite(tmp_path / "runs")
    text, read = page_of(tmp_path / "runs")
    for link in read.links:
        assert link.removeprefix("#") in read.ids if link.startswith("#") else (tmp_path / unquote(link)).is_file()
    assert len(read.ids) == len({*read.ids})
    (made,) = {cells["made with"].link for pairs in runs_by_id(read, tmp_path).values() for _, cells in pairs}
    (features,) = {cells["features"].link for pairs in runs_by_id(read, tmp_path).values() for _, cells in pairs}
    record = text[text.index(f'id="{made[1:]}"') :]
    assert all(f"<dt>{name}</dt><dd>{value}</dd>" in record for name, value in ENVIRONMENT.items())
    assert all(f"{task}-split" in text[text.index(f'id="{features[1:]}"') :] for task in CLASSES)
    assert "ab" * 32 in text


def test_words_of_files_stay_words(tmp_path: Path) -> None:
    hostile = (HOSTILE, *EXPRESSIONS)
    root = tmp_path / "runs"
    named = {HOSTILE + "task": hostile, **{f"{words}{number}": hostile for number, words in enumerate(EXPRESSIONS)}}
    file_run(root, named=named)
    file_run(root, named=named, context_init=HOSTILE, seed=2)
    names = {"method": HOSTILE, "suite": HOSTILE, "backbone": EXPRESSIONS[0], "variant": EXPRESSIONS[3]}
    results = load_results([root])
    file = write_page([*results, *({**each, **names} for each in results)], tmp_path / "page.html", title=HOSTILE)
    text = file.read_text(encoding="utf-8")
    read, own = Reader(text), text[: text.index('<script type="module">')]
    assert Counter(read.tags)["script"] == 3 == text.count("</script")
    assert [tag for tag in read.tags if tag not in TAGS] == []
    assert "<img" not in own and "<!--" not in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u2028]", own)
    assert HOSTILE in read.charts["charts"][-1]["data"]["names"]  # as data, whole
    specs = json.dumps(read.charts["specs"])
    assert "alert" not in specs and "onerror" not in specs and "datum.x" not in specs


TAGS = set(
    "html head meta title style body header nav h1 h2 h3 h4 p a main section div table thead tbody tr th td button "
    "span svg path ul li details summary dl dt dd code footer script".split()
)


def test_the_policy_allows_its_own_scripts_alone(tmp_path: Path) -> None:
    file_run(tmp_path / "runs")
    _, read = page_of(tmp_path / "runs")
    rules = dict(rule.strip().split(" ", 1) for rule in read.policy.split(";"))
    assert rules.pop("default-src") == "'none'" and "unsafe" not in read.policy and "http" not in read.policy
    assert len(rules["script-src"].split()) == 2 and all(
        each.startswith("'sha256-") for each in rules["script-src"].split()
    )
    assert rules.keys() == {"script-src", "style-src", "base-uri", "form-action"}


def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    file_suite(tmp_path / "runs")
    first, _ = page_of(tmp_path / "runs")
    assert page_of(tmp_path / "runs")[0] == first
    assert len(first) < 1_500_000


@pytest.mark.slow
def test_another_process_writes_the_same_bytes(tmp_path: Path) -> None:
    file_suite(tmp_path / "runs")
    first, _ = page_of(tmp_path / "runs")
    words = [sys.executable, "-m", "cptlite", "report", "runs", "--html", "other.html"]
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)  # which hashes text otherwise
    assert (tmp_path / "other.html").read_text(encoding="utf-8") == first


def test_damage_is_said(tmp_path: Path) -> None:
    folder = file_run(tmp_path / "runs")
    for name in ("predictions.csv", "config.json"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole + b" ")
        with pytest.raises(DataError, match=rf"{name}, got another file"):
            page_of(tmp_path / "runs")
        (folder / name).write_bytes(whole)
    assert not (tmp_path / "page.html").exists()


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file_run(tmp_path / "runs")
    monkeypatch.setattr(write, "vega_bundle", libraries.vega_bundle)
    for name in ("altair", "vl_convert"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(UsageError, match=r"pip install 'cptlite\[html\]'"):
                page_of(tmp_path / "runs")
            done = CliRunner().invoke(app, ["report", str(tmp_path / "runs"), "--html", str(tmp_path / "page.html")])
            assert done.exit_code == 2 and "cptlite[html]" in done.stderr
    assert not (tmp_path / "page.html").exists()


def test_the_command_writes_what_its_filter_leaves(tmp_path: Path) -> None:
    file_suite(tmp_path / "runs")
    words = ["report", str(tmp_path / "runs"), "--method", "softcpt", "--html", str(tmp_path / "new/page.html")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.stderr
    assert "written: " in done.stderr and "softcpt-nata" in done.stdout
    text = (tmp_path / "new/page.html").read_text(encoding="utf-8")
    assert "<p>1 run of 1 method on backbone demo, made by cptlite 0.1.0 at abc1234.</p>" in text
    assert "coop-mt" not in text[: text.index('<script type="module">')]
    taken = CliRunner().invoke(app, [*words[:-1], str(tmp_path)])
    assert taken.exit_code == 2 and "a folder" in taken.stderr


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("63.2 ± 1.4", "63.2"),
        ("262,656", "262656"),
        ("12 ms", "0.012"),
        ("0.42 s", "0.42"),
        ("3 min 20 s", "200"),
        ("38 h", "136800"),
        ("", ""),
        ("none", ""),
    ],
)
def test_figures_sort_by_what_they_stand_for(words: str, value: str) -> None:
    assert sort_value(words) == value
