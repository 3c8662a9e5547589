"""Options as frozen dataclasses: each field says its default, its help and what it may be, once.

A class of options checks its values when it is made. Its fields become flags of the command line, keywords in Python
and lines of ``config.json``. The command line wants them before PyTorch is loaded, so `read_options` takes those of a
method from the source of its file, without importing it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from importlib.util import find_spec
from numbers import Integral, Real
from pathlib import Path
from typing import Any, get_type_hints

from cptlite.errors import UsageError

__all__ = ["MOST_RATE", "MOST_SEED", "Option", "Options", "did_you_mean", "option", "options_of", "read_options"]

MOST_RATE = 1e38  # of float32's 3.4e38
MOST_SEED = 2**63 - 1  # the largest that torch takes

KINDS = {
    "bool": (bool, False),
    "int": (int, False),
    "float": (float, False),
    "str": (str, False),
    "int | None": (int, True),
    "float | None": (float, True),
    "tuple[str, ...]": (tuple[str, ...], False),
}
"""Annotations that an option may have: its type, and whether None is a value."""
SIMPLE = (bool, int, float, str)


@dataclass(frozen=True, kw_only=True)
class Option:
    """One field of a class of options.

    Attributes
    ----------
    name : str
    kind : type
        ``bool``, ``int``, ``float``, ``str`` or ``tuple[str, ...]``.
    optional : bool
        Whether None is a value, and the default.
    default : object
    help : str
        One line.
    least, most, above : float, optional
        Bounds of a number, the last of them excluded; a float has `MOST_RATE` where it says no other.
    choices : tuple of str
        The only values; empty for any.
    why : str
        Reason of a bound, for the message.
    words : mapping of str to int
        Words that may stand for a number.
    """

    name: str
    kind: Any
    optional: bool = False
    default: Any = None
    help: str = ""
    least: float | None = None
    most: float | None = None
    above: float | None = None
    choices: tuple[str, ...] = ()
    why: str = ""
    words: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind is float and self.most is None:  # what it is multiplied with stays finite
            object.__setattr__(self, "most", MOST_RATE)

    @property
    def label(self) -> str:
        """As messages name it."""
        return self.name.replace("_", "-")

    @property
    def flag(self) -> str:
        """As typed on the command line, without dashes in front; of a list of texts one text a flag, repeated."""
        return self.label.removesuffix("s") if self.kind == tuple[str, ...] else self.label

    def check(self, value: Any) -> Any:
        """Return a value of the option's type.

        Raises
        ------
        UsageError
            It is of another type, or out of bounds.
        """
        if value is None and self.optional:
            return None
        if isinstance(value, str) and value in self.words:
            return self.words[value]
        if self.kind == tuple[str, ...]:
            if not isinstance(value, list | tuple) or not all(isinstance(word, str) for word in value):
                raise UsageError(f"{self.label} must be a list of texts, got {value!r}")
            return tuple(value)
        if self.kind in (int, float):
            return self._check_number(value)
        if not isinstance(value, self.kind):
            raise UsageError(f"{self.label} must be {'a text' if self.kind is str else 'true or false'}, got {value!r}")
        if self.choices and value not in self.choices:
            raise UsageError(f"unknown {self.label} {value!r}: give one of {', '.join(self.choices)}")
        return value

    def _check_number(self, value: Any) -> Any:
        """Return a number, NumPy's too, as Python's int or float."""
        wanted = Integral if self.kind is int else Real
        # A float that is whole counts as a whole number, as it does in a file of settings.
        whole = self.kind is int and isinstance(value, float) and value.is_integer()
        if isinstance(value, bool) or not (isinstance(value, wanted) or whole) or not self._is_within(value):
            got = value if isinstance(value, Real) else repr(value)
            wanted_words = " or ".join((self._bounds() + self.why, *self.words))
            raise UsageError(f"{self.label} must be {wanted_words}, got {got}")
        return self.kind(value)

    def _is_within(self, value: Any) -> bool:
        least = -sys.float_info.max if self.least is None else self.least
        most = sys.float_info.max if self.most is None else self.most
        return least <= value <= most and (self.above is None or value > self.above)

    def _bounds(self) -> str:
        number = "a whole number" if self.kind is int else "a number"
        if self.above is not None:
            return f"above {self.above:g}" + (f" and at most {self.most:g}" if self.most is not None else "")
        if self.least is None:
            return number
        return f"from {self.least} to {self.most}" if self.most is not None else f"{number} of at least {self.least}"


def option(default: Any, help: str, **facts: Any) -> Any:
    """Field of a class of options; facts are those of `Option`. All arguments are literals: `read_options` reads them.

    A class derived from another gives an option of it another default by ``name: type = value`` alone.
    """
    return field(default=default, metadata={"help": help, **facts})


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options that are checked when they are made; every field is made by `option`."""

    def __post_init__(self) -> None:
        for each in options_of(type(self)):
            object.__setattr__(self, each.name, each.check(getattr(self, each.name)))


def options_of(kind: type) -> tuple[Option, ...]:
    """Those fields of a dataclass that `option` made, in order."""
    types = get_type_hints(kind)
    facts: dict[str, Mapping[str, Any]] = {}
    for base in reversed(kind.__mro__):
        own = vars(base).get("__dataclass_fields__", {}).values()
        facts |= {each.name: each.metadata for each in own if each.metadata}
    found = []
    for each in fields(kind):
        if each.name in facts:
            annotation = types[each.name]
            base, optional = KINDS[annotation.__name__ if annotation in SIMPLE else str(annotation)]
            found.append(Option(name=each.name, kind=base, optional=optional, default=each.default, **facts[each.name]))
    return tuple(found)


def read_options(module: str, name: str, bases: Mapping[str, type]) -> tuple[Option, ...]:
    """Read the fields of a class of options from source, without importing its module.

    Parameters
    ----------
    module : str
        Full name, such as ``cptlite.methods.prompts.kgcoop``.
    name : str
        Of the class.
    bases : mapping of str to type
        Classes that it may be derived from, besides others of the same file.

    Returns
    -------
    tuple of Option
        Equal to `options_of` of the class; a test compares them.
    """
    if name in bases:
        return options_of(bases[name])
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None, f"no module {module}"
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    merged: dict[str, Option] = {}
    for base in reversed(found.bases):
        merged |= {each.name: each for each in read_options(module, ast.unparse(base), bases)}
    for node in found.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call):
            made = option(
                *map(ast.literal_eval, node.value.args),
                **{word.arg: ast.literal_eval(word.value) for word in node.value.keywords if word.arg},
            )
            own, (kind, optional) = ast.unparse(node.target), KINDS[ast.unparse(node.annotation)]
            merged[own] = Option(name=own, kind=kind, optional=optional, default=made.default, **made.metadata)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            own = ast.unparse(node.target)
            merged[own] = replace(merged[own], default=ast.literal_eval(node.value))
    return tuple(merged.values())


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Finish a message about an unknown word with the nearest known one, or with all of them."""
    near = get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"give one of {', '.join(known)}"
