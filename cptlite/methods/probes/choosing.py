"""Hyper-parameters of a probe that are chosen on validation rows, unless they are given."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["Choosing"]


class Choosing:
    """What has hyper-parameters that are chosen on validation rows where they are None.

    Attributes
    ----------
    starts : mapping of str to float
        Those, by name, with what each is where it is neither given nor chosen.
    """

    starts: Mapping[str, float] = {}

    @property
    def chooses(self) -> bool:
        """Whether it chooses on validation rows."""
        return any(getattr(self, name) is None for name in self.starts)

    @property
    def unchosen(self) -> str:
        """What it takes where it chooses and gets no validation rows, in words; empty if it has nothing to choose."""
        *words, last = [f"{name} {value:g}" for name, value in self.start_values().items()] or [""]
        return f"{', '.join(words)} and {last}" if words else last

    def start_values(self) -> dict[str, float]:
        """Each as it is where nothing chooses it."""
        given = {name: getattr(self, name) for name in self.starts}
        return {name: self.starts[name] if value is None else float(value) for name, value in given.items()}

    def chosen_of(self, values: Mapping[str, float]) -> dict[str, float]:
        """Those of some values that were chosen, not given."""
        return {name: value for name, value in values.items() if getattr(self, name) is None}
