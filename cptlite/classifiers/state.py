"""What makes up a classifier: named tensors and plain values, declared once a kind, checked before they are used.

Axes: K classes of the classifier, C of a range, B images, D joint dimension; other letters are each kind's own.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from cptlite.classifiers.base import ALL

if TYPE_CHECKING:
    from cptlite.text.encoder import TextEncoder

__all__ = ["Misfit", "TensorClassifier", "shown"]

SHOWN = 120  # characters of a file's text in a message


class Misfit(Exception):
    """Tensors or values that make up no classifier; the message says what was found, and what belongs there."""


class TensorClassifier(ABC):
    """A classifier that is its tensors and values: it can be taken apart, and put together again.

    Attributes
    ----------
    kind : str
        Tag that a stored classifier carries.
    axes : mapping of str to str
        Axes of each tensor, such as ``"K D"``. A letter is as long wherever it stands; a number is a length.
    value_types : mapping of str to type
        Type of each value: float (finite), int, bool or str.
    dtypes : tuple of torch.dtype
        What the tensors may be of, all of them one; indices aside.
    indices : mapping of str to str
        Tensors of places on an axis, such as classes, and its letter: int64, below its length.
    """

    kind: ClassVar[str]
    axes: ClassVar[Mapping[str, str]]
    value_types: ClassVar[Mapping[str, type]]
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32,)
    indices: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def scores(self, features: Tensor, classes: slice = ALL) -> Tensor:
        """From raw features (B, D) to scores of a range of classes, (B, C); comparable within a task only."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors it is made of, by name."""
        return {name: getattr(self, name) for name in self.axes}

    def values(self) -> dict[str, Any]:
        """Return the plain values it is made of, by name."""
        return {name: kind(getattr(self, name)) for name, kind in self.value_types.items()}

    @classmethod
    def from_state(
        cls,
        tensors: Mapping[str, Tensor],
        values: Mapping[str, Any],
        class_names: Sequence[str],
        text: Callable[[], TextEncoder],
    ) -> Self:
        """Put a classifier together.

        Parameters
        ----------
        tensors, values : mapping
            Such as `check_state` passes.
        class_names : sequence of str
            K names.
        text : callable
            Gives the text encoder; called by the kinds alone that encode prompts when they score.
        """
        make: Any = cls  # the fields are those of the subclass
        return make(**tensors, **values)

    @classmethod
    def check_state(
        cls, tensors: Mapping[str, Tensor], values: Mapping[str, Any], num_classes: int, embed_dim: int
    ) -> None:
        """Raise `Misfit` where tensors and values are not such as make up a classifier of K classes."""
        for what, there, wanted in (("tensors", tensors, cls.axes), ("values", values, cls.value_types)):
            if there.keys() != wanted.keys():
                raise Misfit(f"{what} {shown(sorted(there))} where kind {cls.kind!r} has {sorted(wanted)}")
        lengths = {"K": num_classes, "D": embed_dim, "1": 1}
        for name, axes in cls.axes.items():
            shape = tuple(tensors[name].shape)
            wanted_shape = [lengths.setdefault(axis, size) for axis, size in zip(axes.split(), shape, strict=False)]
            if len(shape) != len(axes.split()) or list(shape) != wanted_shape:
                known = {axis: lengths[axis] for axis in axes.split() if axis in lengths}
                raise Misfit(f"{name!r} of shape {shape} where its axes ({axes}) are {known}")
        cls._check_dtypes(tensors, lengths)
        for name, kind in cls.value_types.items():
            value = values[name]
            if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
                raise Misfit(f"{name!r} {shown(value)} where {kind.__name__} belongs")

    @classmethod
    def _check_dtypes(cls, tensors: Mapping[str, Tensor], lengths: Mapping[str, int]) -> None:
        found = {tensors[name].dtype for name in cls.axes if name not in cls.indices}
        if len(found) > 1 or not found <= set(cls.dtypes):
            wanted = " or ".join(str(dtype) for dtype in cls.dtypes)
            raise Misfit(f"numbers of {', '.join(sorted(map(str, found)))} where all are {wanted}")
        for name, axis in cls.indices.items():
            places, length = tensors[name], lengths[axis]
            if places.dtype != torch.int64 or not ((places >= 0) & (places < length)).all():
                raise Misfit(f"{name!r} of {places.dtype} where whole numbers (int64) below {length} belong")


def shown(value: Any) -> str:
    """Text of something that a file held, for a message: control characters escaped, a long one cut."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
