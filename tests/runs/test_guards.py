"""Numbers that are none, wherever they come in: no method scores them.

Axes: N rows, B images, V views, M patches, C classes, D joint dimension.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from run_bench import BACKBONE, RunBench, classifier_of, configure, least
from torch import Tensor

from cptlite.backbones import load_backbone
from cptlite.cache import CacheFolder, FeatureCache
from cptlite.classifiers import LinearClassifier
from cptlite.errors import CptliteError
from cptlite.methods.base import Learned
from cptlite.methods.table import METHODS
from cptlite.runs.evaluate import evaluate
from cptlite.runs.execute import learn_in_memory
from cptlite.runs.folders import run_folder
from cptlite.runs.guards import check_learned, sound_features, sound_scores

STEPPED = [name for name, entry in METHODS.items() if entry.stepped]
NEEDY = [name for name, entry in METHODS.items() if entry.needs_rows]
BAD = (float("nan"), float("inf"), float("-inf"), 0.0)


def refused(bench: RunBench, config: Any, says: str) -> None:
    """The run ends with exit 1 and a message, and does not look done."""
    with pytest.raises(CptliteError, match=says) as caught:
        bench.train("runs", config)
    assert caught.value.exit_code == 1
    folder = run_folder(bench.folder / "runs", config)
    assert not list(folder.rglob("results.json")) and not list(folder.rglob("prompts.safetensors"))


def spoilt(bench: RunBench, method: str, split: str, value: float, rows: slice | int) -> None:
    """Spoil rows of the second cache: every number where they are to be 0, one of each vector where not."""
    bench.caches = Path(shutil.copytree(bench.caches, bench.folder / "cache"))
    (path,) = bench.caches.rglob("leaves.h5")
    with h5py.File(path, "r+", locking=False) as file:
        entry = METHODS[method]
        dataset = file[split]["local" if entry.needs_patches else "pre" if entry.needs_pre_projection else "features"]
        values = dataset[:]
        values[rows, ..., slice(None) if value == 0 else 3] = value
        dataset[:] = values


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("method", METHODS)
def test_rows_that_are_no_numbers_are_named(bench: RunBench, method: str, split: str, value: float) -> None:
    if split != "test" and method not in NEEDY:
        return
    # Which few of the training rows are drawn is not known here: all are spoilt, or the one of the test rows.
    spoilt(bench, method, split, value, 5 if split == "test" else slice(None))
    place = "row 5" if split == "test" else r"row \d+"
    says = rf"leaves\.h5, got others in {place} of split '{split}' \(image '"
    with pytest.raises(CptliteError, match=says) as caught:
        bench.train("runs", least(method))
    assert caught.value.exit_code == 1
    assert not list((bench.folder / "runs").rglob("results.json"))


WEIGHTS = {
    "text_projection": lambda model: model.text_projection,
    "positional_embedding": lambda model: model.positional_embedding,
    "token_embedding.weight": lambda model: model.token_embedding.weight,
    "ln_final.bias": lambda model: model.ln_final.bias,
    "transformer.resblocks.0.mlp.c_fc.weight": lambda model: model.transformer.resblocks[0].mlp.c_fc.weight,
}


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("method", METHODS)
def test_weights_that_are_no_numbers_are_named(bench: RunBench, method: str, name: str) -> None:
    backbone = load_backbone(BACKBONE, device="cpu")
    with torch.no_grad():
        WEIGHTS[name](backbone.model).view(-1)[3] = float("nan" if len(method) % 2 else "inf")
    refused(RunBench(backbone, bench.caches, bench.folder), least(method), rf"in {re.escape(name)}: give a --backbone")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 100.0, -1000.0])
@pytest.mark.parametrize("method", METHODS)
def test_a_scale_that_has_no_exponential_is_named(bench: RunBench, method: str, value: float) -> None:
    backbone = load_backbone(BACKBONE, device="cpu")
    with torch.no_grad():
        backbone.model.logit_scale.fill_(value)
    refused(RunBench(backbone, bench.caches, bench.folder), least(method), "logit_scale")


@pytest.mark.parametrize("warmup", [0, 1])
@pytest.mark.parametrize("method", STEPPED)
def test_a_diverged_training_says_so(bench: RunBench, method: str, warmup: int) -> None:
    refused(bench, configure(method, lr=1e9, warmup_epochs=warmup), r"diverged.*1e\+09.*smaller --lr")


def test_what_python_learns_is_looked_at_as_well(bench: RunBench) -> None:
    spoilt(bench, "linear-probe", "train", float("nan"), slice(None))
    config = least("linear-probe")
    with CacheFolder(bench.caches) as folder, pytest.raises(CptliteError, match=r"row \d+ of split 'train'"):
        learn_in_memory(config, bench.backbone, folder.open(bench.backbone, config.datasets))


# What was learned


def linear(**changed: Tensor) -> Learned:
    tensors = {"weights": torch.ones(3, 4), "bias": torch.zeros(3), **changed}
    return Learned(classifier=LinearClassifier(**tensors, logit_scale=1.0, unit_length=True), num_parameters=12)


def put(place: tuple[int, ...], value: float, *shape: int) -> Tensor:
    found = torch.ones(shape)
    found[place] = value
    return found


@pytest.mark.parametrize(
    ("learned", "says"),
    [
        (linear(weights=put((2, 1), float("nan"), 3, 4)), "the classifier's weights stopped being a number in row 2"),
        (linear(weights=put((1, 1), float("-inf"), 3, 4)), "the classifier's weights .*row 1"),
        (linear(bias=put((1,), float("inf"), 3)), "the classifier's bias .*row 1"),
        (linear(bias=put((0,), float("nan"), 3)), "the classifier's bias .*row 0"),
        (replace(linear(), learnables={"context": put((2, 0), float("inf"), 3, 2)}), "context stopped .* in row 2"),
        (replace(linear(), choices={"leaves": {"C": float("nan")}}), "it chose .*'leaves'"),
    ],
)
def test_what_was_learned_is_named_where_it_is_no_number(learned: Learned, says: str) -> None:
    with pytest.raises(CptliteError, match=says):
        check_learned(learned, least("linear-probe"))
    with pytest.raises(CptliteError, match=f"diverged in epoch 1 or before, with --lr 0.002: .*{says}"):
        check_learned(learned, least("coop-ca"))


def test_classes_without_rows_may_have_no_bias_and_learnables_no_more_than_a_size() -> None:
    check_learned(linear(bias=put((1,), float("-inf"), 3)), least("prototype"))
    check_learned(replace(linear(), learnables={"context": torch.full((2,), 9e3)}), least("coop-ca"))
    with pytest.raises(CptliteError, match="context holds 20000, wanted up to 10000"):
        check_learned(replace(linear(), learnables={"context": torch.full((2,), 2e4)}), least("coop-ca"))


# What is scored


def test_which_rows_have_a_direction() -> None:
    rows = torch.ones(6, 2, 3)  # (N, V, D)
    rows[1, 1, 2], rows[2, 0, 0], rows[3, 1] = float("nan"), float("-inf"), 0
    rows[5, 0, 1] = 0
    assert sound_features(rows).tolist() == [True, False, False, False, True, True]
    assert sound_features(rows[:, 0].half()).tolist() == [True, True, False, True, True, True]
    assert sound_features(rows[:0]).tolist() == []


def test_which_rows_can_be_ranked() -> None:
    nan, inf = float("nan"), float("inf")
    scores = torch.tensor([[0.0, 1.0], [-inf, 2.0], [-inf, -inf], [nan, 1.0], [inf, 1.0], [-inf, nan]])
    assert sound_scores(scores).tolist() == [True, True, False, False, False, False]


@pytest.mark.parametrize(
    "spoil", [lambda c: replace(c, weights=c.weights * float("nan")), lambda c: replace(c, bias=c.bias - float("inf"))]
)
def test_scores_that_are_no_numbers_are_named(bench: RunBench, spoil: Callable[[Any], Any]) -> None:
    config = least("prototype")
    classifier = spoil(classifier_of(bench.train("runs", config)).classifier)
    with CacheFolder(bench.caches) as folder:
        caches: list[FeatureCache] = folder.open(bench.backbone, config.datasets)
        with pytest.raises(CptliteError, match=r"finite scores, got others for row \d+ of split 'test' of .*coins\.h5"):
            evaluate(classifier, caches, torch.device("cpu"))
