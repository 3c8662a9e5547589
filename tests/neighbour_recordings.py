"""Reads recordings of the neighbours' released code: golden/neighbours, which has a README of its own.

The folder and the files' prefix come from CPTLITE_GOLDEN_DIR and CPTLITE_GOLDEN_TAG.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from golden_cases import FOLDER, TAG, check_steps, make_task, start_from, text_encoder
from started import Started
from torch import Tensor

from cptlite.methods.base import Problem, PromptMethod

NEIGHBOURS = FOLDER / "neighbours"


@cache
def neighbour(part: str) -> dict[str, np.ndarray]:
    """Arrays of one recording, such as ``gda``."""
    with np.load(NEIGHBOURS / f"{TAG}_{part}.npz") as arrays:
        return dict(arrays)


@cache
def said_of(part: str) -> dict[str, Any]:
    """What the JSON says about one recording."""
    return json.loads((NEIGHBOURS / f"{TAG}_{part}.json").read_text())


def tensors(part: str, prefix: str = "") -> dict[str, Tensor]:
    """Arrays of one recording below a prefix, such as ``clap/``, as tensors of float32, int64 or bool."""
    found = {name.removeprefix(prefix): each for name, each in neighbour(part).items() if name.startswith(prefix)}
    kinds = {"f": torch.float32, "i": torch.int64, "b": torch.bool}
    return {name: torch.from_numpy(np.array(each)).to(kinds[each.dtype.kind]) for name, each in found.items()}


def assert_near(ours: Tensor | np.ndarray, recorded: np.ndarray | Tensor, tolerance: float) -> None:
    """Differences are within a share of the largest recorded value; shapes may differ by axes of one."""
    ours, recorded = (np.asarray(each, dtype=np.float64) for each in (ours, recorded))
    assert ours.size == recorded.size and np.isfinite(ours).all()
    assert np.abs(ours.reshape(recorded.shape) - recorded).max() <= tolerance * np.abs(recorded).max()


def one_task(part: str, way: str, template: str = "a photo of a {}.") -> Problem:
    """The one task of a prompt recording, through one of `EVERY_WAY`."""
    facts = said_of(part)["task"]
    return Problem(tasks=(make_task(facts["name"], facts["classes"], template),), text=text_encoder(way))


def check_prompt_case(
    method: PromptMethod, part: str, name: str, ours: Mapping[str, str], labels: Tensor, **how: Any
) -> Started:
    """Start a method where a case of a recording started and check it as `check_steps` does; the method after it.

    ``ours`` has our names of learnables by those of the original.
    """
    arrays = {key.removeprefix(f"{name}/"): each for key, each in neighbour(part).items() if key.startswith(f"{name}/")}

    def named(recorded: dict[str, Tensor]) -> dict[str, Tensor]:
        return {ours[key]: value for key, value in recorded.items()}

    started = start_from(method, arrays, "init/", ours, named)
    if "optimizer" in how:
        how["optimizer"] = how["optimizer"](started.learnables.values())
    check_steps(started, arrays, torch.from_numpy(neighbour(part)["image_features"]), labels, named=named, **how)
    return started
