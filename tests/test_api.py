"""cptlite from Python: the names of the package, probes on plain arrays, and a training in memory."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from trees import draw_classes
from typer.testing import CliRunner

import cptlite
from cptlite import FewShotClassifier, open_cache, open_caches
from cptlite.backbones import Backbone, load_backbone
from cptlite.cache import FeatureCache
from cptlite.cli import app
from cptlite.errors import DataError, UsageError

README = Path(__file__).parents[1] / "README.md"
SETTINGS = {"shots": 2, "epochs": 3, "batch_size": 4, "seed": 2}


def call(*words: str | Path) -> None:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two datasets and their caches of random:demo."""
    folder = tmp_path_factory.mktemp("shelf")
    leaves = draw_classes(folder / "leaves", ["ash", "sweet_chestnut", "elm"], images=10)
    shells = draw_classes(folder / "shells", ["conch", "whelk"], images=10)
    words = ["--backbone", "random:demo", "--views", "2", "--cache-dir", folder / "cache"]
    call("cache", "--dataset", leaves, "--dataset", shells, *words)
    return folder


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("random:demo", device="cpu")


@pytest.fixture
def caches(shelf: Path, backbone: Backbone) -> Iterator[list[FeatureCache]]:
    opened = open_caches(shelf / "cache", backbone)
    yield opened
    for cache in opened:
        cache.close()


@pytest.fixture
def fitted(backbone: Backbone, caches: list[FeatureCache]) -> FewShotClassifier:
    return FewShotClassifier("coop-mt", backbone, **SETTINGS).fit(caches)


# The package's own names

PROBE_ON_PLAIN_ARRAYS = """
import sys, cptlite
print([name for name in ("torch", "numpy", "h5py", "sklearn", "clip") if name in sys.modules])
from cptlite import LinearProbe
X, y = [[0.0, 1.0], [1.0, 0.0], [0.1, 1.0]], ["b", "a", "b"]
print(LinearProbe().fit(X, y).predict([[0.0, 2.0], [2.0, 0.0]]).tolist())
"""


def test_the_package_loads_nothing_until_a_name_is_asked_for() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE_ON_PLAIN_ARRAYS], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['b', 'a']"]


