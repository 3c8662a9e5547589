"""The paper's table as it is packaged, ours beside it, and what is said of a figure that is not comparable."""

from __future__ import annotations

from typing import Any

import pytest
from result_cases import of_task, run, whole

from cptlite.datasets import load_catalog
from cptlite.errors import DataError
from cptlite.reporting import group_results, line_up, of_the_paper, paper_records, paper_table
from cptlite.reporting.paper import METHOD_OF, PAPER_SHOTS, paper_suite, read_paper, why_not_comparable

PLANT6 = load_catalog().suites["plant6"].datasets
GENERAL10 = load_catalog().suites["general10"].datasets
LIKE_THE_PAPERS = {"views": 8}
ROUNDED_UP = {("plant6", "CoCoOp"), ("fashion20", "ProtoNet")}
"""Whose averages are 0.01 % above the mean of what is printed: they were taken before that was rounded."""


def made(tasks: tuple[str, ...] = GENERAL10, suite: str = "general10", **changes: Any) -> dict[str, Any]:
    """A run as the paper's are but for its scores."""
    options = {
        name: changes.pop(name) for name in list(changes) if name in ("method", "recipe", "variant", "lr", "seed")
    }
    counts = {name: spec.counts[2] if spec.counts else 10 for name, spec in load_catalog().datasets.items()}
    scores = {task: of_task(0.5, **{"rows": counts.get(task, 10)}) for task in tasks}
    result = run(scores, **options)
    caches = {task: LIKE_THE_PAPERS for task in tasks}
    return {**result, "suite": suite, "backbone": "RN50", "caches": caches, "parameters": 81920, **changes}


def why(*results: dict[str, Any], suite: str = "general10") -> list[str]:
    (line,) = line_up(results)
    rows = read_paper()[suite]
    return why_not_comparable(line, rows[METHOD_OF[results[0]["method"], results[0]["variant"]]])


@pytest.mark.parametrize("which", [0, 1], ids=["means", "deviations"])
def test_the_papers_averages_follow_from_its_own_columns(which: int) -> None:
    suites = read_paper()
    assert [len(rows) for rows in suites.values()] == [13] * 4
    for suite, rows in suites.items():
        for row in rows.values():
            if not row.scores:
                assert row.method == "ZS-CLIP"
                continue
            assert tuple(row.scores) == PAPER_SHOTS
            mean = sum(scores[which] for scores in row.scores.values()) / len(PAPER_SHOTS)
            above = row.average[which] - mean
            most = 1e-4 if (suite, row.method) in ROUNDED_UP and not which else 0.5e-4
            assert -0.5e-4 - 1e-9 <= above <= most + 1e-9, (suite, row.method)


def test_every_row_of_the_paper_but_one_is_a_method_here() -> None:
    for rows in read_paper().values():
        assert set(rows) - set(METHOD_OF.values()) == {"SoftCPT*"}


def test_suites_of_the_paper_are_known_by_name_and_by_tasks() -> None:
    assert paper_suite([made()]) == "general10"
    assert paper_suite([made(("dtd", "food101"), "dtd+food101")]) == "general10"
    assert paper_suite([made(("fashion20/hat-type",), "some")]) == "fashion20"
    assert paper_suite([made(("dtd", "leaf"), "dtd+leaf")]) == ""
    assert paper_suite([made(("farms",), "rs8")]) == "rs8"
    with pytest.raises(DataError, match="suite of the paper .general10, plant6, rs8, fashion20., found mine, 3 tasks"):
        of_the_paper(group_results([whole()]))
    kept = of_the_paper(group_results([whole(), made()]))
    assert list(kept) == ["general10, 10 tasks, backbone RN50"]


