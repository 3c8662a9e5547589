"""Imported features through the commands: taken in, listed, trained on."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from feature_files import clip_retrieval, make_rows
from typer.testing import CliRunner, Result

import cptlite
from cptlite.cli import app
from cptlite.errors import DataError

QUICK = ("--shots", "4", "--json")


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def score(done: Result) -> float:
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["results"][0]["suite_score"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clip-retrieval's output of well-separated classes, imported without a text tower and with one."""
    folder = tmp_path_factory.mktemp("features")
    source = clip_retrieval(folder / "embeddings", make_rows(128))
    common = ("--name", "trees", "--label-from-path", "--cache-dir", folder / "cache")
    for words in (("--encoder", "some-clip"), ("--backbone", "random:demo")):
        done = call("import-features", source, *words, *common)
        assert done.exit_code == 0, done.output
    return folder


@pytest.mark.parametrize("method", ["linear-probe", "prototype"])
def test_probes_train_on_features_without_a_text_tower(folder: Path, tmp_path: Path, method: str) -> None:
    words = ("--backbone", "features:some-clip:128", "--cache-dir", folder / "cache", "--out", tmp_path)
    assert score(call("train", "--method", method, *words, *QUICK)) > 0.9


@pytest.mark.parametrize("method", ["softcpt", "zeroshot", "tip-adapter"])
def test_methods_of_prompts_say_what_such_features_lack(folder: Path, tmp_path: Path, method: str) -> None:
    words = ("--backbone", "features:some-clip:128", "--cache-dir", folder / "cache", "--out", tmp_path / "runs")
    done = call("train", "--method", method, *words, *QUICK)
    assert done.exit_code == 3 and "wants a text tower" in done.stderr and "linear-probe" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_fitting_text_tower_lets_prompts_be_learned(folder: Path, tmp_path: Path) -> None:
    words = ("--backbone", "random:demo", "--cache-dir", folder / "cache", "--out", tmp_path)
    assert score(call("train", "--method", "softcpt", "--epochs", "2", *words, *QUICK)) > 0
    assert score(call("train", "--method", "linear-probe", *words, *QUICK)) > 0.9


def test_python_takes_them_by_their_name(folder: Path) -> None:
    space = cptlite.load_backbone("features:some-clip:128", device="cpu")
    caches = cptlite.open_caches(folder / "cache", space)
    model = cptlite.FewShotClassifier("prototype", space, shots=4, seed=1).fit(caches)
    assert model.evaluate(caches)["trees"]["acc1"] > 0.9
    assert pickle.loads(pickle.dumps(model)).class_names_ == ["ash", "elm", "oak"]
    with pytest.raises(DataError, match="wants a text tower"):
        cptlite.FewShotClassifier("kgcoop", space, shots=4, seed=1).fit(caches)
    for cache in caches:
        cache.close()


def test_imported_caches_are_listed_and_are_no_pass_over_images(folder: Path) -> None:
    listed = json.loads(call("caches", "--cache-dir", folder / "cache", "--json").stdout)["results"]
    assert [(each["backbone"], each["complete"]) for each in listed] == [
        ("features:some-clip:128", True),
        ("random:demo", True),
    ]
    done = call("verify", "--cache-dir", folder / "cache")
    assert done.exit_code == 0 and done.stdout.count("ok ") == 2


def test_a_name_is_wanted_of_one_source_of_names(folder: Path, tmp_path: Path) -> None:
    both = call("import-features", folder / "embeddings", "--name", "x", "--backbone", "demo", "--encoder", "y")
    assert both.exit_code == 2 and "give one of them" in both.stderr
    odd = call("import-features", folder / "embeddings", "--name", "../x", "--cache-dir", tmp_path)
    assert odd.exit_code == 2 and "wanted a name" in odd.stderr
    template = call("import-features", folder / "embeddings", "--name", "x", "--template", "no place")
    assert template.exit_code == 2 and "one {}" in template.stderr
