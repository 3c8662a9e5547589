"""Few-shot prompt tuning of CLIP (SoftCPT and its baselines) from cached features.

The names below load their rooms, and torch with them, when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cptlite.api import FewShotClassifier, load_run
    from cptlite.backbones import load_backbone
    from cptlite.cache import open_cache, open_caches
    from cptlite.classifiers import load_classifier
    from cptlite.methods.probes.cross_modal import CrossModal
    from cptlite.methods.probes.linear_probe import LinearProbe
    from cptlite.methods.probes.lp_plus_plus import LPPlusPlus
    from cptlite.methods.probes.prototype import PrototypeClassifier
    from cptlite.methods.probes.tip_adapter import TipAdapter, TipAdapterF

__all__ = [
    "CrossModal",
    "FewShotClassifier",
    "LPPlusPlus",
    "LinearProbe",
    "PrototypeClassifier",
    "TipAdapter",
    "TipAdapterF",
    "__version__",
    "load_backbone",
    "load_classifier",
    "load_run",
    "open_cache",
    "open_caches",
]

__version__ = "0.1.0"

HOMES = {
    "CrossModal": "cptlite.methods.probes.cross_modal",
    "FewShotClassifier": "cptlite.api",
    "LPPlusPlus": "cptlite.methods.probes.lp_plus_plus",
    "LinearProbe": "cptlite.methods.probes.linear_probe",
    "PrototypeClassifier": "cptlite.methods.probes.prototype",
    "TipAdapter": "cptlite.methods.probes.tip_adapter",
    "TipAdapterF": "cptlite.methods.probes.tip_adapter",
    "load_backbone": "cptlite.backbones",
    "load_classifier": "cptlite.classifiers",
    "load_run": "cptlite.api",
    "open_cache": "cptlite.cache",
    "open_caches": "cptlite.cache",
}
"""Module that each name is loaded from."""


if not TYPE_CHECKING:  # to a type checker it would make any name a good one

    def __getattr__(name: str) -> Any:
        if name not in HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
