"""``cptlite report``: forms, filters, comparisons, the paper's table; what does not go together is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from result_cases import TASKS, fold, of_task, run, whole
from typer.testing import CliRunner

from cptlite.cli import app

REPOSITORY = Path(__file__).parents[2]
STEERING = "a|b\x1b[31m & $x_y$ =1+1"


def store(runs: Path, results: list[dict[str, Any]]) -> Path:
    for number, result in enumerate(results):
        (runs / str(number)).mkdir(parents=True)
        (runs / str(number) / "results.json").write_text(json.dumps(result))
    return runs


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two methods over two seeds at two numbers of shots, one of them in a second configuration; zero-shot."""
    results = [
        whole(seed, 0.01 * seed * shots, method=method) | {"shots": shots}
        for method in ("coop-mt", "coop-ca")
        for shots in (1, 4)
        for seed in (1, 2)
    ]
    return store(tmp_path / "runs", [*results, whole(1, 0.05, lr=0.5), whole(method="zeroshot")])


def call(*words: Any, code: int = 0) -> Any:
    done = CliRunner().invoke(app, ["report", *map(str, words)])
    assert done.exit_code == code, done.output
    return done


def records(*words: Any) -> list[dict[str, Any]]:
    return json.loads(call(*words, "--json").stdout)["results"]


