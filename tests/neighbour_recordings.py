"""Reads recordings of the neighbours' released code: golden/neighbours, which has a README of its own.

The folder and the files' prefix come from CPTLITE_GOLDEN_DIR and CPTLITE_GOLDEN_TAG.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from golden_cases import FOLDER, TAG, check_steps, description, make_task, recording, start_from, text_encoder
from started import Started
from torch import Tensor

from cptlite.methods.base import Problem, PromptMethod

ROOM = "neighbours"
NEIGHBOURS = FOLDER / ROOM
Named = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def neighbour(part: str) -> dict[str, np.ndarray]:
    """Arrays of one recording, such as ``gda``."""
    return recording(part, ROOM)


def said_of(part: str) -> dict[str, Any]:
    """What the JSON says about one recording."""
    return description(part, ROOM)


def cases_of(part: str) -> list[str]:
    """Cases of a prompt method's recording; none where another folder has no such recording."""
    return list(said_of(part)["cases"]) if (NEIGHBOURS / f"{TAG}_{part}.json").exists() else []


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


def one_task_problem(part: str, way: str, template: str = "a photo of a {}.") -> Problem:
    """The one task of a prompt method's recording; tokens that the small CLIP has zeros for are zeros."""
    task = said_of(part)["task"]
    return Problem(tasks=(make_task(task["name"], task["classes"], template),), text=text_encoder(way, fill=False))


def start_from_recorded(part: str, case: str, method: PromptMethod, named: Named | None = None) -> Started:
    """A prompt method from where the original started in a case; ``named`` makes our names of the original's."""
    begin = f"{case}/init/"
    params = [name.removeprefix(begin) for name in neighbour(part) if name.startswith(begin)]
    return start_from(method, neighbour(part), begin, params, named)


def check_prompt_case(
    part: str,
    case: str,
    method: PromptMethod,
    *,
    ours: Mapping[str, str] | None = None,
    labels: Tensor | None = None,
    **how: Any,
) -> Started:
    """Check a prompt method from where the original started, as `check_steps` does; the method after it.

    ``ours`` has our names of learnables by those of the original, where these are not the usual ones.
    """

    def renamed(recorded: dict[str, Tensor]) -> dict[str, Tensor]:
        assert ours is not None
        return {ours[key]: value for key, value in recorded.items()}

    named, given = renamed if ours else None, tensors(part)
    arrays = {
        name.removeprefix(f"{case}/"): each for name, each in neighbour(part).items() if name.startswith(f"{case}/")
    }
    started = start_from_recorded(part, case, method, named)
    if "optimizer" in how:
        how["optimizer"] = how["optimizer"](started.learnables.values())
    within: dict[str, Any] = {"logits_within": 1e-3, "gradients_within": 1e-4}
    labels = given["labels"] if labels is None else labels
    check_steps(started, arrays, given["image_features"], labels, named=named, **within, **how)
    return started
