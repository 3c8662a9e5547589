"""What draws in the browser, and what makes its charts: an extra."""

from __future__ import annotations

import re
from typing import Any

from cptlite.errors import UsageError

__all__ = ["import_altair", "vega_bundle"]


def import_altair() -> Any:
    """Import Vega-Altair.

    Raises
    ------
    UsageError
        It is not installed.
    """
    try:
        import altair
    except ImportError as error:
        raise _missing() from error
    return altair


def vega_bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one JavaScript module, of the version that Altair writes for.

    Returns
    -------
    str
        To stand in a ``<script type="module">``; it sets ``window.vegaEmbed``.

    Raises
    ------
    UsageError
        vl-convert-python or Altair is not installed.
    """
    version = import_altair().SCHEMA_VERSION  # v6.4.1
    try:
        from vl_convert import javascript_bundle
    except ImportError as error:
        raise _missing() from error
    bundle = str(
        javascript_bundle(
            "window.vegaEmbed = vegaEmbed;", vl_version=".".join(version.removeprefix("v").split(".")[:2])
        )
    )
    # Nothing in it may end the element it stands in, or open what HTML takes for a comment there.
    return re.sub(r"<(?=/script|script|!--)", r"\\x3c", bundle, flags=re.IGNORECASE)


def _missing() -> UsageError:
    return UsageError(
        "--html wants altair and vl-convert-python, which are not both installed. "
        "Install them with: pip install 'cptlite[html]'"
    )
