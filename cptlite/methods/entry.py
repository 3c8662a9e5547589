"""A method's row: what the whole package knows of a method without loading it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from cptlite.methods.options import MethodOptions, PromptOptions, ReferenceOptions, TemplateOptions
from cptlite.options import Option, read_options

if TYPE_CHECKING:
    from cptlite.methods.base import Probe, Problem, PromptMethod

__all__ = ["MethodEntry"]

SHARED_OPTIONS: dict[str, type] = {
    kind.__name__: kind for kind in (MethodOptions, PromptOptions, ReferenceOptions, TemplateOptions)
}


@dataclass(frozen=True, kw_only=True)
class MethodEntry:
    """One row of the method table.

    Attributes
    ----------
    home : str
        ``folder.file:Class`` below `cptlite.methods`: a `PromptMethod` in ``prompts``, a `FeatureClassifier` or a
        `Probe` in ``probes``.
    options : str
        Name of its class of options, in the same file or in `cptlite.methods.options`.
    learns : str
        What is learned, for `cptlite methods`.
    fixed : mapping
        Arguments of the class by which this row differs from others of the same class.
    recipe : mapping
        Fields of `cptlite.training.recipe.Recipe` that its source sets otherwise than SoftCPT's does; such a method has
        no other recipe.
    separate : bool
        Whether it learns one task at a time unless told otherwise.
    multi_task : bool
        Whether the tasks share what is learned.
    scope : str
        What a number that it learns is for: a ``class``; a ``task``, with classes it never saw, whose weights come from
        their names; ``everything``, tasks it never saw too.
    scopes : mapping of str to str
        The same by variant, where they differ.
    starts_from : str
        Method whose learned context it starts at: that of the run that its option ``source`` names, or else learned
        first on the same rows.
    needs_rows : bool
        Whether it looks at training rows at all.
    needs_patches : bool
        Whether images are their patch features, (M, D) each, instead of pooled ones.
    needs_pre_projection : bool
        Whether images are their features before the tower's projection, (I,) each, instead of those behind it.
    wants : str
        Option that it cannot do without; empty where the defaults do.
    cached : str
        What it reads of the training images' cached features.
    parameters : str
        How many numbers it learns by default: products of axes, added up. T tasks, K classes of all tasks, N training
        rows, L context tokens of a class prompt, M of a task prompt, P prompts of a class, Q channels kept, W text
        width, D joint dimension, I input of the image tower's projection, H hidden units, G of TCP's meta net.
    source : str
        Paper it comes from.
    sees : tuple of str
        What it looks at beside training images and their labels: ``names`` of classes or tasks, ``validation`` rows,
        ``descriptions`` or ``attributes`` of classes where files of them are given.
    cost : str
        Of a gradient step, in a few words of the axes; empty where none is taken.
    deviation : str
        From its source, in a line; empty where there is none.
    """

    home: str
    learns: str
    options: str = "MethodOptions"
    fixed: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    separate: bool = False
    multi_task: bool = False
    scope: str = "class"
    scopes: Mapping[str, str] = field(default_factory=dict)
    starts_from: str = ""
    needs_rows: bool = True
    needs_patches: bool = False
    needs_pre_projection: bool = False
    wants: str = ""
    cached: str = ""
    parameters: str = ""
    source: str = ""
    sees: tuple[str, ...] = ("names",)
    cost: str = ""
    deviation: str = ""

    @property
    def stepped(self) -> bool:
        """Whether it learns by gradient steps, by a recipe; if not, it is fitted at once."""
        return self.home.startswith("prompts.")

    @property
    def variants(self) -> tuple[str, ...]:
        """Values of its option ``variant``, the default first; empty where it has none."""
        return next((each.choices for each in self.list_options() if each.name == "variant"), ())

    def scope_of(self, variant: str) -> str:
        """Scope of a variant, or of the method where it has none."""
        return self.scopes.get(variant, self.scope)

    @property
    def module(self) -> str:
        """Full name of its file's module."""
        return f"cptlite.methods.{self.home.partition(':')[0]}"

    def load(self) -> Any:
        """Return its class."""
        return getattr(import_module(self.module), self.home.partition(":")[2])

    def list_options(self) -> tuple[Option, ...]:
        """Return its options, without loading its class."""
        return read_options(self.module, self.options, SHARED_OPTIONS)

    def new_options(self, **given: Any) -> MethodOptions:
        """Check values of its options; those not given take their defaults."""
        kind = SHARED_OPTIONS.get(self.options) or getattr(import_module(self.module), self.options)
        return kind(**given)

    def method(self, problem: Problem, options: MethodOptions, runs: int = 1) -> PromptMethod:
        """Make a method that learns by gradient steps, its prompts planned for a number of runs."""
        assert self.stepped
        return self.load()(problem, options, runs, **self.fixed)

    def probe(self, name: str, options: MethodOptions) -> Probe:
        """Make a method that is fitted at once; ``name`` is the row's, for messages."""
        from cptlite.methods.base import Probe
        from cptlite.methods.probes.per_task import PerTask

        kind = self.load()
        return kind(options) if issubclass(kind, Probe) else PerTask(name, kind, options)
