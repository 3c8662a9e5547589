"""That every method's step is recorded, comes out the same, and what recording is worth."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product

from cptlite.timing.clock import seconds_of
from cptlite.training.loop import train
from cptlite.training.recipe import Recipe
from gpu_parts.equality import difference
from gpu_parts.setting import CASES, Row, Setting, begin, label

__all__ = ["graphs"]

RECIPE = Recipe(epochs=40, batch_size=8)  # ten steps an epoch on 80 rows
RUNS = (1, 3)
FRACTIONS = (1.0, 0.5)


def graphs(setting: Setting) -> Iterator[Row]:
    """Every method, alone and together, on all classes and on some, recorded and not; steps of the demo's sizes."""
    backbone = setting.backbone("demo", precision="float32")
    for (name, options), runs, fraction in product(CASES, RUNS[setting.small :], FRACTIONS[setting.small :]):
        setting.tell(f"{label(name, options)}, {runs} together, classes {fraction:g}")
        recipe = Recipe(**{**vars(RECIPE), "class_fraction": fraction, "epochs": 1 if setting.small else RECIPE.epochs})
        row: Row = {"method": label(name, options), "runs": runs, "class_fraction": fraction}
        states = {}
        for recorded in (True, False):
            method, states[recorded] = begin(backbone, name, options, recipe, runs)
            seconds = seconds_of(partial(train, method, states[recorded], cuda_graphs=recorded), setting.place)
            row["recorded_s" if recorded else "plain_s"] = seconds / states[recorded][0].steps_done
        pairs = [
            (state.learnables[key], value)
            for state, other in zip(states[True], states[False], strict=True)
            for key, value in other.learnables.items()
        ]
        yield {**row, "graph": states[True][0].graph, "difference": max(difference(*pair) for pair in pairs)}
