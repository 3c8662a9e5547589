"""One flag per field of a training configuration, made from the fields, so that none can be forgotten."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

from cptlite.cli.options import HOW, WHAT
from cptlite.config import TrainConfig

__all__ = ["HELP", "REPEATED", "RESOLVED", "with_training_options"]

RECIPE = "Recipe"
PROMPTS = "Prompts"

RESOLVED = ("suite", "datasets", "backbone")
"""Fields that come from what is cached, not from a flag of their own."""

REPEATED = ("shots", "seed")
"""Fields whose flag can be given more than once."""

HELP: dict[str, tuple[str, str]] = {
    "method": (WHAT, "What to train; `cptlite methods` lists them."),
    "variant": (WHAT, "Variant of the method; by default its first."),
    "separate": (WHAT, "Learn prompts one task at a time, not jointly."),
    "shots": (WHAT, "Training images per class; repeatable."),
    "seed": (WHAT, "Draws the images and everything else; repeatable."),
    "recipe": (RECIPE, "paper, or fast: fewer and larger steps."),
    "epochs": (RECIPE, "Passes over the joint training set."),
    "batch_size": (RECIPE, "Images per step."),
    "optimizer": (RECIPE, "sgd or adamw."),
    "lr": (RECIPE, "Learning rate at its height."),
    "momentum": (RECIPE, "Of SGD; AdamW's first beta."),
    "weight_decay": (RECIPE, "Of the optimizer."),
    "warmup_epochs": (RECIPE, "Epochs at the warm-up rate before the cosine."),
    "warmup_lr": (RECIPE, "Learning rate of the warm-up."),
    "least_steps": (RECIPE, "Steps of an epoch; few rows make smaller batches, down to 32."),
    "class_fraction": (RECIPE, "Share of the classes not in a batch that its loss is over."),
    "context_length": (PROMPTS, "Context tokens of a class prompt, L."),
    "task_context_length": (PROMPTS, "Context tokens of a task prompt, M."),
    "class_context_length": (PROMPTS, "Context tokens of a class-feature prompt, Mc."),
    "position": (PROMPTS, "Where the class name stands: end, middle or front."),
    "context_init": (PROMPTS, "Words to start the class context from, not noise."),
    "task_context_init": (PROMPTS, "Words to start the task context from."),
    "class_context_init": (PROMPTS, "Words to start the class-feature context from."),
    "sub_network": (PROMPTS, "SoftCPT's input with class features: lin, linmean or lincls."),
    "freeze_class_context": (PROMPTS, "Leave SoftCPT's class-feature context as it starts."),
    "templates": (PROMPTS, "Zero-shot prompt with {} for the class name; several make an ensemble."),
    "text_path": (HOW, "fused (packed) or plain."),
    "text_memory": (HOW, "GiB a text forward may keep; more classes are done in chunks."),
    "cuda_graphs": (HOW, "Record a step on the GPU and replay it."),
    "device": (HOW, "auto, cpu, cuda or cuda:N."),
    "precision": (HOW, "Of the frozen towers: auto, float32, fp16 or bf16."),
}
"""Help panel and help of each field's flag."""


def with_training_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command a flag for every field of `TrainConfig`, with the field's type and default.

    Parameters
    ----------
    command : callable
        Its own options are keyword parameters. The method and the values of flags that the user gave reach it as
        further keywords; the others are left out, since their defaults depend on the method.

    Returns
    -------
    callable
        With a signature that Typer reads.
    """

    @wraps(command)
    def wrapped(context: typer.Context, **values: Any) -> None:
        optional = {item.name for item in fields(TrainConfig) if hasattr(TrainConfig, item.name)}
        command(**{name: value for name, value in values.items() if name not in optional or _is_given(context, name)})

    own = inspect.signature(command, eval_str=True).parameters.values()
    parameters = [parameter for parameter in own if parameter.kind is not parameter.VAR_KEYWORD]
    parameters = [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in parameters]
    parameters.append(inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context))
    types = get_type_hints(TrainConfig)
    parameters += (_flag(item.name, types[item.name]) for item in fields(TrainConfig) if item.name not in RESOLVED)
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapped


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _flag(name: str, kind: Any) -> inspect.Parameter:
    """Make the parameter that becomes ``--batch-size`` of ``batch_size``."""
    panel, words = HELP.get(name, (HOW, ""))
    flag = f"--{name.replace('_', '-')}"
    if kind is bool:
        flag = f"{flag}/--no-{flag[2:]}"
    if kind == tuple[str, ...]:  # one word a flag, which is repeated
        flag = flag.removesuffix("s")
    option = typer.Option(flag, help=words, rich_help_panel=panel)
    default = getattr(TrainConfig, name, "softcpt")
    if kind == tuple[str, ...]:
        kind, default = list[str], []
    if name in REPEATED:
        kind, default = list[kind], [default]  # type: ignore[valid-type]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])
