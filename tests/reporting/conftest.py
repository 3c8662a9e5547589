"""What tests of the page share: making its libraries into one text takes a second, and gives the same each time."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def vega() -> str:
    for name in ("altair", "vl_convert"):
        pytest.importorskip(name)
    from cptlite.reporting.page.libraries import vega_bundle

    return vega_bundle()


@pytest.fixture
def one_bundle(vega: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cptlite.reporting.page.write.vega_bundle", lambda: vega)