def test_a_table_kept_as_csv_is_the_table_of_the_runs(runs: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.csv"
    kept.write_text(call(runs, "--format", "csv").stdout)
    for words in ((), ("--tasks",), ("--ranks",), ("--format", "latex"), ("--against", "coop-ca"), ("--seed", "2")):
        assert call(kept, *words).stdout == call(runs, *words).stdout
    assert records(kept) == records(runs)


def test_forms(runs: Path) -> None:
    page = call(runs, "--tasks", "--format", "markdown").stdout
    assert page.startswith("| mine, 3 tasks, backbone demo (%) | differs | no shots |")
    assert page.count("\n\n| mine, 3 tasks, backbone demo at ") == 2, "tables are apart"
    assert call(runs, "--tasks", "--format", "latex").stdout.count("\\begin{tabular}") == 3
    assert call(runs, "--format", "csv").stdout.count("\n") == 1 + 10 * 3 * 2
    assert call(runs, "--format", "json").stdout == call(runs, "--json").stdout


def test_words_of_files_steer_neither_pages_nor_tables(tmp_path: Path) -> None:
    results = [run({STEERING: of_task(0.5), "leaf": of_task(0.4)}) | {"suite": STEERING}]
    folder = store(tmp_path / "runs", results)
    for form in ("terminal", "markdown", "latex", "csv"):
        words = () if form == "csv" else ("--tasks",)
        printed = call(folder, "--format", form, *words).stdout
        assert all(line.isprintable() for line in printed.split("\n")), form
    assert "a\\|b\\\\x1b\\[31m & \\$x_y\\$" in call(folder, "--format", "markdown").stdout
    assert "a\\textbar{}b\\textbackslash{}x1b{[}31m \\& \\$x\\_y\\$" in call(folder, "--format", "latex").stdout


def test_filters(runs: Path) -> None:
    def found(*words: str) -> set[tuple[str, Any, tuple[int, ...]]]:
        return {(each["method"], each["shots"], tuple(each["seeds"])) for each in records(runs, *words)}

    zero = ("zeroshot", 0, (1,))
    assert found("-m", "coop-ca", "--shots", "4") == {("coop-ca", 4, (1, 2))}
    assert found("--shots", "4", "--seed", "2") == {("coop-ca", 4, (2,)), ("coop-mt", 4, (2,)), zero}
    assert found("--where", "lr=0.5") == {("coop-mt", 4, (1,))}
    assert found("--suite", "mine", "--backbone", "demo") == found()
    (leaf, *_) = records(runs, "--task", "leaf", "-m", "zeroshot")
    assert leaf["group"] == "mine, 1 task, backbone demo" and leaf["mean"] == TASKS["leaf"]
    for words in (
        ("--task", "leef"),
        ("--suite", "his"),
        ("--backbone", "RN50"),
        ("--shots", "3"),
        ("--where", "lr=9"),
    ):
        assert "wanted runs" in call(runs, *words, code=3).stderr


def test_differences_and_ranks(runs: Path) -> None:
    table = call(runs, "--against", "coop-ca", "--ranks", "--format", "markdown").stdout
    assert "| Δ 1 shot | Δ 4 shots |" in table and "| Mean rank, mine" in table
    (one,) = [each for each in records(runs, "--against", "coop-ca", "--ranks") if each["differs"] == "lr 0.5"]
    assert one["difference"] == {"from": "coop-ca", "mean": pytest.approx(0.01), "std": 0.0, "seeds": 1}
    assert one["mean_rank"] == 3.0
    assert "'coop-mt', which 2 have" in call(runs, "--against", "coop-mt", code=2).stderr
    assert "wanted 'gda', found" in call(runs, "--against", "gda", code=3).stderr


def test_a_group_without_the_method_is_named_and_the_others_are_printed(runs: Path) -> None:
    folder = store(runs.parent / "more", [fold(task, method="softcpt") for task in TASKS])
    done = call(runs, folder, "--against", "coop-ca", "--format", "markdown")
    assert "mine, unseen: 3 tasks, each left out in turn, backbone demo: wanted 'coop-ca'" in done.stderr
    assert done.stdout.count("\n|---") == 2 and done.stdout.count("Δ 4 shots") == 1


def test_two_methods_are_compared(runs: Path) -> None:
    page = call(runs, "--compare", "coop-ca", "coop-mt (lr 0.002)", "--format", "markdown").stdout
    assert page.count("| coop-ca - coop-mt (lr 0.002), mine, 3 tasks, backbone demo, ") == 2
    found = records(runs, "--compare", "coop-ca", "zeroshot", "--shots", "4")
    assert [each["what"] for each in found] == [*TASKS, "suite score", "suite score, over tasks"]
    assert {each["shots"] for each in found} == {4} and {tuple(each["seeds"]) for each in found} == {(1, 2)}
    assert found[0]["difference"] == pytest.approx(0.06) and found[0]["interval"] == pytest.approx([0.04, 0.08])


def test_the_papers_table(tmp_path: Path) -> None:
    ours = [whole(seed, method="coop-ca") | {"suite": "plant6", "backbone": "RN50"} for seed in (1, 2)]
    folder = store(tmp_path / "runs", ours)
    printed = " ".join(call(folder, "--paper").stdout.split())
    assert "The paper's plant6 beside plant6, 3 tasks, backbone RN50 (%)" in printed
    assert "1: tasks: without fruit_vegetable" in printed
    (record,) = records(folder, "--paper")
    assert record["paper"]["method"] == "CoOp-CA" and len(record["not_comparable"]) > 2
    assert "--paper out" in call(store(tmp_path / "mine", [whole()]), "--paper", code=3).stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--json", "--format", "latex"), "got --json and --format latex"),
        (("--compare", "a", "b", "--paper"), "got --compare and --paper"),
        (("--paper", "--tasks"), "got --paper and --tasks"),
        (("--compare", "a", "b", "--against", "a"), "got --compare and --against"),
        (("--format", "csv", "--ranks"), "not of tables such as --ranks"),
        (("--shots", "some"), "--shots wants whole numbers"),
        (("--seed", "1.5"), "--seed wants whole numbers"),
        (("--where", "lr"), "--where wants option=value"),
        (("--format", "word"), "word"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    assert message in call(tmp_path, *words, code=2).stderr


@pytest.mark.slow
def test_curves_of_the_suite_and_of_each_task(runs: Path, tmp_path: Path) -> None:
    done = call(runs, "--out", tmp_path / "drawn")
    drawn = sorted((tmp_path / "drawn").iterdir())
    assert [path.name for path in drawn] == ["shots.png", "tasks.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") and str(path) in done.stderr for path in drawn)


def test_the_page_on_reports_shows_what_is_printed() -> None:
    page = (REPOSITORY / "docs/report.md").read_text(encoding="utf-8")
    shown = re.findall(r"```console\n\$ cptlite report demo/runs (.*)\n((?:(?!```).*\n)+)", page)
    assert len(shown) == 2
    for words, printed in shown:
        command = ["report", str(REPOSITORY / "bench/results/demo.csv"), *words.split()]
        done = CliRunner().invoke(app, command, env={"COLUMNS": "112"})
        assert [line.rstrip() for line in done.stdout.rstrip().split("\n")] == printed.rstrip().split("\n"), words
