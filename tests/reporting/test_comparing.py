"""Paired differences, their intervals, ranks: against figures worked out here, and what single runs cannot say."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from result_cases import TASKS, base, of_task, run, whole
from scipy.stats import t

from cptlite.errors import DataError
from cptlite.metrics import paired_interval
from cptlite.reporting import comparison_tables, find_line, line_up, rank_table, summary_table
from cptlite.reporting.comparing import (
    SUITE,
    SUITE_OVER_TASKS,
    bootstrap_interval,
    compare_lines,
    mean_ranks,
    pair_runs,
    seeds_needed,
    shared_shots,
)
from cptlite.reporting.records import comparison_records, summary_records
from cptlite.reporting.results import Result
from cptlite.reporting.summaries import Line

GAPS = {1: 0.02, 2: 0.05, 3: 0.02}
ZERO = whole(9, method="zeroshot")


def several() -> list[Result]:
    """Two methods over three seeds, one further ahead on each of them; a seed that one of them lacks; zero-shot."""
    ones = [whole(seed, gap, method="coop-ca") for seed, gap in GAPS.items()]
    return [*ones, *(whole(seed, 0.01 * seed) for seed in (1, 2, 3, 4)), ZERO]


def runs_of(scores: dict[str, tuple[float, float, float]]) -> list[Result]:
    """One run a method, of these scores by task."""
    return [
        run({task: of_task(score) for task, score in zip(TASKS, of_method, strict=True)}, method=method)
        for method, of_method in scores.items()
    ]


def pair(one: str = "coop-ca", other: str = "coop-mt") -> tuple[Line, Line]:
    lines = line_up(several())
    return find_line(lines, one), find_line(lines, other)


def test_runs_pair_up_by_seed() -> None:
    one, other = pair()
    assert shared_shots(one, other) == [4] and list(pair_runs(one, other, 4)) == [1, 2, 3]
    for seed, (mine, yours) in pair_runs(one, other, 4).items():
        assert (mine["seed"], yours["seed"], mine["method"]) == (seed, seed, "coop-ca")


def test_what_uses_no_shots_goes_with_any() -> None:
    for names in (("zeroshot", "coop-mt"), ("coop-mt", "zeroshot")):
        lines = pair(*names)
        assert shared_shots(*lines) == [4]
        assert list(pair_runs(*lines, 4)) == [1, 2, 3, 4]
    zero = pair("zeroshot")[0]
    assert shared_shots(zero, zero) == [0] and list(pair_runs(zero, zero, 0)) == [9]


@pytest.mark.parametrize("other", [whole(2, method="coop-ca"), whole(method="gda") | {"shots": 1}])
def test_runs_of_no_common_seed_or_shots_are_not_compared(other: Result) -> None:
    with pytest.raises(DataError, match="of the same shots and seeds, found none that .* share: train some"):
        list(comparison_tables(line_up([whole(), other]), "mine"))


def test_a_difference_is_a_mean_over_pairs() -> None:
    compared = {each.what: each for each in compare_lines(*pair(), 4)}
    assert list(compared) == [*TASKS, SUITE, SUITE_OVER_TASKS]
    suite = compared[SUITE]
    differences = [gap - 0.01 * seed for seed, gap in GAPS.items()]
    assert suite.difference == pytest.approx(np.mean(differences)) == pytest.approx(suite.one - suite.other)
    assert suite.seeds == (1, 2, 3)
    assert suite.t_interval == pytest.approx(paired_interval(differences, [0.0] * 3)[1:])
    assert suite.interval and suite.interval[0] == pytest.approx(min(differences))
    assert suite.interval[1] == pytest.approx(max(differences))
    assert suite.seeds_needed == seeds_needed(differences)


def test_over_tasks_the_pairs_are_tasks() -> None:
    scores = {"coop-ca": (0.5, 0.6, 0.9), "coop-mt": (0.4, 0.6, 0.5)}
    runs = runs_of(scores)
    lines = line_up(runs)
    *_, suite, over_tasks = compare_lines(find_line(lines, "coop-ca"), find_line(lines, "coop-mt"), 4)
    assert suite.interval is None and suite.t_interval is None and suite.seeds_needed is None
    assert over_tasks.interval == bootstrap_interval(*scores.values())
    assert over_tasks.t_interval == pytest.approx(paired_interval(*scores.values())[1:])
    (table,) = comparison_tables(lines, "mine")
    assert "of the one seed 1: no interval over seeds, one over tasks" in table.caption
    assert [row[4] for row in table.rows[:4]] == [""] * 4 and table.rows[4][4].startswith("[")


def test_the_bootstrap_is_that_of_every_draw() -> None:
    ones, others = [0.5, 0.8, 0.9, 0.6], [0.4, 0.4, 0.8, 0.7]
    differences = np.subtract(ones, others)
    means = [np.mean(draw) for draw in product(differences, repeat=4)]  # all 256, each as likely
    low, high = bootstrap_interval(ones, others)
    assert (low, high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.013)
    assert (low, high) == bootstrap_interval(ones, others), "the same each time"
    assert bootstrap_interval([0.5, 0.6], [0.4, 0.5]) == pytest.approx((0.1, 0.1))
    assert bootstrap_interval([0.5, 0.5], [0.5, 0.5]) == (0.0, 0.0)


@pytest.mark.parametrize("differences", [[0.01, 0.02, 0.03], [0.01, -0.02, 0.005, 0.1], [-0.1, -0.1001], [0.001, 0.2]])
def test_seeds_needed_are_the_fewest(differences: list[float]) -> None:
    count = seeds_needed(differences)
    assert count is not None and count >= 2

    def leaves_zero_out(number: int) -> bool:
        half = t.ppf(0.975, number - 1) * np.std(differences, ddof=1) / number**0.5
        return bool(half < abs(np.mean(differences)))

    assert leaves_zero_out(count) and (count == 2 or not leaves_zero_out(count - 1))


def test_seeds_needed_at_the_ends() -> None:
    assert seeds_needed([0.02, 0.02]) == 2
    assert seeds_needed([0.1, -0.1]) is None
    assert seeds_needed([0.3 - 0.1, 0.1 - 0.3]) is None


def test_ranks_are_within_tasks_and_shared_where_equal() -> None:
    scores = {"coop-ca": (0.9, 0.5, 0.1), "coop-mt": (0.8, 0.5, 0.3), "kgcoop": (0.1, 0.5, 0.2)}
    runs = runs_of(scores)
    lines = line_up(runs)
    ranks = {lines[place].method: rank for place, rank in mean_ranks(lines, 4).items()}
    assert ranks == pytest.approx({"coop-ca": (1 + 2 + 3) / 3, "coop-mt": (2 + 2 + 1) / 3, "kgcoop": (3 + 2 + 2) / 3})
    assert mean_ranks(lines, 16) == {}
    table = rank_table([*runs, runs[0] | {"shots": 16}], "mine")
    assert table.columns == ("method", "4 shots, of 3", "16 shots, of 1")
    assert table.rows[0] == ("coop-ca", "2.00", "1.00") and table.best == {(1, 1)}
    assert rank_table([ZERO], "mine").rows == (("zeroshot", "1.00"),)


def test_a_comparison_is_a_table() -> None:
    (table,) = comparison_tables(pair(), "mine")
    assert table.title == "coop-ca - coop-mt, mine, 4 shots (%)"
    assert [row[0] for row in table.rows] == [*TASKS, "suite score", "suite score, over tasks"]
    assert table.rows[3][1:5] == ("53.0", "52.0", "+1.0", "[-1.0, +3.0]")
    assert "paired by seed (1, 2, 3)" in table.caption and "9,999 draws" in table.caption
    assert table.best == {(4, 3)}, "the three tasks do not differ from each other"
    ahead = [whole(seed, 0.05 + seed / 1e4, method="coop-ca") for seed in (1, 2)]
    (sure,) = comparison_tables(line_up([whole(1), whole(2), *ahead]), "mine")
    assert {row for row, _ in sure.best} >= {0, 1, 2, 3} and sure.rows[3][6] == "2"


def test_differences_have_columns() -> None:
    table = summary_table(several(), "mine", against="coop-mt")
    assert table.columns == ("method", "no shots", "4 shots", "Δ 4 shots", "learned", "time")
    gaps = {row[0]: row[3] for row in table.rows}
    assert gaps == {"zeroshot": "-2.5 ± 1.3", "coop-mt": "", "coop-ca": "+1.0 ± 2.0"}
    assert "Δ: the same of the difference from coop-mt, paired by seed" in table.caption


def test_of_new_classes_the_suites_own_scores_are_compared() -> None:
    one, other = line_up([base(0.3), base(0.4, method="coop-ca")])
    compared = {each.what: each for each in compare_lines(one, other, 4)}
    scores = [next(iter(line.runs[4].values()))["suite_score"] for line in (one, other)]
    assert compared[SUITE].difference == pytest.approx(scores[0] - scores[1])


def test_records_say_the_same() -> None:
    records = list(summary_records(several(), "mine", "coop-mt", ranks=True))
    by_method = {record["method"]: record for record in records}
    assert by_method["coop-ca"]["difference"]["mean"] == pytest.approx(0.01)
    assert by_method["coop-ca"]["difference"]["seeds"] == 3 and "difference" not in by_method["coop-mt"]
    assert by_method["coop-ca"]["mean_rank"] == 1.0 and by_method["coop-ca"]["tasks"]["leaf"][0] == pytest.approx(0.23)
    assert [record["what"] for record in comparison_records(pair(), "mine")] == [*TASKS, SUITE, SUITE_OVER_TASKS]
