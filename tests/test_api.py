"""cptlite from Python: the names of the package, probes on plain arrays, and a training in memory."""

from __future__ import annotations

import ast
import copy
import json
import pickle
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted
from trees import draw_classes
from typer.testing import CliRunner

import cptlite
from cptlite import FewShotClassifier, load_classifier, open_cache, open_caches
from cptlite.api.few_shot import SETTLED
from cptlite.backbones import Backbone, load_backbone
from cptlite.cache import FeatureCache
from cptlite.classifiers import JoinedClassifier
from cptlite.cli import app
from cptlite.config import known_options
from cptlite.errors import DataError, UsageError
from cptlite.methods.table import METHODS, find_method

README = Path(__file__).parents[1] / "README.md"
SETTINGS: dict[str, Any] = {"shots": 2, "epochs": 3, "batch_size": 4, "seed": 2}
NEEDED: dict[str, Any] = {"steps": 5, "supports": ("leaves", "shells")}


def settings(method: str, **more: Any) -> dict[str, Any]:
    """Settings that the method has."""
    known = {each.name for _, each in known_options(find_method(method))}
    return {name: value for name, value in {**SETTINGS, **NEEDED, **more}.items() if name in known}


def call(*words: str | Path) -> None:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two datasets and their caches of random:demo."""
    folder = tmp_path_factory.mktemp("shelf")
    leaves = draw_classes(folder / "leaves", ["ash", "sweet_chestnut", "elm"], images=10)
    shells = draw_classes(folder / "shells", ["conch", "whelk"], images=10)
    words = ["--backbone", "random:demo", "--views", "2", "--patches", "--pre-projection"]
    call("cache", "--dataset", leaves, "--dataset", shells, *words, "--cache-dir", folder / "cache")
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


@pytest.mark.slow
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
    given = settings(method)
    flags = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    call("train", "--method", method, *flags, "--device", "cpu", "--cache-dir", shelf / "cache", "--out", tmp_path)
    (folder,) = [path.parent for path in tmp_path.rglob("results.json")]
    model = FewShotClassifier(method, backbone, **given).fit(caches)
    stored = load_classifier(folder / "classifier.safetensors")
    assert stored.classifier.kind == model.classifier_.kind and stored.classifier.values() == model.classifier_.values()
    tensors = stored.classifier.tensors()
    assert tensors.keys() == model.classifier_.tensors().keys()
    for name, value in model.classifier_.tensors().items():
        assert tensors[name].numpy().tobytes() == value.numpy().tobytes(), name
    assert list(stored.class_names) == model.class_names_ and stored.tasks == model.tasks_
    if method != "tip-adapter-f":
        assert tensors["weights"].float().numpy().tobytes() == model.class_weights().tobytes()
    results = json.loads((folder / "results.json").read_text())
    assert model.evaluate(caches) == results["tasks"]
    assert (model.num_parameters_, model.choices_) == (results["parameters"], results["choices"])
    config = json.loads((folder / "config.json").read_text())["config"]
    ours = model.config_.to_json()
    assert {name for name in config if config[name] != ours[name]} <= set(SETTLED)


@pytest.mark.parametrize("method", METHODS)
def test_fit_leaves_all_random_states_alone(
    monkeypatch: pytest.MonkeyPatch, backbone: Backbone, caches: list[FeatureCache], method: str
) -> None:
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    FewShotClassifier(method, backbone, **settings(method, epochs=1, batch_size=32)).fit(caches)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert all(np.array_equal(now, then) for now, then in zip(np.random.get_state(), states[2], strict=True))


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
    assert model.config_.variant == "cata" and model.config_.to_json()["context_length"] == 16
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
    model = FewShotClassifier("linear-probe", backbone, **settings("linear-probe")).fit(caches)
    assert set(read) == {"train", "val"}
    read.clear()
    assert model.evaluate(caches) == model.evaluate(caches)
    assert read == ["test"] * 4


def test_scores_and_predictions_are_those_of_evaluate(fitted: FewShotClassifier, caches: list[FeatureCache]) -> None:
    assert fitted.class_weights().shape == (5, fitted.backbone_.embed_dim)
    for cache, classes in zip(caches, (slice(0, 3), slice(3, 5)), strict=True):
        (task,) = cache.tasks
        X, y = cache.features("test")[:, 0], cache.labels("test")
        scores = fitted.scores(X, task.id)
        np.testing.assert_allclose(scores, fitted.scores(torch.from_numpy(X))[:, classes], rtol=1e-5)
        right = fitted.predict(X, task.id) == np.array(task.class_names)[y]
        assert right.mean() == pytest.approx(fitted.evaluate(caches)[task.id]["acc1"])


def test_some_of_the_tasks_are_scored_as_among_all(fitted: FewShotClassifier, caches: list[FeatureCache]) -> None:
    both = fitted.evaluate(caches)
    assert fitted.evaluate(caches[1:]) == {"shells": both["shells"]}
    assert fitted.evaluate(caches[::-1]) == both


def test_a_single_task_needs_no_naming(backbone: Backbone, caches: list[FeatureCache]) -> None:
    model = FewShotClassifier("prototype", backbone, **settings("prototype")).fit(caches[1:])
    assert set(model.predict(caches[1].features("test")[:, 0])) <= {"conch", "whelk"}


def test_what_cannot_be_is_refused(fitted: FewShotClassifier, backbone: Backbone, caches: list[FeatureCache]) -> None:
    def fit(*words: str, **options: Any) -> None:
        FewShotClassifier(*words, backbone, **options).fit(caches)

    with pytest.raises(UsageError, match="unknown variant 'nat'"):
        fit("softcpt", variant="nat")
    with pytest.raises(UsageError, match="epochs must be"):
        fit("softcpt", epochs=0)
    with pytest.raises(UsageError, match="wanted the backbone .*, got none: give it to the constructor"):
        FewShotClassifier("softcpt").fit(caches)
    with pytest.raises(UsageError, match="at least one cache"):
        FewShotClassifier("softcpt", backbone).fit([])
    with pytest.raises(UsageError, match="unknown task 'birds': give one of leaves, shells"):
        fitted.predict(np.zeros((1, backbone.embed_dim)), "birds")
    with pytest.raises(UsageError, match=rf"\(images, {backbone.embed_dim}\), got \(2, 3\)"):
        fitted.scores(np.zeros((2, 3)))


def test_without_a_task_all_are_asked(fitted: FewShotClassifier, backbone: Backbone) -> None:
    features = np.random.default_rng(0).standard_normal((2, backbone.embed_dim))
    tasks = ("leaves", "shells")
    assert {id: names.tolist() for id, names in fitted.predict(features).items()} == {
        id: fitted.predict(features, id).tolist() for id in tasks
    }
    shapes = {id: values.shape for id, values in fitted.predict_proba(features).items()}
    assert shapes == {"leaves": (2, 3), "shells": (2, 2)}


def test_votes_are_no_class_weights(backbone: Backbone, caches: list[FeatureCache]) -> None:
    model = FewShotClassifier("tip-adapter", backbone, **settings("tip-adapter")).fit(caches)
    with pytest.raises(UsageError, match="tip-adapter has no fixed class weights"):
        model.class_weights()


# A scikit-learn estimator

KINDS = {
    "linear": "coop-mt",
    "linear with biases": "linear-probe",
    "tip": "tip-adapter-f",
    "joined image-conditioned": "cocoop",
    "joined transport": "plot",
}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "softcp"}, "unknown method 'softcp': did you mean 'softcpt'"),
        ({"method": "softcpt", "shot": 16}, "softcpt has no option 'shot': did you mean 'shots'"),
        ({"method": "kgcoop", "strenth": 4.0}, "kgcoop has no option 'strenth': did you mean 'strength'"),
        (
            {"method": "coop-mt", "strength": 4.0},
            r"coop-mt has no option 'strength' \(that is one of taskres, kgcoop, prograd[a-z, -]*\): leave it out",
        ),
        (
            {"method": "linear-probe", "epochs": 4},
            r"linear-probe has no option 'epochs' \(that is one of tip-adapter-f, .*lp\+\+.*\): leave it out",
        ),
        (
            {"method": "cocoop", "recipe": "full"},
            r"cocoop is stepped .* \(epochs 10, batch-size 1\)",
        ),
        ({"method": "softcpt", "device": "cuda"}, "settle device, got 'cuda': leave it out"),
        ({"method": "softcpt", "suite": "mine"}, "settle suite, got 'mine': leave it out"),
    ],
)
def test_an_unknown_option_is_refused_at_once(backbone: Backbone, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FewShotClassifier(backbone=backbone, **options)
    model = FewShotClassifier("kgcoop", backbone)
    with pytest.raises(UsageError, match=message):
        model.set_params(**options)
    assert model.get_params() == {"method": "kgcoop", "backbone": backbone}, "nothing is half set"


def test_parameters_are_got_set_and_cloned(backbone: Backbone, caches: list[FeatureCache]) -> None:
    model = FewShotClassifier("kgcoop", strength=4.0, templates=["a {}."], shots=1)
    given = {"method": "kgcoop", "backbone": None, "strength": 4.0, "templates": ["a {}."], "shots": 1}
    assert model.get_params() == given
    assert model.set_params(backbone=backbone, strength=2.0, epochs=1, batch_size=32) is model
    assert model.get_params() == {**given, "backbone": backbone, "strength": 2.0, "epochs": 1, "batch_size": 32}
    assert model.set_params() is model
    model.fit(caches)
    assert model.config_.to_json()["strength"] == 2.0
    twin = clone(model)
    assert type(twin) is FewShotClassifier and twin.get_params() == model.get_params()
    assert twin.backbone is backbone, "shared, not copied"
    assert twin.options["templates"] is not model.options["templates"]
    check_is_fitted(model)
    for unfitted in (twin, FewShotClassifier("zeroshot")):
        with pytest.raises(NotFittedError):
            check_is_fitted(unfitted)
        for read in ("classifier_", "class_names_", "tasks_", "backbone_"):
            with pytest.raises(NotFittedError, match="call fit first"):
                getattr(unfitted, read)
        with pytest.raises(NotFittedError, match="call fit first"):
            unfitted.class_weights()
    assert twin.fit(caches).class_weights().tobytes() == model.class_weights().tobytes()
    with pytest.raises(UsageError, match="coop-mt has no option 'strength'"):
        model.set_params(method="coop-mt")
    assert FewShotClassifier("coop-mt", shots=1).set_params(method="softcpt", variant="nats").get_params() == {
        "method": "softcpt",
        "backbone": None,
        "shots": 1,
        "variant": "nats",
    }


def test_a_class_of_ones_own_is_cloned_as_such() -> None:
    class Mine(FewShotClassifier):
        pass

    assert type(clone(Mine("zeroshot"))) is Mine


def test_repr_shows_method_backbone_and_options(backbone: Backbone) -> None:
    model = FewShotClassifier("kgcoop", backbone, strength=4.0, context_init="a sketch")
    shown = "FewShotClassifier('kgcoop', backbone=<random:demo>, strength=4.0, context_init='a sketch')"
    assert repr(model) == str(model) == shown
    assert repr(FewShotClassifier("zeroshot")) == "FewShotClassifier('zeroshot', backbone=None)"


def test_probabilities_are_those_of_a_tasks_classes(fitted: FewShotClassifier, caches: list[FeatureCache]) -> None:
    X = caches[0].features("test")[:, 0]
    chances = fitted.predict_proba(X, "leaves")
    assert chances.shape == (len(X), 3) and (chances > 0).all()
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-5)
    scores = fitted.scores(X, "leaves")
    np.testing.assert_allclose(np.log(chances) - np.log(chances[:, :1]), scores - scores[:, :1], atol=1e-3)
    best = np.array(["ash", "elm", "sweet_chestnut"])[chances.argmax(axis=1)]
    assert best.tolist() == fitted.predict(X, "leaves").tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_a_fitted_one_is_pickled_without_its_backbone(
    monkeypatch: pytest.MonkeyPatch, backbone: Backbone, caches: list[FeatureCache], kind: str
) -> None:
    method = KINDS[kind]
    model = FewShotClassifier(method, backbone, **settings(method, epochs=1, batch_size=32)).fit(caches)
    assert model.classifier_.kind == kind.split()[0]
    if isinstance(model.classifier_, JoinedClassifier):
        assert {part.kind for part in model.classifier_.parts} == {kind.split()[1]}
    content = pickle.dumps(model)
    numbers = sum(value.numel() * value.element_size() for value in model.classifier_.tensors().values())
    weights = sum(value.numel() * value.element_size() for value in backbone.model.parameters())
    assert len(content) < numbers + 20_000 < weights / 10
    loaded: list[str] = []

    def load(name: str, **more: Any) -> Backbone:
        loaded.append(name)
        return load_backbone(name, **more)

    monkeypatch.setattr("cptlite.runs.load.load_backbone", load)
    for twin in (pickle.loads(content), copy.deepcopy(model)):
        X = [cache.patches("test") if method == "plot" else cache.features("test")[:, 0] for cache in caches]
        for rows in X:
            assert twin.scores(rows).tobytes() == model.scores(rows).tobytes()
        assert twin.evaluate(caches) == model.evaluate(caches)
        assert (twin.choices_, twin.num_parameters_) == (model.choices_, model.num_parameters_)
        assert twin.config_ == model.config_ and twin.tasks_ == model.tasks_
        assert twin.get_params() == {**model.get_params(), "backbone": None}
    assert loaded == (["random:demo"] * 2 if method == "cocoop" else [])
    assert model.backbone is backbone, "the one that was pickled keeps its own"
    refitted = pickle.loads(content).set_params(backbone=backbone).fit(caches)
    assert refitted.evaluate(caches) == model.evaluate(caches)


def test_one_that_is_not_fitted_is_pickled_too(backbone: Backbone) -> None:
    twin = pickle.loads(pickle.dumps(FewShotClassifier("kgcoop", backbone, strength=4.0)))
    assert twin.get_params() == {"method": "kgcoop", "backbone": None, "strength": 4.0}
    with pytest.raises(NotFittedError):
        check_is_fitted(twin)


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
