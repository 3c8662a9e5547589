"""From image folders to results by the command line alone, with a tiny CLIP of random weights."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from trees import draw_classes
from typer.testing import CliRunner, Result

from cptlite import load_classifier
from cptlite.classifiers import TransportClassifier
from cptlite.cli import app
from cptlite.cli.choose import choose_backbone, choose_datasets, choose_suite
from cptlite.datasets import load_catalog
from cptlite.errors import DataError, UsageError

BACKBONE = "random:demo"


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def ok(*words: str | Path) -> Result:
    done = call(*words)
    assert done.exit_code == 0, done.output
    return done


def draw_kinds(folder: Path, *, classes: int = 3, images: int = 10) -> Path:
    return draw_classes(folder, [f"kind {label}" for label in range(classes)], images=images)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder with two datasets and their caches; tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("shelf")
    for name in ("leaves", "coins"):
        draw_kinds(folder / name)
        ok("cache", "--dataset", folder / name, "--backbone", BACKBONE, "--cache-dir", folder / "cache")
    yield folder


def test_cache_prints_its_configuration_and_what_it_did(here: Path) -> None:
    draw_kinds(here / "leaves")
    done = ok("cache", "--dataset", "leaves", "--backbone", BACKBONE, "--views", "2")
    assert done.stderr.splitlines()[:3] == [
        "cptlite cache: leaves, 2 views, no patch features, as float16",
        done.stderr.splitlines()[1],
        "  into cache (every setting: -v)",
    ]
    assert done.stderr.splitlines()[1].startswith("  backbone random:demo on c")
    assert done.stdout.startswith("leaves: 30 images in ")
    assert "views.seed" in ok("cache", "--dataset", "leaves", "--backbone", BACKBONE, "--views", "2", "-v").stderr
    assert (here / "cache/random-demo/leaves.h5").exists()


def test_a_second_cache_reads_nothing(here: Path) -> None:
    draw_kinds(here / "leaves")
    words = ("cache", "--dataset", "leaves", "--backbone", BACKBONE)
    ok(*words)
    for image in (here / "leaves").rglob("*.png"):
        image.write_bytes(b"")
    assert "complete already, nothing read" in ok(*words).stdout
    (facts,) = json.loads(ok(*words, "--json").stdout)["results"]
    assert (facts["complete_already"], facts["encoded_rows"], facts["rows"]) == (True, 0, 30)


def test_cache_with_other_weights_makes_another_file(here: Path) -> None:
    draw_kinds(here / "leaves")
    for backbone in (BACKBONE, f"{BACKBONE}:1"):
        ok("cache", "--dataset", "leaves", "--backbone", backbone)
    assert sorted(path.parent.name for path in here.glob("cache/*/leaves.h5")) == ["random-demo", "random-demo-seed1"]
    done = call("train", "--shots", "1")
    assert done.exit_code == 2
    assert "random:demo (leaves); random:demo:1 (leaves): say which with --backbone" in done.stderr
    done = ok("train", "--shots", "1", "--epochs", "1", "--backbone", f"{BACKBONE}:1", "--json")
    assert json.loads(done.stdout)["results"][0]["backbone"] == f"{BACKBONE}:1"


def test_unreadable_images_are_listed_and_end_with_1_unless_skipped(here: Path) -> None:
    draw_kinds(here / "leaves")
    (here / "leaves/kind 1/03.png").write_bytes(b"")
    words = ("cache", "--dataset", "leaves", "--backbone", BACKBONE)
    done = call(*words)
    assert done.exit_code == 1
    assert "kind 1/03.png" in done.stderr
    assert "error: could not read 1 of 30 images of leaves" in done.stderr
    assert not list(here.glob("cache/*/*.h5"))
    assert "unfinished" in ok("caches").stdout
    assert "29 more from a stopped pass" in ok(*words, "--skip-bad").stdout
    assert "without 1 unreadable images" in ok("caches").stdout


def test_caches_and_verify(shelf: Path, tmp_path: Path) -> None:
    cache = shelf / "cache"
    assert "15/6/9" in ok("caches", "--cache-dir", cache).stdout
    listed = json.loads(ok("caches", "--cache-dir", cache, "--json").stdout)["results"]
    assert [(each["dataset"], each["complete"]) for each in listed] == [("coins", True), ("leaves", True)]
    assert ok("verify", "--cache-dir", cache).stdout.count("ok ") == 2
    damaged = tmp_path / "damaged.h5"
    content = bytearray((cache / "random-demo/leaves.h5").read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    damaged.write_bytes(content)
    done = call("verify", cache / "random-demo/coins.h5", damaged)
    assert done.exit_code == 3
    assert f"BAD  {damaged}" in done.stdout
    assert "1 of 2 caches" in done.stderr


def test_caches_and_verify_of_nothing(here: Path) -> None:
    assert "no caches in cache" in ok("caches").stderr
    assert call("verify").exit_code == 3


def test_train_without_words_trains_on_all_that_is_cached(shelf: Path, here: Path) -> None:
    words = ("train", "--cache-dir", shelf / "cache", "--shots", "2", "--epochs", "2")
    done = ok(*words)
    assert done.stderr.splitlines()[0] == "cptlite train: softcpt-nata on coins, leaves; shots 2; seed 1"
    assert done.stderr.splitlines()[2] == "  into runs (every setting: -v); not the default: epochs 2"
    assert "softcpt-nata, coins+leaves, 2 shots, seed 1 (%)" in done.stdout
    folder = here / "runs/coins+leaves/softcpt-epochs2/random-demo/shots2-seed1"
    results = json.loads((folder / "results.json").read_text())
    assert set(results["tasks"]) == {"coins", "leaves"}
    again = ok(*words, "--variant", "nata", "--json")
    assert "already done" in again.stderr
    assert json.loads(again.stdout) == {"results": [results]}
    assert "written" in ok(*words, "--force").stderr
    assert "coins+leaves, 2 tasks" in ok("report").stdout


@pytest.mark.slow
def test_several_methods_are_trained_one_after_the_other(shelf: Path, here: Path) -> None:
    words = ("train", "--cache-dir", shelf / "cache", "--shots", "1,2", "--epochs", "1")
    done = ok(*words, "--method", "prototype, kgcoop", "-m", "coop-mt", "-m", "kgcoop", "--strength", "4")
    told = done.stderr.splitlines()
    assert "3 methods, one after the other: prototype, kgcoop, coop-mt" in told
    assert {"for kgcoop, coop-mt alone: --epochs", "for kgcoop alone: --strength"} <= set(told)
    titles = [line.partition(" on ")[0] for line in told if line.startswith("cptlite train")]
    assert titles == [f"cptlite train: {name}" for name in ("prototype", "kgcoop", "coop-mt")]
    for name in ("prototype", "kgcoop", "coop-mt"):
        assert any(line.startswith(f"{name} ") for line in done.stdout.splitlines())
    found = {path.relative_to(here / "runs/coins+leaves").parts[0] for path in here.glob("runs/**/results.json")}
    assert found == {"prototype", "kgcoop-epochs1-strength4", "coop-mt-epochs1"}
    alone = ok(*words, "--method", "coop-mt", "--out", "alone")
    assert "methods" not in alone.stderr and " alone: " not in alone.stderr
    place = Path("coins+leaves/coop-mt-epochs1/random-demo/shots2-seed1/classifier.safetensors")
    assert (here / "alone" / place).read_bytes() == (here / "runs" / place).read_bytes()


def test_one_failing_method_does_not_keep_others_from_their_results(shelf: Path, here: Path) -> None:
    words = ("train", "--cache-dir", shelf / "cache", "--shots", "1", "--json", "--method")
    done = call(*words, "plot,prototype")
    assert done.exit_code == 3, "that of the first that failed"
    assert "error: plot: wanted patch features" in done.stderr
    assert [each["method"] for each in json.loads(done.stdout)["results"]] == ["prototype"]
    assert [line for line in done.stderr.splitlines() if line.startswith("written: ")] == [
        "written: runs/coins+leaves/prototype/random-demo/shots1-seed1"
    ]
    both = call(*words, "plot,cocoop", "--no-separate", "--classes", "base", "--held-out-task", "coins")
    assert both.exit_code == 2 and both.stdout == "", "what is refused is refused before anything is trained"
    none = call(*words, "prototype,sofcpt")
    assert none.exit_code == 2 and "'softcpt'" in none.stderr


def test_train_on_some_of_what_is_cached(shelf: Path, here: Path) -> None:
    words = ("train", "--cache-dir", shelf / "cache", "--method", "prototype", "--shots", "1", "--json")
    for dataset in ("leaves", shelf / "leaves"):
        assert json.loads(ok(*words, "--dataset", dataset).stdout)["results"][0]["suite"] == "leaves"
    assert json.loads(ok(*words, "--suite", "mine").stdout)["results"][0]["suite"] == "mine"
    done = call(*words, "--dataset", "dtd")
    assert done.exit_code == 3
    assert "cptlite cache --dataset dtd --backbone random:demo" in done.stderr


def test_train_with_nothing_cached_says_how_to_make_a_cache(here: Path) -> None:
    done = call("train", "--method", "softcpt")
    assert done.exit_code == 3
    assert "Make some with: cptlite cache --dataset NAME" in done.stderr


def test_train_names_cache_files_it_cannot_use(shelf: Path, here: Path) -> None:
    (here / "cache/random-demo").mkdir(parents=True)
    (here / "cache/random-demo/leaves.h5").write_bytes((shelf / "cache/random-demo/leaves.h5").read_bytes())
    (here / "cache/random-demo/foreign.h5").write_bytes(b"not HDF5")
    done = ok("train", "--method", "zeroshot", "--shots", "1")
    assert "left out: cache/random-demo/foreign.h5" in done.stderr


@pytest.mark.slow
def test_json_alone_is_on_stdout(shelf: Path, here: Path) -> None:
    command = [sys.executable, "-m", "cptlite", "train", "--method", "zeroshot", "--shots", "1", "--json"]
    done = subprocess.run([*command, "--cache-dir", shelf / "cache"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"][0]["method"] == "zeroshot"
    assert len(done.stderr.splitlines()) <= 5, "quiet but for three lines of settings and where it is written"


@pytest.mark.slow
def test_an_interrupted_pass_says_that_it_can_go_on(here: Path) -> None:
    draw_kinds(here / "leaves", classes=4, images=500)
    command = [sys.executable, "-m", "cptlite", "cache", "--dataset", "leaves", "--backbone", BACKBONE]
    # A test run started in the background of a shell is deaf to SIGINT, and so would this child be.
    hearing = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    work = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hearing)
    deadline = time.monotonic() + 60
    while not list(here.glob("cache/*/*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    work.send_signal(signal.SIGINT)
    _, stderr = work.communicate(timeout=60)
    assert work.returncode == 130
    assert stderr.endswith("interrupted: the same command goes on where this one stopped\n")
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("cached", "wanted", "error", "message"),
    [
        ({}, None, DataError, "cache --dataset NAME --cache-dir shelf"),
        ({"a": ["x"], "b": ["y"]}, None, UsageError, r"a \(x\); b \(y\): say which"),
        ({"a": ["x"]}, "b", DataError, "--backbone b --cache-dir shelf"),
        (
            {"models/a.pt": ["x"]},
            None,
            UsageError,
            r"shelf names the checkpoint 'models/a\.pt'.*--backbone models/a\.pt",
        ),
        ({"RN50 ": ["x"]}, None, UsageError, "say --backbone 'RN50 '"),
        ({"models/a.pt": ["x"]}, "models/b.pt", DataError, "found those of models/a.pt"),
    ],
)
def test_choose_backbone_refuses(cached: Any, wanted: str | None, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        choose_backbone(cached, wanted, Path("shelf"))


def test_choose_backbone_takes_the_one_that_is_cached_and_paths_that_lead_to_the_users(tmp_path: Path) -> None:
    assert choose_backbone({"random:demo": ["x"]}, None, tmp_path) == "random:demo"
    assert choose_backbone({"random:demo": ["x"], "RN50": ["x"]}, "random:demo:0", tmp_path) == "random:demo"
    cached = {str(tmp_path / "a.pt"): ["x"]}
    assert choose_backbone(cached, f"{tmp_path}/b/../a.pt", tmp_path) == str(tmp_path / "a.pt")


def test_choose_datasets_takes_suites_aliases_and_names_in_order() -> None:
    catalog = load_catalog()
    cached = [spec.name for spec in catalog.resolve(["general10"])] + ["of my own"]
    assert choose_datasets(cached, ["of my own", "fgvc", "fgvc_aircraft"], catalog, "b") == (
        "of my own",
        "fgvc_aircraft",
    )
    assert len(choose_datasets(cached, ["general10"], catalog, "b")) == 10
    assert choose_datasets(cached, [], catalog, "b") == tuple(sorted(cached))


def test_choose_suite() -> None:
    catalog = load_catalog()
    ten = [spec.name for spec in catalog.resolve(["general10"])]
    assert choose_suite(ten, catalog) == "general10"
    assert choose_suite(ten[:2], catalog) == f"{ten[0]}+{ten[1]}"
    assert choose_suite(ten[:5], catalog).startswith("5-datasets-")
    assert choose_suite(ten[:5], catalog) != choose_suite(ten[1:6], catalog)


@pytest.mark.slow
def test_plot_wants_local_features_and_trains_on_them(here: Path) -> None:
    draw_kinds(here / "leaves")
    cache = ("cache", "--dataset", "leaves", "--backbone", BACKBONE)
    train = ("train", "--shots", "2", "--epochs", "2", "--method")
    ok(*cache)
    other = ok(*train, "coop-ca", "--json").stdout
    refused = call(*train, "plot")
    assert refused.exit_code == 3 and "wanted patch features in cache/random-demo/leaves.h5" in refused.stderr
    assert call(*cache, "--patches").exit_code == 3
    assert not (here / "runs/leaves/plot-epochs2").exists()
    done = ok(*cache, "--patches", "--force")
    assert "with patch features" in done.stderr
    assert re.search(r"patches +4 a plain view", ok(*cache, "--patches", "--verbose").stderr)
    assert "nothing read" in ok(*cache, "--patches").stdout and "nothing read" in ok(*cache).stdout
    listed = json.loads(ok("caches", "--json").stdout)["results"]
    assert [each["local"] for each in listed] == [4]
    assert re.search(r"local", ok("caches").stdout) and "ok " in ok("verify").stdout
    assert json.loads(ok(*train, "coop-ca", "--json").stdout) == json.loads(other), "pooled features are what they were"
    together = ok(*train, "plot", "--seed", "1", "--seed", "2", "--together", "--json").stdout
    folder = here / "runs/leaves/plot-epochs2/random-demo/shots2-seed1"
    results = json.loads((folder / "results.json").read_text())
    assert json.loads(together)["results"][0] == results
    assert results["parameters"] == 4 * 16 * 128 and results["tasks"]["leaves"]["rows"] == 9
    stored = load_classifier(folder / "classifier.safetensors")
    assert isinstance(stored.classifier, TransportClassifier)
    assert stored.classifier.prompts.shape == (3, 4, 128)
    assert stored.class_names == ("kind 0", "kind 1", "kind 2")


def test_an_option_of_a_method_reaches_config_json_and_the_result(shelf: Path, here: Path) -> None:
    words = ("train", "--cache-dir", shelf / "cache", "--method", "kgcoop", "--shots", "2", "--epochs", "2")
    learned = []
    for strength in (4, 8):
        ok(*words, "--strength", str(strength), "--warmup-epochs", "0", "--out", f"runs {strength}")
        (folder,) = [path.parent for path in here.glob(f"runs {strength}/**/results.json")]
        assert json.loads((folder / "config.json").read_text())["config"]["strength"] == strength
        learned.append((folder / "classifier.safetensors").read_bytes())
    assert learned[0] != learned[1]
    ok(*words, "--strength", "8", "--warmup-epochs", "0", "--out", "runs 4")
    beside = here / "runs 4/coins+leaves/kgcoop-epochs2-warmup_epochs0/random-demo/shots2-seed1/classifier.safetensors"
    assert beside.read_bytes() == learned[1], "another configuration has a folder of its own"


@pytest.mark.parametrize(
    ("method", "words", "says"),
    [
        ("coop-ca", ("--strength", "4"), "coop-ca has no option 'strength'"),
        ("softcpt", ("--strength", "4"), "softcpt has no option 'strength'"),
        ("kgcoop", ("--variant", "nata"), "kgcoop has no option 'variant'"),
        ("plot", ("--context-init", "a photo"), "plot has no option 'context_init'"),
        ("softcpt", ("--template", "a {}."), "softcpt has no option 'templates'"),
        ("linear-probe", ("--epochs", "4"), "linear-probe has no option 'epochs'"),
        ("prototype", ("--lr", "0.1"), "prototype has no option 'lr'"),
        ("zeroshot", ("--recipe", "full"), "zeroshot has no option 'recipe'"),
        ("cross-modal", ("--no-separate",), "cross-modal has no option 'separate'"),
        ("tip-adapter", ("--no-cuda-graphs",), "tip-adapter has no option 'cuda_graphs'"),
        (
            "cocoop",
            ("--recipe", "full"),
            "cocoop is stepped as its own paper does (epochs 10, batch-size 1), not by a recipe of others, got 'full'",
        ),
        (
            "taskres",
            ("--recipe", "full"),
            "taskres is stepped as its own paper does (optimizer adamw, lr 0.002, batch-size 256, epochs 100), not",
        ),
    ],
)
def test_an_option_of_other_methods_is_an_error(
    shelf: Path, here: Path, method: str, words: tuple[str, ...], says: str
) -> None:
    done = call("train", "--cache-dir", shelf / "cache", "--method", method, *words)
    assert done.exit_code == 2
    (message,) = done.stderr.splitlines()
    assert message.startswith(f"error: {says}")
    assert not list(here.iterdir())


def test_methods_say_what_they_need_cached(here: Path) -> None:
    needs = {each["name"]: each["cached"] for each in json.loads(ok("methods", "--json").stdout)["results"]}
    assert needs["plot"] == "patch features (cptlite cache --patches)" and needs["softcpt"] == "random views"
    assert "patch features" in ok("methods").stdout
