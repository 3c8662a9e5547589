"""One run's configuration: what is learned, on what, and how; checked once, when it is made.

It has three parts: the fields of `RunConfig` itself, those of the recipe (of a method that takes gradient steps) and
those of the method's own options. To the command line, to Python's keywords and to ``config.json`` they are one flat
list of names: `resolve_config` takes it apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from typing import Any

from cptlite.errors import UsageError
from cptlite.methods.entry import MethodEntry
from cptlite.methods.options import MethodOptions
from cptlite.methods.table import METHODS, find_method, methods_for
from cptlite.options import MOST_SEED, Option, Options, did_you_mean, option, options_of
from cptlite.shots import ALL, ALL_SHOTS, say_shots
from cptlite.training.recipe import PAPER, RECIPES, RELEASED, Recipe

__all__ = [
    "OWN_ROWS",
    "SAME_NUMBERS",
    "RunConfig",
    "check_names",
    "default_options",
    "differ_in_rows_alone",
    "known_options",
    "resolve_config",
    "share_options",
]

OWN_ROWS = ("shots", "seed")
"""Fields in which runs that train together may differ."""

SAME_NUMBERS = ("device", "text_path", "text_memory", "cuda_graphs", "linear_backend")
"""Fields that say how a number is reached; they move it by rounding at most."""

NAMED = {"method": str, "suite": str, "datasets": tuple[str, ...], "backbone": str}
"""Fields without a default, and their types."""

STEPPED = ("separate", "text_path", "text_memory", "cuda_graphs")
"""Fields of `RunConfig` that say how gradient steps are taken, and mean nothing to other methods."""


@dataclass(frozen=True, kw_only=True)
class RunConfig(Options):
    """One run.

    Attributes
    ----------
    method : str
        Name in the method table.
    suite : str
        Folder name the results are filed under.
    datasets : tuple of str
        Cached datasets trained on jointly, in task order.
    backbone : str
    options : MethodOptions
        The method's own.
    recipe : Recipe, optional
        How steps are taken; None for a method that is fitted at once.

    The other fields say themselves what they are.
    """

    method: str
    suite: str
    datasets: tuple[str, ...]
    backbone: str
    options: MethodOptions
    recipe: Recipe | None = None
    separate: bool = option(False, "Learn prompts one task at a time, not jointly.")
    classes: str = option(
        "all", "Learn from all classes, or from the base ones, the first half of a task's.", choices=("all", "base")
    )
    held_out_tasks: tuple[str, ...] = option(
        (), "Id of a task to test from its words alone, learning from the others; all: a run for each task."
    )
    shots: int = option(16, "Training images per class; all: every one.", least=1, words={ALL: ALL_SHOTS})
    label_noise: float = option(
        0.0, "Share of a task's training images that get the label of another of its classes.", least=0, most=1
    )
    seed: int = option(1, "Draws the images and everything else.", least=0, most=MOST_SEED)
    text_path: str = option("fused", "Packed, or CLIP's own modules on 77 positions.", choices=("fused", "plain"))
    text_memory: float = option(8.0, "GiB a text forward may keep; more classes are done in chunks.", above=0)
    cuda_graphs: bool = option(True, "Record a step on the GPU and replay it.")
    device: str = option("auto", "auto, cpu, cuda or cuda:N.")
    precision: str = option("auto", "Of the frozen towers: auto, float32, fp16 or bf16.")
    linear_backend: str = option(
        "auto", "Runs frozen linear layers: onednn packs them, on a CPU.", choices=("auto", "onednn", "torch")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, kind in NAMED.items():
            object.__setattr__(self, name, Option(name=name, kind=kind).check(getattr(self, name)))
        if self.suite in ("", ".", "..") or "/" in self.suite or "\\" in self.suite:
            raise UsageError(f"suite must be a plain folder name below --out, got {self.suite!r}")
        object.__setattr__(self, "held_out_tasks", tuple(sorted(set(self.held_out_tasks))))
        self._check_unseen()

    @property
    def entry(self) -> MethodEntry:
        """The method's row in the table."""
        return find_method(self.method)

    @property
    def variant(self) -> str:
        """Variant of the method, empty for one without any."""
        return getattr(self.options, "variant", "")

    @property
    def recipe_name(self) -> str:
        """Name of the recipe; where a method has but one way, that of its paper."""
        return self.recipe.recipe if self.recipe else PAPER

    @property
    def epochs(self) -> int:
        """Epochs of the training, at most where all images are learned from; 0 of a method that is fitted at once."""
        return self.recipe.at(self.shots).epochs if self.recipe else 0

    def _check_unseen(self) -> None:
        """Refuse classes and tasks that are not learned from where the method has no weights for them."""
        label = "-".join(word for word in (self.method, self.variant) if word)
        scope = self.entry.scope_of(self.variant)
        if self.classes == "base" and self.held_out_tasks:
            raise UsageError(
                "wanted new classes or new tasks, got --classes base and --held-out-task: a task that is held out has "
                "no base classes, so give one of the two"
            )
        if self.classes == "base" and scope == "class":
            raise UsageError(
                f"{label} learns numbers for each class from its images, so it has none for a new class: leave "
                f"--classes base out, or give a method whose weights come from names: {methods_for('task')}"
            )
        if self.held_out_tasks and scope != "everything":
            raise UsageError(
                f"{label} learns numbers for each {scope} from its images, so it has none for a task that is held out: "
                f"leave --held-out-task out, or give a method that all tasks share: {methods_for('everything')}"
            )
        if self.held_out_tasks and self.separate:
            raise UsageError(
                "--separate learns each task on its own, so there is nothing to carry over to one that is held out: "
                "leave --separate or --held-out-task out"
            )

    def differences(self) -> tuple[tuple[str, Any], ...]:
        """List (name, value) of every option that is not the default of method and recipe, in the order of options.

        Left out are `OWN_ROWS`, `SAME_NUMBERS`, and variant and recipe, which stand beside the method wherever it is
        named. Two configurations of one method, variant and recipe that agree here give the same numbers on the same
        datasets, backbone, shots and seed.
        """
        defaults = default_options(self.method, self.recipe_name)
        values = {**vars(self), **vars(self.options)}
        if self.recipe:
            defaults |= _recipe_fields(self.recipe_name, self.options)
            values |= vars(self.recipe)
        unlisted = {*OWN_ROWS, *SAME_NUMBERS, "variant", "recipe"}
        return tuple(
            (name, values[name] + 0.0 if isinstance(values[name], float) else values[name])  # no -0.0: it equals 0.0
            for name, default in defaults.items()
            if name not in unlisted and values[name] != default
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values in one flat list of names, for `resolve_config` to read back; of class texts the digest."""
        parts = asdict(self) | {"shots": say_shots(self.shots)}
        flat = {**parts.pop("options"), **(parts.pop("recipe") or {})}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in {**parts, **flat}.items()
            if self.entry.stepped or name not in STEPPED
        }


def known_options(entry: MethodEntry) -> Iterator[tuple[str, Option]]:
    """Every option that a method has, with its default there, after the part it is in: run, recipe or method."""
    for each in options_of(RunConfig):
        if entry.stepped or each.name not in STEPPED:
            yield "run", replace(each, default=entry.separate) if each.name == "separate" else each
    for each in options_of(Recipe) if entry.stepped else ():
        if not (entry.recipe and each.name == "recipe"):
            yield "recipe", replace(each, default=entry.recipe.get(each.name, each.default))
    yield from (("method", each) for each in entry.list_options())


def default_options(method: str, recipe: str = PAPER) -> dict[str, Any]:
    """Default of every option of a method by its name, by a recipe, without loading the method.

    Raises
    ------
    UsageError
        The method is unknown.
    """
    entry = find_method(method)
    fixed = {} if entry.recipe else RECIPES.get(recipe, {})
    return {
        each.name: fixed.get(each.name, each.default) if part == "recipe" else each.default
        for part, each in known_options(entry)
    }


def check_names(method: str, given: Mapping[str, Any], others: Sequence[str] = ()) -> None:
    """Refuse what is no option of a method, nor of any of others beside it.

    Raises
    ------
    UsageError
        A method is unknown, or a name is no option.
    """
    entries = {name: find_method(name) for name in (method, *others)}
    known = list(dict.fromkeys(each.name for entry in entries.values() for _, each in known_options(entry)))
    fixed = {name: entry.recipe for name, entry in entries.items() if entry.recipe and "recipe" not in known}
    for name in given:
        if name == "recipe" and fixed and given[name] != PAPER:
            of, recipe = next(iter(fixed.items()))
            raise UsageError(
                f"{of} is stepped as its own paper does ({_spelt(recipe)}), not by a recipe of others, got "
                f"{given[name]!r}: leave --recipe out, or give these numbers one by one"
            )
        if name not in known and name not in NAMED and not (name == "recipe" and fixed):
            having = [other for other, row in METHODS.items() if name in {each.name for each in row.list_options()}]
            where = f" (that is one of {', '.join(having)})" if having else ""
            advice = "leave it out" if having and not get_close_matches(name, known) else did_you_mean(name, known)
            label = f"{', '.join(entries)} {'have' if len(entries) > 1 else 'has'}"
            raise UsageError(f"{label} no option {name!r}{where}: {advice}")


def share_options(given: Mapping[str, Any], methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Give each of several methods those options that it has.

    Raises
    ------
    UsageError
        A method is unknown, or none of them has an option.
    """
    if methods:
        check_names(methods[0], given, methods[1:])
    known = {method: {each.name for _, each in known_options(find_method(method))} | {*NAMED} for method in methods}
    return {method: {name: value for name, value in given.items() if name in known[method]} for method in methods}


def _spelt(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', '-')} {value}" for name, value in values.items())


def resolve_config(given: Mapping[str, Any]) -> RunConfig:
    """Complete what the user gave: by the recipe, then by defaults.

    Parameters
    ----------
    given : mapping
        ``method``, ``suite``, ``datasets``, ``backbone`` and any of the method's options, in one flat list.

    Raises
    ------
    UsageError
        Unknown method, an option the method does not have, or a value out of range.
    """
    entry = find_method(given["method"])
    check_names(given["method"], given)
    parts: dict[str, dict[str, Any]] = {"run": {}, "recipe": {}, "method": {}}
    for part, each in known_options(entry):
        if each.name in given:
            parts[part][each.name] = given[each.name]
    recipe, options = None, entry.new_options(**parts["method"])
    if entry.recipe:
        recipe = Recipe(**{**entry.recipe, **parts["recipe"]})
    elif entry.stepped:
        recipe = Recipe(**{**_recipe_fields(parts["recipe"].get("recipe", PAPER), options), **parts["recipe"]})
    return RunConfig(
        **{name: given[name] for name in NAMED},
        options=options,
        recipe=recipe,
        **{"separate": entry.separate, **parts["run"]},
    )


def _recipe_fields(name: str, options: MethodOptions) -> dict[str, Any]:
    """List what a recipe sets for a method of some options where the user does not; of an unknown one, nothing."""
    return RECIPES.get(name, {}) | ({"steps_per_batch": options.released_steps} if name == RELEASED else {})


def differ_in_rows_alone(configs: Sequence[RunConfig]) -> bool:
    """Whether configurations agree in all but shots and seed."""
    rests = [{name: value for name, value in config.to_json().items() if name not in OWN_ROWS} for config in configs]
    return all(rest == rests[0] for rest in rests)
