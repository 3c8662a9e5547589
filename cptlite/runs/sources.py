"""Runs that start where another ended: whose context they take, and whether it fits.

Axes: T tasks, L context tokens, W text width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cptlite.backbones import Backbone
from cptlite.config import RunConfig
from cptlite.datasets.text_files import shown
from cptlite.errors import DataError, UsageError
from cptlite.files import read_file, sha256_of
from cptlite.methods.options import PinnedRun
from cptlite.methods.table import find_method
from cptlite.runs.files import CONFIG, PROMPTS, SOURCE, read_json
from cptlite.runs.prompts import load_prompts, naming_lost_prompts, unpack_prompts

__all__ = ["check_source", "first_config", "given_source", "learns_source", "pinned", "read_source", "start_from"]


def pinned(config: RunConfig) -> RunConfig:
    """Say beside each file that an option names what is in it; see `MethodOptions.pinned`.

    Raises
    ------
    DataError
        There is no such file.
    """
    return replace(config, options=config.options.pinned())


def given_source(config: RunConfig) -> PinnedRun | None:
    """Return the run that a pinned configuration names to start from, if it names one."""
    text = getattr(config.options, "source", "")
    found = PinnedRun.read(text)
    if text and not found:
        raise UsageError(f"wanted a source with the digest of what it holds behind it, got {text!r}: pin it first")
    return found


def learns_source(config: RunConfig) -> bool:
    """Whether a run learns first what it starts from."""
    return bool(config.entry.starts_from) and given_source(config) is None


def first_config(config: RunConfig) -> RunConfig:
    """Return what such a run does first: it learns all tasks jointly."""
    method = config.entry.starts_from
    defaults = find_method(method).new_options()
    own = {each.name: getattr(config.options, each.name, None) for each in fields(defaults)}
    options = replace(defaults, **{name: value for name, value in own.items() if value is not None})
    return replace(config, method=method, options=options, separate=False)


def check_source(config: RunConfig, backbone: Backbone) -> None:
    """Refuse a run to start from that was learned with another backbone, or around names that stand elsewhere.

    Raises
    ------
    UsageError, DataError
        It says which of the two; or the run is not there, or not the one that there was.
    """
    source = given_source(config)
    if source is None:
        return
    read_source(config, None)
    stored = read_json(source.folder / CONFIG, "config", "caches")
    theirs, caches = (each if isinstance(each, dict) else {} for each in (stored["config"], stored["caches"]))
    weights = {str(each.get("weights_sha256")) for each in caches.values() if isinstance(each, dict)}
    if weights != {backbone.weights_sha256}:
        raise DataError(
            f"wanted a run to start from that was learned with {backbone.name!r}, got one of "
            f"{shown(str(theirs.get('backbone')))!r}, or of other weights, at {shown(source.folder)}: give --source "
            f"another run, or --backbone"
        )
    position, ours = theirs.get("position", "end"), vars(config.options).get("position", "end")
    if position != ours:
        raise UsageError(
            f"wanted a run to start from with --position {ours}, got one with "
            f"{shown(str(position))} at {shown(source.folder)}: give the same --position, or another run"
        )


def read_source(config: RunConfig, folder: Path | None) -> dict[str, Tensor]:
    """Read what a run starts from: of the run that was given, or what it learned first into its own folder.

    Raises
    ------
    DataError
        It is not there, damaged, or has changed since it was named.
    """
    source = given_source(config)
    if source is None:
        assert folder is not None
        with naming_lost_prompts(folder / SOURCE):
            return load_prompts(folder / SOURCE)
    with naming_lost_prompts(source.folder):
        content = read_file(source.folder / PROMPTS)
        learned = unpack_prompts(content)
    if not sha256_of(content).startswith(source.digest):
        raise DataError(
            f"wanted what {shown(source.folder)} had learned when it was given as --source (sha256 "
            f"{source.digest}...), got something else there now: put it back, or give it anew"
        )
    return learned


@torch.no_grad()
def start_from(learnables: Mapping[str, nn.Parameter], source: Mapping[str, Tensor], config: RunConfig) -> None:
    """Start every context (T, L, W) at the one of a source, (1, L, W).

    Raises
    ------
    UsageError
        The source has no such context.
    """
    context, there = learnables["context"], source.get("context")
    given = given_source(config)
    where = f" at {shown(given.folder)}" if given else ""
    if there is None or there.ndim != 3 or len(there) != 1:
        got: Any = sorted(source) if there is None else f"contexts of shape {tuple(there.shape)}"
        raise UsageError(
            f"wanted a run to start from that learned one context for all tasks, got {shown(str(got))}{where}: give "
            f"--source a run of {config.entry.starts_from}"
        )
    for axis, what, flag in ((1, "tokens", "--context-length"), (2, "numbers a token", "--backbone")):
        if there.shape[axis] != context.shape[axis]:
            raise UsageError(
                f"wanted a run to start from with a context of {context.shape[axis]} {what}, got {there.shape[axis]}"
                f"{where}: give {flag} as that run had it, or another run"
            )
    context.copy_(there.to(context).expand_as(context))
