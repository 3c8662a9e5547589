"""How many numbers each method learns: the table's formulas against the methods, and against the paper's figures.

Axes: T tasks, K classes of all tasks, N training rows, L, M, Mc context tokens of class, task and class-feature
prompts, P prompts a class, W text width, D joint dimension, H hidden width of CoCoOp's net.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
from golden_cases import golden_backbone, make_task, text_encoder
from parameter_table import ROWS, SUITES, count, formula_of, markdown, our_count, paper_counts

from cptlite.errors import UsageError
from cptlite.methods.base import FewShotRows, Problem, PromptOptions
from cptlite.methods.probes.per_task import PerTask
from cptlite.methods.prompts.softcpt import SUB_NETWORKS, VARIANTS, SoftCPT
from cptlite.methods.table import METHODS, MethodEntry

RESULTS = Path(__file__).parents[2] / "docs/results.md"
MC = 7
SIZES = {"T": 2, "K": 5, "N": 20, "L": 3, "M": 6, "P": 4, "W": 128, "D": 32, "H": 2}
OPTIONS = {"context_length": SIZES["L"], "task_context_length": SIZES["M"], "class_context_length": MC}
PROMPTS = {name: entry for name, entry in METHODS.items() if entry.prompts}
PROBES = {name: entry for name, entry in METHODS.items() if entry.probe}

QUICK = {"cross-modal": {"steps": 2}, "lp++": {"epochs": 2}, "tip-adapter-f": {"epochs": 1}}


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


@pytest.mark.parametrize("entry", PROMPTS.values(), ids=PROMPTS)
def test_prompt_methods_learn_what_the_table_says(problem: Problem, entry: MethodEntry) -> None:
    assert entry.prompts is not None
    separate = entry.defaults.get("separate", False)
    problems = [replace(problem, tasks=(task,)) for task in problem.tasks] if separate else [problem]
    methods = [entry.prompts(each, PromptOptions(**OPTIONS), next(iter(entry.variants), "")) for each in problems]
    assert sum(method.num_parameters() for method in methods) == count(entry.parameters, SIZES)


@pytest.mark.parametrize("name", PROBES)
def test_probes_learn_what_the_table_says(problem: Problem, name: str) -> None:
    entry = METHODS[name]
    assert entry.probe is not None
    labels = torch.arange(SIZES["N"]) % SIZES["K"]
    rows = FewShotRows(features=torch.randn(SIZES["N"], 2, SIZES["D"]), labels=labels)
    probe = entry.probe()
    if isinstance(probe, PerTask):
        probe.make = partial(probe.make, **QUICK.get(name, {}))
    probe.fit(problem, rows, rows)
    assert probe.num_parameters() == count(entry.parameters, SIZES)


@pytest.mark.parametrize(("variant", "sub_network", "frozen"), list(product(VARIANTS, SUB_NETWORKS, (False, True))))
def test_softcpt_learns_u_v_and_p(problem: Problem, variant: str, sub_network: str, frozen: bool) -> None:
    """The shapes of the three learnables: U (M, W) or (T, M, W), V (Mc, W) or (K, Mc, W), P (D, L W) or (2D, L W)."""
    has_class_features = variant != "nata" and variant != "nats"
    options = PromptOptions(**OPTIONS, sub_network=sub_network, freeze_class_context=frozen)
    if frozen and not has_class_features:
        with pytest.raises(UsageError, match="no class-feature context"):
            SoftCPT(problem, options, variant)
        return
    u = "T M W" if variant.endswith("ts") else "M W"
    v = {"c": "K V W" if variant.startswith("cs") else "V W", "n": "0"}[variant[0]] if not frozen else "0"
    p = "2 D L W" if has_class_features and sub_network == "lin" else "D L W"
    wanted = count(f"{u} + {v} + {p}", SIZES | {"V": MC})
    assert SoftCPT(problem, options, variant).num_parameters() == wanted


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


def test_the_docs_have_the_table() -> None:
    _, mark, rest = RESULTS.read_text(encoding="utf-8").partition("<!-- parameters -->\n")
    assert mark, "docs/results.md wants a mark <!-- parameters --> above the table"
    assert rest.split("\n\n")[0].strip() == markdown(), "print it anew: python scripts/parameter_table.py"
