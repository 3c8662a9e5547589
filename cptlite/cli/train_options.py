"""The flags of ``cptlite train``: one for each option of a run, of the recipe and of every method.

They are made from the options themselves, so that a method that is added brings its own. ``train --help`` shows all,
``train --method NAME --help`` what applies to one method, or to several, with their defaults.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import wraps
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from cptlite.cli.options import HOW, WHAT, split_at_commas
from cptlite.config import RunConfig, known_options
from cptlite.errors import UsageError
from cptlite.methods.entry import MethodEntry
from cptlite.methods.table import METHODS
from cptlite.options import Option, options_of
from cptlite.training.recipe import Recipe

__all__ = ["REPEATED", "TrainCommand", "whole_numbers", "with_training_options"]

RECIPE = "Recipe (of methods that learn by gradient steps)"
SEVERAL = "Options of several methods"
RUN_PANELS = dict.fromkeys(("separate", "classes", "held_out_tasks", "shots", "label_noise", "seed"), WHAT)
GENERAL = {each.name: each for kind in (RunConfig, Recipe) for each in options_of(kind)}
"""Options of run and recipe, with the defaults that hold for most methods."""
REPEATED = ("shots", "seed")
"""Options whose flag can be given more than once, or with several numbers, between commas."""


@dataclass(frozen=True, kw_only=True)
class _Flag:
    """An option as a flag: its help panel, and its help, which ends with the default."""

    option: Option
    panel: str
    help: str


def _flags(methods: Mapping[str, MethodEntry]) -> dict[str, _Flag]:
    """Make the flags of some methods, by option; help says which of several has it, with which default."""
    shared: dict[str, tuple[str, dict[str, Option]]] = {}  # of run and recipe: panel, and the option in each method
    own: dict[str, dict[str, Option]] = {}  # of the methods: the option in each
    for name, entry in methods.items():
        for part, each in known_options(entry):
            if part == "method":
                own.setdefault(each.name, {})[name] = each
            else:
                panel = RECIPE if part == "recipe" else RUN_PANELS.get(each.name, HOW)
                shared.setdefault(each.name, (panel, {}))[1][name] = each
    flags = {}
    for option, (panel, having) in shared.items():
        usual = GENERAL[option] if len(methods) > 1 else next(iter(having.values()))
        flags[option] = _Flag(option=usual, panel=panel, help=_help(usual, having))
    for option, having in own.items():
        owner, first = next(iter(having.items()))
        if option in flags:
            flags[option] = replace(flags[option], help=f"{flags[option].help} {_by_method(having)}")
        elif len(having) == 1:
            flags[option] = _Flag(option=first, panel=f"Options of {owner}", help=_help(first))
        else:
            flags[option] = _Flag(option=replace(first, default=None), panel=SEVERAL, help=_by_method(having))
    return flags


def _by_method(having: Mapping[str, Option]) -> str:
    """Help of an option of several methods, put together where help and default are the same."""
    groups: dict[str, list[str]] = {}
    for name, each in having.items():
        groups.setdefault(_help(each), []).append(name)
    return " ".join(f"{', '.join(names)}: {words}" for words, names in groups.items())


def _help(option: Option, having: Mapping[str, Option] | None = None) -> str:
    """Help of an option, with its values and its default; and with that of methods that have another."""
    words = option.help + (f" One of {', '.join(option.choices)}." if option.choices else "")
    others: dict[Any, list[str]] = {}
    for name, each in (having or {}).items():
        if each.default != option.default:
            others.setdefault(each.default, []).append(name)
    said = [] if option.default in (None, "", ()) or option.default is False and not others else [_word(option.default)]
    said += [f"{', '.join(names)}: {_word(value)}" for value, names in others.items()]
    return f"{words} (default: {'; '.join(said)})" if said else words


def _word(value: Any) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


class TrainCommand(TyperCommand):
    """A command whose help is about the methods that it is given with."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Note the methods before help, which ends the parsing, is asked for."""
        named = ctx.meta.setdefault("methods", [])
        for word, following in zip(args, [*args[1:], ""], strict=True):
            if word in ("--method", "-m") or word.startswith("--method="):
                named += split_at_commas([word.partition("=")[2] or following])
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Show all flags, or those of the methods that were named."""
        methods = ctx.meta["methods"]
        if not methods or not METHODS.keys() >= set(methods):
            super().format_help(ctx, formatter)
            return
        shown, flags, every = copy(self), _flags({name: METHODS[name] for name in methods}), _flags(METHODS)
        shown.params = []
        for parameter in self.params:
            if parameter.name in flags:
                parameter = copy(parameter)
                flag = flags[parameter.name]
                parameter.help = flag.help  # type: ignore[attr-defined]
                parameter.rich_help_panel = flag.panel  # type: ignore[attr-defined]
            if parameter.name in flags or parameter.name not in every:
                shown.params.append(parameter)
        super(TrainCommand, shown).format_help(ctx, formatter)


def with_training_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command a flag for every option there is.

    Parameters
    ----------
    command : callable
        Its own options are keyword parameters. The values of flags that the user gave reach it as further keywords; the
        others are left out, since their defaults depend on the method.

    Returns
    -------
    callable
        With a signature that Typer reads.
    """
    flags = _flags(METHODS)

    @wraps(command)
    def wrapped(context: typer.Context, **values: Any) -> None:
        given = {name: value for name, value in values.items() if name not in flags or _is_given(context, name)}
        command(**given | {name: whole_numbers(name, given[name]) for name in REPEATED if name in given})

    own = inspect.signature(command, eval_str=True).parameters.values()
    parameters = [parameter for parameter in own if parameter.kind is not parameter.VAR_KEYWORD]
    parameters = [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in parameters]
    parameters.append(inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context))
    parameters += (_parameter(flag) for flag in flags.values())
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapped


def whole_numbers(name: str, words: Sequence[str]) -> list[int]:
    """Read numbers of an option, or words for one, that were given one a flag, several with commas, or both."""
    option, numbers = GENERAL[name], []
    known = option.words
    for word in (each.strip() for text in words for each in text.split(",")):
        if word not in known and not word.removeprefix("-").isdecimal():
            wanted = " or ".join(("whole numbers", *known))
            raise UsageError(f"--{name}: wanted {wanted}, several with commas between them, got {word!r}")
        numbers.append(option.check(word if word in known else int(word)))
    return numbers


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _parameter(flag: _Flag) -> inspect.Parameter:
    """Make the parameter that becomes the flag."""
    option, word = flag.option, f"--{flag.option.flag}"
    kind, default = option.kind, option.default
    if kind is bool:
        word = f"{word}/--no-{word[2:]}"
    if kind == tuple[str, ...]:
        kind, default = list[str], []
    elif option.name in REPEATED:
        kind, default = list[str], [str(default)]
    elif default is None:
        kind = kind | None
    made = typer.Option(word, help=flag.help, rich_help_panel=flag.panel, show_default=False)
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, made]
    )
