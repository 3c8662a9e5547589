"""Which runs a report is of, and which line a name means."""

from __future__ import annotations

from typing import Any

import pytest
from result_cases import TASKS, base, fold, whole

from cptlite.errors import DataError, UsageError
from cptlite.reporting import Wanted, choose_results, find_line, group_results, line_up

ZERO = whole(method="zeroshot")
RUNS = [whole(), whole(2), whole(lr=0.5) | {"shots": 1}, whole(method="coop-ca") | {"suite": "yours"}, ZERO]


def places(wanted: Wanted, runs: list[Any] = RUNS) -> list[int]:
    """Places of the runs that are chosen, which are the same objects."""
    chosen = choose_results(runs, wanted)
    return [place for place, run in enumerate(runs) if any(run is each for each in chosen)]


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        (Wanted(), [0, 1, 2, 3, 4]),
        (Wanted(methods=("coop-ca", "gda")), [3]),
        (Wanted(suites=("mine",)), [0, 1, 2, 4]),
        (Wanted(backbones=("demo",)), [0, 1, 2, 3, 4]),
        (Wanted(shots=(1,)), [2, 4]),
        (Wanted(seeds=(2,)), [1, 4]),
        (Wanted(shots=(4,), seeds=(1,)), [0, 3, 4]),
        (Wanted(where={"lr": ("0.5",)}), [2]),
        (Wanted(where={"lr": ("5e-1",)}), [2]),
        (Wanted(where={"lr": ("0.5", "0.002"), "context-length": ("16",)}), [0, 1, 2, 3]),
        (Wanted(where={"separate": ("no",)}), [0, 1, 2, 3]),
        (Wanted(tasks=tuple(TASKS)), [0, 1, 2, 3, 4]),
    ],
)
def test_what_is_wanted_is_kept(wanted: Wanted, kept: list[int]) -> None:
    assert places(wanted) == kept


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Wanted(methods=("gda",)), "wanted runs of gda, found those of coop-mt, coop-ca, zeroshot"),
        (Wanted(suites=("mine", "his")), "of suite mine, his, found those of mine, yours"),
        (Wanted(backbones=("RN50",)), "of backbone RN50, found those of demo"),
        (Wanted(shots=(3,)), "with shots 3, found those of 4, 1"),
        (Wanted(seeds=(1, 9)), "with seed 1, 9, found those of 1, 2"),
        (Wanted(tasks=("leef",)), "over task leef, found those of leaf, coin, shell"),
        (Wanted(where={"lrr": ("1",)}), "got 'lrr': did you mean 'lr'?"),
        (Wanted(where={"lr": ("7",)}), "where lr is 7, found those of lr 0.002, lr 0.5"),
    ],
)
def test_what_is_not_there_is_named(wanted: Wanted, message: str) -> None:
    with pytest.raises(DataError) as caught:
        choose_results(RUNS, wanted)
    assert message in str(caught.value)


def test_a_score_over_some_tasks_is_their_mean() -> None:
    (one,) = choose_results([whole()], Wanted(tasks=("coin", "shell")))
    assert list(one["tasks"]) == ["coin", "shell"] and one["suite_score"] == pytest.approx(0.65)
    (halves,) = choose_results([base()], Wanted(tasks=("coin",)))
    assert halves["suite_score"] == pytest.approx(0.32) and halves["base"] == 0.8


def test_tasks_that_were_learned_from_are_no_result_of_one_held_out() -> None:
    folds = [fold(task) for task in TASKS]
    chosen = choose_results(folds, Wanted(tasks=("leaf", "coin")))
    assert [[task for task, scores in run["tasks"].items() if scores.get("held_out")] for run in chosen] == [
        ["leaf"],
        ["coin"],
    ]
    ((_, (joined,)),) = group_results(chosen).items()
    assert joined["suite_score"] == pytest.approx(0.3)
    with pytest.raises(DataError, match="that hold out task coin"):
        choose_results([fold("leaf")], Wanted(tasks=("coin",)))


def test_a_name_finds_one_line() -> None:
    lines = line_up([whole(), whole(lr=0.5), whole(method="softcpt"), whole(method="softcpt", recipe="full"), ZERO])
    for name in ("softcpt-nata", "softcpt-nata-full", "zeroshot", "coop-mt (lr 0.5)"):
        assert find_line(lines, name).label == name
    with pytest.raises(
        UsageError, match=r"'coop-mt', which 2 have: give 'coop-mt \(lr 0.002\)' or 'coop-mt \(lr 0.5\)'"
    ):
        find_line(lines, "coop-mt")
    with pytest.raises(UsageError, match="give 'softcpt-nata' or 'softcpt-nata-full'"):
        find_line(lines, "softcpt")
    with pytest.raises(DataError, match="wanted 'gda', found .*zeroshot"):
        find_line(lines, "gda")