def test_type_checkers_see_the_names_that_are_loaded() -> None:
    assert cptlite.__file__ is not None
    tree = ast.parse(Path(cptlite.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: node.module for node in imports for alias in node.names}
    assert seen == cptlite.HOMES
    assert {*seen, "__version__"} == set(cptlite.__all__) == set(dir(cptlite))
    for name, home in seen.items():
        assert getattr(cptlite, name) is getattr(sys.modules[home or ""], name)
    with pytest.raises(AttributeError, match="no attribute 'LinearProbes'"):
        _ = getattr(cptlite, "LinearProbes")  # noqa: B009


TEXT = {"text_weights": np.eye(3, 8)}
PROBES: dict[str, dict[str, Any]] = {
    "LinearProbe": {},
    "PrototypeClassifier": {},
    "TipAdapter": TEXT,
    "TipAdapterF": {**TEXT, "epochs": 2},
    "CrossModal": {**TEXT, "steps": 50},
    "LPPlusPlus": TEXT,
}


@pytest.mark.parametrize("name", PROBES)
def test_probes_stand_alone(name: str) -> None:
    y = np.arange(24) % 3
    X = np.eye(3, 8)[y] + np.random.default_rng(0).normal(0, 0.1, (24, 8))
    probe = getattr(cptlite, name)(**PROBES[name])
    assert probe.fit(X, y) is probe
    assert probe.score(X, y) == 1


# Fit, evaluate, class weights


@pytest.mark.parametrize("method", ["zeroshot", "softcpt", "kgcoop", "linear-probe", "tip-adapter-f"])
def test_the_same_bytes_as_the_command_line(
    shelf: Path, tmp_path: Path, backbone: Backbone, caches: list[FeatureCache], method: str
) -> None:
    flags = [word for name, value in SETTINGS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    call("train", "--method", method, *flags, "--device", "cpu", "--cache-dir", shelf / "cache", "--out", tmp_path)
    (folder,) = [path.parent for path in tmp_path.rglob("results.json")]
    model = FewShotClassifier(method, backbone, **SETTINGS).fit(caches)
    with np.load(folder / "classifier.npz") as stored:
        for name, value in model.classifier_.arrays().items():
            assert stored[name].tobytes() == value.tobytes(), name
        assert stored["names"].tolist() == model.class_names_
        if method != "tip-adapter-f":
            assert stored["weights"].tobytes() == model.class_weights().tobytes()
    results = json.loads((folder / "results.json").read_text())
    assert model.evaluate(caches) == results["tasks"]
    assert (model.num_parameters_, model.choices_) == (results["parameters"], results["choices"])


def test_fit_writes_nothing_and_leaves_the_users_generator_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone: Backbone, caches: list[FeatureCache]
) -> None:
    monkeypatch.chdir(tmp_path)
    state = torch.get_rng_state()
    told: list[int] = []
    model = FewShotClassifier("softcpt", backbone, variant="cata", **SETTINGS)
    assert model.fit(caches, on_epoch=lambda done, loss: told.append(done)) is model
    assert torch.equal(torch.get_rng_state(), state)
    assert told == [1, 2, 3]
    assert not list(tmp_path.iterdir())
    assert model.config_.variant == "cata" and model.config_.context_length == 16
    assert [task.id for task in model.tasks_] == ["leaves", "shells"]


def test_only_evaluate_reads_test_rows(
    monkeypatch: pytest.MonkeyPatch, backbone: Backbone, caches: list[FeatureCache]
) -> None:
    read: list[str] = []
    features = FeatureCache.features

    def watched(cache: FeatureCache, split: str, *rest: Any, **more: Any) -> np.ndarray:
        read.append(split)
        return features(cache, split, *rest, **more)

    monkeypatch.setattr(FeatureCache, "features", watched)
    model = FewShotClassifier("linear-probe", backbone, **SETTINGS).fit(caches)
    assert set(read) == {"train", "val"}
    read.clear()
    assert model.evaluate(caches) == model.evaluate(caches)
    assert read == ["test"] * 4


def test_scores_and_predictions_are_those_of_evaluate(fitted: FewShotClassifier, caches: list[FeatureCache]) -> None:
    assert fitted.class_weights().shape == (5, fitted.backbone.embed_dim)
    for cache, classes in zip(caches, (slice(0, 3), slice(3, 5)), strict=True):
        (task,) = cache.tasks
        X, y = cache.features("test")[:, 0], cache.labels("test")
        scores = fitted.scores(X, task.id)
        np.testing.assert_allclose(scores, fitted.scores(torch.from_numpy(X))[:, classes], rtol=1e-5)
        right = fitted.predict(X, task.id) == np.array(task.class_names)[y]
        assert right.mean() == pytest.approx(fitted.evaluate(caches)[task.id]["acc1"])


def test_a_single_task_needs_no_naming(backbone: Backbone, caches: list[FeatureCache]) -> None:
    model = FewShotClassifier("prototype", backbone, **SETTINGS).fit(caches[1:])
    assert set(model.predict(caches[1].features("test")[:, 0])) <= {"conch", "whelk"}


def test_what_cannot_be_is_refused(fitted: FewShotClassifier, backbone: Backbone, caches: list[FeatureCache]) -> None:
    def fit(*words: str, **options: Any) -> None:
        FewShotClassifier(*words, backbone, **options).fit(caches)

    with pytest.raises(UsageError, match="unknown method 'softcp'"):
        fit("softcp")
    with pytest.raises(UsageError, match="unknown configuration key 'shot'"):
        fit("softcpt", shot=16)
    with pytest.raises(UsageError, match="unknown variant 'nat'"):
        fit("softcpt", variant="nat")
    with pytest.raises(UsageError, match="epochs must be"):
        fit("softcpt", epochs=0)
    with pytest.raises(UsageError, match="settle device, got 'cuda'"):
        fit("softcpt", device="cuda")
    with pytest.raises(UsageError, match="at least one cache"):
        FewShotClassifier("softcpt", backbone).fit([])
    with pytest.raises(NotFittedError, match="call fit first"):
        FewShotClassifier("softcpt", backbone).class_weights()
    with pytest.raises(UsageError, match=r"\(leaves, shells\) .* those of shells"):
        fitted.evaluate(caches[1:])
    with pytest.raises(UsageError, match="unknown task 'birds': give one of leaves, shells"):
        fitted.predict(np.zeros((1, backbone.embed_dim)), "birds")
    with pytest.raises(UsageError, match="wanted the task"):
        fitted.predict(np.zeros((1, backbone.embed_dim)))
    with pytest.raises(UsageError, match=rf"\(images, {backbone.embed_dim}\), got \(2, 3\)"):
        fitted.scores(np.zeros((2, 3)))


def test_votes_are_no_class_weights(backbone: Backbone, caches: list[FeatureCache]) -> None:
    model = FewShotClassifier("tip-adapter", backbone, **SETTINGS).fit(caches)
    with pytest.raises(UsageError, match="tip-adapter has no fixed class weights"):
        model.class_weights()


# Caches


def test_caches_of_other_weights_are_refused(shelf: Path, caches: list[FeatureCache]) -> None:
    other = load_backbone("random:demo:1", device="cpu")
    with pytest.raises(DataError, match="no cached features of backbone 'random:demo:1'"):
        open_caches(shelf / "cache", other)
    with pytest.raises(DataError, match="weights_sha256"):
        FewShotClassifier("zeroshot", other).fit(caches)


def test_caches_are_opened_by_name_in_the_order_given(shelf: Path, backbone: Backbone) -> None:
    names = ["shells", "leaves"]
    opened = open_caches(shelf / "cache", backbone, names)
    assert [cache.fingerprint.dataset for cache in opened] == names
    with pytest.raises(DataError, match="no feature cache at .*birds.h5"):
        open_caches(shelf / "cache", backbone, ["leaves", "birds"])
    with open_cache(opened[0].path) as cache:
        assert cache.num_rows("train") == 10


def test_a_cache_that_cannot_be_used_is_not_left_out_in_silence(
    shelf: Path, tmp_path: Path, backbone: Backbone
) -> None:
    folder = tmp_path / backbone.slug
    folder.mkdir()
    (folder / "broken.h5").write_bytes(b"no")
    (folder / "leaves.h5").write_bytes((shelf / "cache" / backbone.slug / "leaves.h5").read_bytes())
    with pytest.raises(DataError, match=r"broken.h5 cannot be used.*name the datasets to open"):
        open_caches(tmp_path, backbone)
    assert len(open_caches(str(tmp_path), backbone, ["leaves"])) == 1


# README


def test_readmes_python_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = re.search(r"<!-- ci:python -->\n```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert found is not None
    code = found[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    monkeypatch.chdir(tmp_path)
    draw_classes(tmp_path / "demo-shape", ["round", "square"], images=32)
    call("cache", "--dataset", "demo-shape", "--backbone", "demo", "--cache-dir", "demo/cache")
    names: dict[str, Any] = {}
    exec(compile(code, str(README), "exec"), names)
    assert names["weights"].shape == (2, names["backbone"].embed_dim)
    assert names["scores"]["demo-shape"]["rows"] > 0
