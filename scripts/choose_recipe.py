"""Choose the ``full`` recipe by accuracy on validation rows: steps, rate, weight decay, averaging, early stop.

    python scripts/choose_recipe.py --out choice                        # how many steps, at each number of shots
    python scripts/choose_recipe.py --out choice --table rates          # rate and weight decay, by the steps chosen
    python scripts/choose_recipe.py --out choice --table rates --drawings 2 --views 8
    python scripts/choose_recipe.py --out choice --table full                 # what came of it
    python scripts/choose_recipe.py --out choice --table many --shots 32 128  # and with more images
    python scripts/choose_recipe.py --out choice --table full --images DATA --datasets plant_seedling dtd

The images are drawings of the demo's kind, not the demo's own: another seed, 128 training and 40 validation images a
class; the one test image that a dataset must have is not looked at. With --images they are datasets that are there. A
few training images are learned from, all validation images scored but those that are drawn for early stopping.

Prints a line per candidate: accuracy in percent, mean over tasks and seeds, with the last step's weights, with the mean
of the last fifth of the steps, and with the step that was best on up to 4 validation images a class; then how far the
first is from the paper's recipe, with the 95 % interval over paired seeds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cptlite.backbones import Backbone, load_backbone
from cptlite.cache import FeatureCache, open_cache
from cptlite.cache.encode import encode_dataset
from cptlite.classifiers import Classifier
from cptlite.datasets import load_catalog, read_dataset
from cptlite.datasets.views import ViewConfig
from cptlite.drawings import draw_suite
from cptlite.methods.base import FewShotRows, Problem, PromptMethod
from cptlite.methods.table import find_method
from cptlite.metrics import paired_interval
from cptlite.runs.rows import draw_few_shots
from cptlite.splits import few_shot_rows
from cptlite.text.encoder import TextEncoder
from cptlite.training.loop import train
from cptlite.training.recipe import FULL, RECIPES, Recipe
from cptlite.training.state import TrainingState

ROWS_PER_CLASS = {"train": 128, "val": 40, "test": 1}  # a catalogue's dataset has test images: not looked at
STEPS = (38, 75, 150, 300, 600)
LOOKS = 12  # at a training, for early stopping
AVERAGED = 0.8  # of the steps, after which the mean begins
PAPER = Recipe()


def full(**changes: Any) -> Recipe:
    """Return the full recipe with other numbers."""
    return Recipe(recipe=FULL, **{**RECIPES[FULL], **changes})


def flat(lr: float = 0.003, **changes: Any) -> Recipe:
    """Return it with one rate for any number of shots."""
    return full(lr=lr, warmup_lr=lr / 10, lr_shots=0, **changes)


TABLES = {
    "steps": {f"{steps} steps": flat(epochs=steps, epochs_per_shot=0) for steps in STEPS},
    "rates": {
        **{f"lr {lr:g}": flat(lr) for lr in (0.003, 0.0005, 0.001, 0.01)},
        "weight decay 0.05": flat(weight_decay=0.05),
        "weight decay 0": flat(weight_decay=0),
        "sgd 0.02": flat(0.02, optimizer="sgd"),
    },
    "full": {"full": full()},
    "many": {"full": full(), "full, 1200 steps": full(epochs=1200)},
}


def make_caches(given: argparse.Namespace, backbone: Backbone) -> list[FeatureCache]:
    """Draw the suite, or take the images that are there, and encode them; or open what was made before."""
    root = given.images or given.out / f"drawings-{given.drawings}"
    if not given.images:
        draw_suite(root, seed=given.drawings, rows_per_class=ROWS_PER_CLASS)
    caches = given.out / f"cache-{'images' if given.images else given.drawings}-{given.views}"
    datasets = [read_dataset(spec, root) for spec in load_catalog().resolve(given.datasets or ["demo"])]
    views = ViewConfig(views=given.views)
    return [open_cache(encode_dataset(dataset, backbone, caches, views=views).path) for dataset in datasets]


def scored_rows(caches: Sequence[FeatureCache], shots: int, seed: int) -> FewShotRows:
    """Read the validation rows of all caches but those that `draw_few_shots` draws."""
    features, labels, offset = [], [], 0
    for cache in caches:
        train, val = (
            np.stack([cache.row_tasks(split), cache.labels(split)], axis=1) for split in ("train", "val")
        )  # (N, 2)
        drawn = few_shot_rows(train, val, shots, seed)[1]
        rest = np.setdiff1d(np.arange(cache.num_rows("val")), drawn)
        features.append(torch.from_numpy(cache.features("val", rest)))
        labels.append(torch.from_numpy(cache.labels("val")[rest]).long() + offset)
        offset += sum(len(task.class_names) for task in cache.tasks)
    return FewShotRows(features=torch.cat(features), labels=torch.cat(labels))


@torch.no_grad()
def accuracy(classifier: Classifier, problem: Problem, rows: FewShotRows) -> float:
    """Mean over the tasks of the share of rows that are right."""
    shares = []
    for start, stop in problem.class_ranges:
        here = (rows.labels >= start) & (rows.labels < stop)
        best = classifier.scores(rows.features[here, 0], slice(start, stop)).argmax(dim=-1)
        shares.append((best == rows.labels[here] - start).float().mean().item())
    return sum(shares) / len(shares)


class Watch:
    """Looks at one training as it goes: the mean of its last steps, and its best step on drawn validation rows."""

    def __init__(self, method: PromptMethod, epochs: int, val: FewShotRows) -> None:
        self.method, self.epochs, self.val = method, epochs, val
        self.state: TrainingState | None = None
        self.mean: dict[str, Tensor] = {}
        self.best: dict[str, Tensor] = {}
        self.most, self.counted = -1.0, 0

    def __call__(self, done: int, loss: float) -> None:
        """Take a look after an epoch."""
        assert self.state is not None
        learned = {name: value.detach().clone() for name, value in self.state.learnables.items()}
        if done > AVERAGED * self.epochs:
            self.counted += 1
            for name, value in learned.items():
                self.mean[name] = value if self.counted == 1 else self.mean[name].lerp(value, 1 / self.counted)
        if done % max(1, self.epochs // LOOKS) == 0 or done == self.epochs:
            share = accuracy(self.method.classifier(learned), self.method.problem, self.val)
            if share >= self.most:
                self.most, self.best = share, learned


def try_recipe(
    name: str, problem: Problem, caches: Sequence[FeatureCache], recipe: Recipe, shots: int, seeds: Sequence[int]
) -> np.ndarray:
    """Train a method on every seed's rows, together; accuracy by way of ending and seed: ndarray of shape (3, R)."""
    entry, recipe = find_method(name), recipe.at(shots)
    method = entry.method(problem, entry.new_options(), len(seeds))
    states, watches = [], []
    for seed in seeds:
        rows, val = draw_few_shots(caches, shots=shots, seed=seed, device=torch.device("cpu"))
        watches.append(Watch(method, recipe.epochs, val))
        learnables = method.start(torch.Generator().manual_seed(seed))
        states.append(
            TrainingState(
                learnables,
                rows,
                recipe,
                seed=seed,
                task_sizes=problem.task_sizes,
                on_epoch=watches[-1],
            )
        )
        watches[-1].state = states[-1]
    train(method, states)
    scored = [scored_rows(caches, shots, seed) for seed in seeds]
    ends = [[state.learnables for state in states], *([getattr(w, end) for w in watches] for end in ("mean", "best"))]
    return np.array(
        [
            [accuracy(method.classifier(each), problem, rows) for each, rows in zip(end, scored, strict=True)]
            for end in ends
        ]
    )


