"""How many numbers each method learns: the table's formulas against the methods, and against the paper's figures.

Axes: T tasks, K classes of all tasks, N training rows, L, M, Mc context tokens of class, task and class-feature
prompts, P prompts a class, Q channels kept, W text width, D joint dimension, I input of the tower's projection,
H hidden width of CoCoOp's net, G of TCP's.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from golden_cases import golden_backbone, make_task, text_encoder
from parameter_table import ROWS, SUITES, count, formula_of, markdown, our_count, paper_counts
from started import Started

from cptlite.methods.base import FewShotRows, Problem
from cptlite.methods.entry import MethodEntry
from cptlite.methods.prompts.softcpt import VARIANTS, SoftCPT, SoftCPTOptions
from cptlite.methods.table import METHODS

TABLE = Path(__file__).parents[2] / "docs/results.md"
MC = 7
SIZES = {"T": 2, "K": 5, "N": 20, "L": 3, "M": 6, "P": 4, "Q": 25, "W": 128, "D": 32, "I": 32, "H": 2, "G": 8}
LENGTHS = {"context_length": SIZES["L"], "task_context_length": SIZES["M"], "class_context_length": MC}
STEPPED = {name: entry for name, entry in METHODS.items() if entry.stepped}
FITTED = {name: entry for name, entry in METHODS.items() if not entry.stepped}

QUICK = {
    "cross-modal": {"steps": 2},
    "lp++": {"epochs": 2},
    "tip-adapter-f": {"epochs": 1},
    "ape-t": {"epochs": 1},
    "zs-lp": {"epochs": 2},
    "clap": {"epochs": 2},
    "rla": {"epochs": 2},
    "prolip": {"epochs": 2},
    "tes-heads": {"epochs": 2},
}


@pytest.fixture
def problem() -> Problem:
    tower = golden_backbone().text_tower
    assert (tower.width, tower.projection.shape[1]) == (SIZES["W"], SIZES["D"])
    tasks = (make_task("animal", ["cat", "dog"]), make_task("fruit", ["fig", "kiwi", "plum"]))
    return Problem(tasks=tasks, text=text_encoder("fused"))


@pytest.mark.parametrize("entry", METHODS.values(), ids=METHODS)
def test_every_method_says_what_users_compare(entry: MethodEntry) -> None:
    assert entry.learns and entry.cached and entry.parameters and re.search(r"et al\., .+ 20\d\d$", entry.source)


def test_formulas_are_added_products() -> None:
    assert count("K D + 2 K", {"K": 3, "D": 10}) == 36
    assert count("0", {}) == 0


@pytest.mark.parametrize("entry", STEPPED.values(), ids=STEPPED)
def test_prompt_methods_learn_what_the_table_says(problem: Problem, entry: MethodEntry) -> None:
    known = {each.name for each in entry.list_options()}
    given = {name: value for name, value in {**LENGTHS, "context_init": ""}.items() if name in known}
    problems = [replace(problem, tasks=(task,)) for task in problem.tasks] if entry.separate else [problem]
    methods = [Started(entry.method(each, entry.new_options(**given))) for each in problems]
    assert sum(method.num_parameters() for method in methods) == count(entry.parameters, SIZES)


@pytest.mark.parametrize("name", FITTED)
def test_probes_learn_what_the_table_says(problem: Problem, name: str) -> None:
    entry = METHODS[name]
    labels = torch.arange(SIZES["N"]) % SIZES["K"]
    rows = FewShotRows(features=torch.randn(SIZES["N"], 2, SIZES["D"]), labels=labels)
    probe = entry.probe(name, entry.new_options(**QUICK.get(name, {})))
    learned = probe.fit(problem, rows, rows, torch.Generator())
    assert learned.num_parameters == count(entry.parameters, SIZES)


@pytest.mark.parametrize(
    ("variant", "sub_network", "frozen"),
    [
        case
        for case in product(VARIANTS, ("lin", "linmean", "lincls"), (False, True))
        if VARIANTS[case[0]][0] or not case[2]  # the others are refused
    ],
)
def test_softcpt_learns_u_v_and_p(problem: Problem, variant: str, sub_network: str, frozen: bool) -> None:
    """The shapes of the three learnables: U (M, W) or (T, M, W), V (Mc, W) or (K, Mc, W), P (D, L W) or (2D, L W)."""
    has_class_features = variant != "nata" and variant != "nats"
    options = SoftCPTOptions(**LENGTHS, variant=variant, sub_network=sub_network, freeze_class_context=frozen)
    u = "T M W" if variant.endswith("ts") else "M W"
    v = {"c": "K V W" if variant.startswith("cs") else "V W", "n": "0"}[variant[0]] if not frozen else "0"
    p = "2 D L W" if has_class_features and sub_network == "lin" else "D L W"
    wanted = count(f"{u} + {v} + {p}", SIZES | {"V": MC})
    assert Started(SoftCPT(problem, options)).num_parameters() == wanted


# The paper's table, RN50


def same(name: str) -> set[str]:
    """Suites on which ours is the paper's figure."""
    return {suite for suite, figures in paper_counts().items() if figures[name] == our_count(ROWS[name], suite)}


def test_every_row_of_the_papers_table_has_one_here() -> None:
    for figures in paper_counts().values():
        assert list(figures) == list(ROWS)


@pytest.mark.parametrize("name", ["CoOp-CA", "CoOp-CS", "CoOp-MT", "CoCoOp", "ProGrad", "KgCoOp"])
def test_counts_that_are_the_papers(name: str) -> None:
    assert same(name) == set(SUITES)


def test_plots_count_is_the_papers_where_that_has_four_prompts() -> None:
    assert same("PLOT") == set(SUITES) - {"general10"}
    assert our_count(ROWS["PLOT"], "general10", P=2) == paper_counts()["general10"]["PLOT"]


def test_softcpts_counts_are_the_papers_with_eight_task_tokens() -> None:
    nata, nats = ROWS["SoftCPT-NATA"], ROWS["SoftCPT-NATS"]
    assert not same("SoftCPT-NATA") and not same("SoftCPT-NATS")
    for suite, figures in paper_counts().items():
        assert our_count(nata, suite, M=8) == figures["SoftCPT-NATA"]
        assert our_count(nats, suite, M=8, T=8) == figures["SoftCPT-NATS"]


def test_a_formula_of_the_tables_own_is_that_of_the_methods() -> None:
    for row in ROWS.values():
        if row.method in METHODS:
            assert count(formula_of(row), SIZES) == count(METHODS[row.method].parameters, SIZES)


def test_the_table_is_as_it_is_printed() -> None:
    found = re.search(r"<!-- parameters -->\n(.*?)\n(?:\n|$)", TABLE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None, f"{TABLE} has no table below a mark <!-- parameters -->"
    assert found[1] == markdown(), "print it anew: python scripts/parameter_table.py"
