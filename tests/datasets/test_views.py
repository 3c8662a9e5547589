from __future__ import annotations

import subprocess
import sys

import pytest

from cptlite import datasets
from cptlite.datasets.views import ViewConfig
from cptlite.errors import UsageError


@pytest.mark.parametrize("wrong", [{"views": 0}, {"seed": -1}, {"seed": 2**63}, {"min_scale": 0}, {"min_scale": 1.5}])
def test_views_are_checked(wrong: dict) -> None:
    with pytest.raises(UsageError, match="got"):
        ViewConfig(**wrong)


def test_the_largest_values_are_taken() -> None:
    assert ViewConfig(views=1, seed=2**63 - 1, min_scale=1).min_scale == 1


def test_their_file_loads_nothing_heavy() -> None:
    """The command line reads its defaults when it is imported."""
    code = "import sys, cptlite.datasets.views; print([m for m in ('torch', 'numpy', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_name_of_the_room_is_loaded_when_asked_for() -> None:
    assert sorted(name for names in datasets.HOMES.values() for name in names) == sorted(datasets.__all__)
    for name in datasets.__all__:
        assert getattr(datasets, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = datasets.nothing