def test_what_is_like_the_papers_has_no_mark() -> None:
    assert why(made(method="coop-ca"), made(method="coop-ca", seed=2)) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"backbone": "ViT-B/16"}, "backbone: ViT-B/16, the paper's is RN50"),
        ({"recipe": "full"}, "recipe: full, the paper's are released or paper"),
        ({"lr": 0.5}, "options: lr 0.5"),
        ({"config": None}, "configuration: not recorded"),
        ({"caches": {"dtd": {"views": 1}}}, "views: the plain one alone"),
        ({"parameters": 9}, "size: 9 learned numbers, the paper's 81,920"),
        ({"tasks": GENERAL10[1:]}, "tasks: without caltech101"),
        ({"tasks": (*GENERAL10, "leaf")}, "tasks: with leaf, which"),
        ({"method": "prototype"}, "ProtoNet is trained from scratch"),
        ({"method": "plot"}, "a random crop in every epoch"),
        ({"method": "softcpt"}, "presumably made by --recipe released"),
        ({"method": "softcpt", "recipe": "released"}, "task words: this package's"),
    ],
)
def test_what_differs_is_said(changes: dict[str, Any], said: str) -> None:
    runs = [made(**{"method": "coop-ca", **changes, "seed": seed}) for seed in (1, 2)]
    assert [words for words in why(*runs) if said in words], why(*runs)


def test_other_rows_and_a_single_seed_are_said() -> None:
    few = made(method="coop-ca")
    few["tasks"]["dtd"]["rows"] = 40
    assert why(few) == ["rows: 40 to test dtd, its split has 1,692", "seeds: one, the paper's are means over several"]
    plants = made(PLANT6, "plant6", method="coop-ca")
    assert any(words.startswith("rows: the paper's split is not published") for words in why(plants, suite="plant6"))
    farms = made(("farms",), "rs8", method="coop-ca")
    assert {words.split(",")[0] for words in why(farms, suite="rs8")} >= {
        "tasks: 1",
        "tasks: the paper's eight are not published",
    }
    halves = {"base": 0.5, "new": 0.5, "harmonic": 0.5}
    halved = made(method="coop-ca") | {"harmonic": 0.5, **halves}
    assert any(words.startswith("classes: of half of them") for words in why(halved))


def test_the_papers_rows_stand_above_ours() -> None:
    ours = [made(method="coop-ca", seed=seed) | {"shots": shots} for shots in PAPER_SHOTS for seed in (1, 2)]
    zero = made(method="zeroshot") | {"parameters": 0}
    table = paper_table([*ours, zero, made(method="gda")], "ours")
    rows = [row[:2] for row in table.rows]
    assert rows[:3] == [("ZS-CLIP", "paper"), ("zeroshot", "here"), ("", "difference")]
    place = rows.index(("CoOp-CA", "paper"))
    assert rows[place : place + 3] == [("CoOp-CA", "paper"), ("coop-ca", "here"), ("", "difference")]
    assert len(rows) == 13 + 4
    theirs, mine, gap = table.rows[place : place + 3]
    assert theirs[2:] == (
        "59.5 ± 0.8",
        "61.8 ± 0.7",
        "66.2 ± 0.6",
        "70.4 ± 0.3",
        "74.0 ± 0.2",
        "66.4",
        "81,920",
        "49 min 31 s",
        "",
    )
    assert mine[2:9] == (*["50.0 ± 0.0"] * 5, "50.0", "81,920") and mine[-1] == ""
    assert gap[2:8] == ("-9.5", "-11.8", "-16.2", "-20.4", "-24.0", "-16.4")
    assert table.rows[1][7] == "50.0" and table.rows[2][7] == "-8.3", "zero-shot has an average alone"
    assert "not in the paper's table: gda" in table.caption


def test_marks_are_numbers_that_the_caption_explains() -> None:
    ours = [made(method=method, backbone="demo") for method in ("coop-ca", "coop-mt")]
    table = paper_table(ours, "ours")
    marks = {row[0]: row[-1].split() for row in table.rows if row[1] == "here"}
    for numbers in marks.values():
        assert numbers and all(f"\n{number}: " in table.caption for number in numbers)
    assert (
        "1: backbone: demo, the paper's is RN50" in table.caption and marks["coop-ca"][0] == marks["coop-mt"][0] == "1"
    )


def test_records_hold_both() -> None:
    records = list(paper_records([made(method="coop-ca"), made(method="zeroshot"), made(method="gda")], "ours"))
    assert [(record["method"], record["shots"], record["paper"]["method"]) for record in records] == [
        ("zeroshot", 0, "ZS-CLIP"),
        ("coop-ca", 4, "CoOp-CA"),
    ]
    assert records[1]["paper"]["mean"] == pytest.approx(0.6622)
    assert records[1]["difference"] == pytest.approx(0.5 - 0.6622)
    assert records[1]["not_comparable"] == ["seeds: one, the paper's are means over several"]