def say(words: str, scores: np.ndarray, paper: np.ndarray, seconds: float) -> None:
    """Print a candidate's line."""
    mean, low, high = (100 * value for value in paired_interval(scores[0], paper[0]))
    ends = " ".join(f"{100 * end.mean():6.1f}" for end in scores)
    print(f"{words:42} {ends}   {mean:+5.1f} [{low:+.1f}, {high:+.1f}]   {seconds:4.0f} s", flush=True)


def main() -> None:
    """Try every candidate of a table, beside the paper's recipe."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("choice"))
    parser.add_argument("--table", choices=TABLES, default="steps")
    parser.add_argument("--drawings", type=int, default=1, help="seed of the drawings")
    parser.add_argument("--views", type=int, default=1)
    parser.add_argument("--images", type=Path, help="root of datasets that are there, instead of drawings")
    parser.add_argument("--datasets", nargs="*", default=[], help="by default the demo's six")
    parser.add_argument("--methods", nargs="+", default=["softcpt", "coop-ca", "coop-mt"])
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--seeds", type=int, default=10)
    given = parser.parse_args()
    backbone = load_backbone("demo", device="cpu")
    caches = make_caches(given, backbone)
    text = TextEncoder(backbone.text_tower, backbone.tokenizer)
    problem = Problem(tasks=tuple(task for cache in caches for task in cache.tasks), text=text)
    print(f"{'':42} {'last':>6} {'mean':>6} {'best':>6}   last against paper")
    for name in given.methods:
        for shots in given.shots:
            paper: np.ndarray | None = None
            for words, recipe in {"paper": PAPER, **TABLES[given.table]}.items():
                started = time.monotonic()
                scores = try_recipe(name, problem, caches, recipe, shots, range(1, given.seeds + 1))
                paper = scores if paper is None else paper
                say(f"{name}, {shots} shots, {words}", scores, paper, time.monotonic() - started)


if __name__ == "__main__":
    main()
