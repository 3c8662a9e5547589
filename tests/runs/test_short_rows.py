"""What is short of a run's rows is said before it trains; ``--strict`` refuses it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from measure_scale import write_rows
from run_bench import least
from typer.testing import CliRunner, Result

from cptlite import FewShotClassifier
from cptlite.backbones import Backbone
from cptlite.cache import open_cache
from cptlite.cli import app
from cptlite.errors import DataWarning
from cptlite.methods.table import METHODS
from cptlite.runs.evaluate import untested_classes
from cptlite.runs.rows import short_rows

CHOOSING = {
    "linear-probe": "C 1",
    "tip-adapter": "alpha 1.17 and beta 1",
    "tip-adapter-f": "alpha 1.17 and beta 1",
    "tip-x": "alpha 1.17, beta 1 and gamma 0.1",
    "sus-x": "alpha 1.17, beta 1 and gamma 0.1",
    "ape": "alpha 1, beta 1 and gamma 0.1",
    "ape-t": "alpha 1 and beta 1",
    "cross-modal": "lr 0.001, weight decay 0 and the last step",
    "lp++": "the last epoch",
    "gda": "alpha 1",
    "proto-clip": "alpha 0.5 and beta 1",
    "rla": "rate 0.001",
    "prolip": "rate 0.001",
    "tes-heads": "rate 0.00316",
}
FEWER = "with fewer train rows than 2 shots: 1 class (class 2)"
UNTRAINED = "without train rows: 1 class (class 2)"
UNTESTED = "without test rows: 1 class (class 2)"

Sizes = tuple[int, int, int]


@pytest.fixture
def write(tmp_path: Path, backbone: Backbone) -> Callable[[Sizes], Path]:
    """Rows of three classes in turn: five are 2 of each but the last, which has 1."""
    return lambda sizes: write_rows(tmp_path / "cache", backbone, sizes, 3)


@pytest.mark.parametrize(
    ("sizes", "shots", "lines"),
    [
        ((6, 3, 3), 2, []),
        ((5, 3, 3), 2, [FEWER]),
        ((2, 3, 3), 1, [UNTRAINED]),
        ((5, 3, 3), 1, []),
        ((8, 3, 3), 3, [FEWER.replace("2 shots", "3 shots")]),
    ],
)
def test_training_rows_are_counted(write: Callable[[Sizes], Path], sizes: Sizes, shots: int, lines: list[str]) -> None:
    with open_cache(write(sizes)) as cache:
        assert short_rows([cache], [least("coop-ca", shots=1), least("coop-ca", shots=shots)]) == {"scale": lines}
        assert short_rows([cache], [least("zeroshot")]) == {}


def test_classes_that_are_not_learned_from_are_not_missed(write: Callable[[Sizes], Path]) -> None:
    """Base classes are the first two: what the third lacks is no matter."""
    with open_cache(write((5, 2, 3))) as cache:
        assert short_rows([cache], [least("coop-ca", shots=2)]) == {"scale": [FEWER]}
        assert short_rows([cache], [least("coop-ca", shots=2, classes="base")]) == {"scale": []}
    with open_cache(write((3, 2, 3))) as cache:
        [line] = short_rows([cache], [least("coop-ca", shots=2, classes="base")])["scale"]
        assert line == "with fewer train rows than 2 shots: 2 classes (class 0, class 1)"


@pytest.mark.parametrize(("tested", "lines"), [(3, []), (2, [UNTESTED])])
def test_test_rows_are_counted(write: Callable[[Sizes], Path], tested: int, lines: list[str]) -> None:
    with open_cache(write((6, 0, tested))) as cache:
        assert untested_classes([cache]) == {"scale": lines}


@pytest.mark.parametrize("method", METHODS)
def test_methods_that_choose_say_what_they_take_without_validation_rows(
    write: Callable[[Sizes], Path], method: str
) -> None:
    with open_cache(write((6, 0, 3))) as cache:
        found = short_rows([cache], [least(method)]).get("scale", [])
    wanted = f"no validation rows to choose on: {method} takes {CHOOSING.get(method)} there"
    assert found == ([wanted] if method in CHOOSING else [])


def test_what_is_given_is_not_chosen(write: Callable[[Sizes], Path]) -> None:
    with open_cache(write((6, 0, 3))) as cache:
        assert short_rows([cache], [least("linear-probe", C=0.5)]) == {"scale": []}
        [line] = short_rows([cache], [least("tip-adapter", alpha=0.5)])["scale"]
        assert "takes alpha 0.5 and beta 1 there" in line


def train(folder: Path, *words: str) -> Result:
    place = ["--cache-dir", str(folder / "cache"), "--out", str(folder / "runs")]
    return CliRunner().invoke(app, ["train", "--method", "linear-probe", "--shots", "2", *place, *words])


@pytest.mark.slow
def test_train_says_it_and_strict_refuses(write: Callable[[Sizes], Path], tmp_path: Path) -> None:
    write((5, 0, 2))
    refused = train(tmp_path, "--strict")
    assert refused.exit_code == 3 and not (tmp_path / "runs").exists()
    done = train(tmp_path)
    assert done.exit_code == 0
    chosen = f"no validation rows to choose on: linear-probe takes {CHOOSING['linear-probe']} there"
    for line in (FEWER, UNTESTED, chosen):
        assert f"warning: scale: {line}\n" in done.stderr
        assert f"\n  scale: {line}" in refused.output


@pytest.mark.slow
def test_strict_trains_on_what_is_whole(write: Callable[[Sizes], Path], tmp_path: Path) -> None:
    write((6, 3, 3))
    done = train(tmp_path, "--strict")
    assert done.exit_code == 0 and "warning" not in done.stderr


def test_python_warns(write: Callable[[Sizes], Path], backbone: Backbone) -> None:
    with open_cache(write((5, 3, 3))) as cache:
        with pytest.warns(DataWarning, match="scale: with fewer train rows than 2 shots") as told:
            FewShotClassifier("prototype", backbone, shots=2).fit([cache])
        assert told[0].filename == __file__
