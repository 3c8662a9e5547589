"""The main job by the words a user types: cache once, train, see the result; also killed, repeated and spied upon."""

from __future__ import annotations

import json
import pkgutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from trees import VARIANTS, draw_classes, draw_fgvc, draw_images

from cptlite import load_classifier
from cptlite.cache import FeatureCache
from cptlite.classifiers import LinearClassifier, StoredClassifier
from cptlite.cli import main
from cptlite.methods.base import PromptMethod
from cptlite.training.loop import train
from cptlite.training.state import TrainingState

BACKBONE = "random:demo"
SPLIT_READERS = ("features", "patches", "labels", "row_tasks", "paths")


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Type a command that succeeds; what it says on stdout and stderr comes back."""

    def type_words(line: str, *more: object) -> str:
        monkeypatch.setattr(sys, "argv", line.split() + [str(word) for word in more])
        capsys.readouterr()
        code = main()
        out, err = capsys.readouterr()
        assert code == 0, err
        return out + err

    return type_words


def linear_of(folder: Path) -> tuple[StoredClassifier, np.ndarray]:
    """A run's classifier, and its class weights."""
    stored = load_classifier(folder / "classifier.safetensors")
    assert isinstance(stored.classifier, LinearClassifier)
    return stored, stored.classifier.weights.numpy()


# FGVC, with the user's own words


@pytest.fixture
def fgvc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lay out the aircraft, a tiny CLIP in place of RN50, and the environment that says where things lie."""
    from clip.model import CLIP
    from safetensors.torch import save_file

    shape = {"embed_dim": 32, "context_length": 77, "vocab_size": 49408}
    vision = {"image_resolution": 32, "vision_layers": 1, "vision_width": 64, "vision_patch_size": 16}
    text = {"transformer_width": 64, "transformer_heads": 1, "transformer_layers": 1}
    weights = tmp_path / "RN50.safetensors"
    save_file(CLIP(**shape, **vision, **text).state_dict(), weights)
    monkeypatch.setattr("cptlite.backbones.checkpoints.openai_checkpoint", lambda name: weights)
    draw_fgvc(tmp_path / "images of mine", images={"train": 1, "val": 1, "test": 2}, most=16)
    monkeypatch.setenv("CPTLITE_DATA", str(tmp_path / "images of mine"))
    monkeypatch.setenv("CPTLITE_CACHE", str(tmp_path / "features"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def test_fgvc_as_the_user_types_it(fgvc: Path, typed: Callable[..., str]) -> None:
    assert "fgvc_aircraft: 415 images in " in typed("cptlite cache --dataset fgvc")
    said = typed("cptlite train --method softcpt")
    assert "softcpt-nata, fgvc_aircraft, 16 shots, seed 1 (%)" in said
    folder = fgvc / "work/runs/fgvc_aircraft/softcpt/RN50/shots16-seed1"
    assert sorted(path.name for path in folder.iterdir()) == [
        "classifier.safetensors",
        "config.json",
        "log.jsonl",
        "predictions.csv",
        "prompts.safetensors",
        "results.json",
    ]
    check_configuration(folder)
    check_learned(folder)
    check_scores(folder, fgvc / "features/RN50/fgvc_aircraft.h5")


def check_configuration(folder: Path) -> None:
    stored = json.loads((folder / "config.json").read_text())
    wanted = {"method": "softcpt", "variant": "nata", "datasets": ["fgvc_aircraft"], "backbone": "RN50"}
    wanted |= {"shots": 16, "seed": 1, "epochs": 50, "batch_size": 32, "lr": 0.002, "context_length": 16}
    assert wanted.items() <= stored["config"].items()
    assert len(stored["caches"]["fgvc_aircraft"]["weights_sha256"]) == 64
    assert torch.__version__.startswith(stored["environment"]["torch"])


def check_learned(folder: Path) -> None:
    learned = load_file(folder / "prompts.safetensors")
    assert {name: value.shape for name, value in learned.items()} == {
        "task_context": (1, 4, 64),
        "projection": (32, 16 * 64),
    }
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    steps_per_epoch = (16 + 99) // 32
    assert [line["step"] for line in lines] == list(range(50 * steps_per_epoch))
    assert lines[-1]["epoch"] == 49
    assert lines[0]["lr"] == 1e-5
    assert lines[steps_per_epoch]["lr"] == 0.002


def check_scores(folder: Path, cache: Path) -> None:
    """Score the classifier of the run by hand."""
    results = json.loads((folder / "results.json").read_text())
    scores = results["tasks"]["fgvc_aircraft"]
    stored, weights = linear_of(folder)
    assert stored.class_names == tuple(VARIANTS)
    assert [task.id for task in stored.tasks] == ["fgvc_aircraft"]
    assert (stored.backbone.name, stored.backbone.embed_dim) == ("RN50", 32)
    np.testing.assert_allclose(np.linalg.norm(weights, axis=1), 1, rtol=1e-5)
    with h5py.File(cache) as file:
        features, labels = file["test/features"][:, 0].astype(np.float32), file["test/labels"][:]
    right = (features @ weights.T).argmax(axis=1) == labels
    assert scores["rows"] == len(labels) == 200
    assert scores["acc1"] == pytest.approx(right.mean())
    assert scores["mean_per_class_recall"] == pytest.approx(right.mean()), "every class has two test images"
    assert scores["metric"] == "mean_per_class_recall"
    assert results["suite_score"] == scores["mean_per_class_recall"]
    assert results["parameters"] == 4 * 64 + 32 * 16 * 64
    assert set(results["seconds"]) == {"load", "train", "evaluate"}


# A folder, a CSV and a manifest of one's own


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder with four datasets and their caches; tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("shelf")
    draw_classes(folder / "leaves", ["ash", "sweet chestnut", "オーク"], images=10)
    draw_images(folder / "scans", [f"{index:02}.png" for index in range(20)], seed=3)
    splits = ["train"] * 4 + ["val"] * 2 + ["test"] * 4
    rows = [f"scans/{index:02}.png,{'penny' if index % 2 else 'dime'},{splits[index // 2]}" for index in range(20)]
    (folder / "coins.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    draw_classes(folder / "shells", ["conch", "whelk"], images=10)
    draw_classes(folder / "birds", ["crow", "tit", "wren"], images=10)
    (folder / "mine.toml").write_text(
        '[datasets.my_shells]\ndirectory = "shells"\ntask = "sea shell"\nmetric = "mean_per_class_recall"\n'
        '[datasets.my_birds]\ndirectory = "birds"\ntemplate = "a photo of a {}, a bird."\n'
    )
    words = ["--dataset", folder / "leaves", "--dataset", folder / "coins.csv", "--dataset", folder / "mine.toml"]
    command = [sys.executable, "-m", "cptlite", "cache", *words, "--backbone", BACKBONE, "--views", "2", "--patches"]
    done = subprocess.run([*command, "--cache-dir", folder / "cache"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    yield folder


def snapshot(folder: Path) -> dict[Path, tuple[int, int, bytes]]:
    """Inode, time and content of every file, so that a rewritten one shows."""
    found = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {path: (stat.st_ino, stat.st_mtime_ns, path.read_bytes()) for path, stat in found.items()}


def test_a_second_cache_is_complete_and_encodes_nothing(
    shelf: Path, typed: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("an image was opened")

    monkeypatch.setattr("cptlite.cache.encode_pass.open_rgb", refuse)
    monkeypatch.chdir(shelf)
    before = snapshot(shelf / "cache")
    words = "cptlite cache --dataset leaves --dataset coins.csv --dataset mine.toml --views 2 --backbone random:demo"
    assert typed(words).count("complete already, nothing read") == 4
    assert snapshot(shelf / "cache") == before


def test_templates_of_ones_own_are_recorded_and_make_other_weights(
    shelf: Path, tmp_path: Path, typed: Callable[..., str]
) -> None:
    weights = []
    for number, templates in enumerate(([], ["a drawing of a {}."], ["a drawing of a {}.", "{}, close up"])):
        words = [word for template in templates for word in ("--template", template)]
        out = tmp_path / str(number)
        typed("cptlite train --method zeroshot --cache-dir", shelf / "cache", "--out", out, *words)
        (folder,) = [path.parent for path in out.rglob("results.json")]
        assert json.loads((folder / "config.json").read_text())["config"]["templates"] == templates
        weights.append(linear_of(folder)[1])
        np.testing.assert_allclose(np.linalg.norm(weights[-1], axis=1), 1, rtol=1e-5)
    assert not np.allclose(weights[0], weights[1]) and not np.allclose(weights[1], weights[2])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["zeroshot", "prototype", "linear-probe", "coop-ca"])
def test_train_skips_what_is_done_and_repeats_it_to_the_byte(
    shelf: Path, tmp_path: Path, typed: Callable[..., str], method: str
) -> None:
    out = tmp_path / "runs"
    epochs = "--epochs 2 " if method == "coop-ca" else ""
    words = (f"cptlite train --method {method} --shots 2 {epochs}--cache-dir", shelf / "cache", "--out", out)
    assert "written" in typed(*words)
    (folder,) = [path.parent for path in out.rglob("results.json")]
    assert folder.relative_to(out).parts[1:] == (
        f"{method}{'-epochs2' if epochs else ''}",
        "random-demo",
        "shots2-seed1",
    )
    tasks = json.loads((folder / "results.json").read_text())["tasks"]
    assert {name: scores["rows"] for name, scores in tasks.items()} == {
        "coins": 8,
        "leaves": 9,
        "my_birds": 9,
        "my_shells": 6,
    }
    assert tasks["my_shells"]["metric"] == "mean_per_class_recall"
    stored, weights = linear_of(folder)
    assert len(weights) == 10
    assert "オーク" in stored.class_names
    first = snapshot(out)
    assert "already done" in typed(*words)
    assert snapshot(out) == first
    assert "written" in typed(*words, "--force")
    again = snapshot(out)
    assert again[folder / "results.json"][:2] != first[folder / "results.json"][:2]
    prompts = folder / "prompts.safetensors"
    assert prompts.exists() == (method == "coop-ca")
    for path in (prompts, folder / "classifier.safetensors"):
        assert again.get(path, (0, 0, b""))[2] == first.get(path, (0, 0, b""))[2]


def test_another_seed_is_another_run(shelf: Path, tmp_path: Path, typed: Callable[..., str]) -> None:
    words = ("cptlite train --method coop-ca --shots 2 --epochs 1 --dataset leaves --cache-dir", shelf / "cache")
    for seed in (1, 2):
        typed(*words, "--out", tmp_path / "runs", "--seed", seed)
    one, two = (path.read_bytes() for path in tmp_path.rglob("prompts.safetensors"))
    assert one != two


@pytest.mark.slow
@pytest.mark.parametrize("method", ["softcpt", "coop-ca"])
def test_runs_together_are_the_runs_alone(shelf: Path, tmp_path: Path, typed: Callable[..., str], method: str) -> None:
    words = (f"cptlite train --method {method} --shots 1 --shots 2 --seed 1 --seed 2 --epochs 3 --batch-size 2",)
    typed(*words, "--cache-dir", shelf / "cache", "--out", tmp_path / "together", "--together")
    typed(*words, "--cache-dir", shelf / "cache", "--out", tmp_path / "alone")
    runs = sorted(path.relative_to(tmp_path / "alone") for path in (tmp_path / "alone").rglob("prompts.safetensors"))
    assert len(runs) == 4
    for run in runs:
        ours, theirs = (load_file(tmp_path / place / run) for place in ("together", "alone"))
        for name, value in theirs.items():
            np.testing.assert_allclose(ours[name], value, rtol=1e-4, atol=1e-6)
        scores = [
            json.loads((tmp_path / place / run.parent / "results.json").read_text())["tasks"]
            for place in ("together", "alone")
        ]
        assert scores[0] == scores[1]


# Killed


SLOW_CHILD = """
import sys, time, torch
from cptlite.cli import main
from cptlite.runs import learn
from cptlite.training import state

torch.set_num_threads(int(sys.argv.pop(1)))
state.CHECKPOINT_SECONDS = 0.0
train = learn.train

def slowly(method, states, **more):
    for one in states:
        one.on_epoch = lambda *_: time.sleep(0.3)
    train(method, states, **more)

learn.train = slowly
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_train_goes_on_and_ends_with_the_same_bytes(
    shelf: Path, tmp_path: Path, typed: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", "--shots", "2", "--epochs", "6", "--dataset", "leaves", "--cache-dir", str(shelf / "cache")]
    typed("cptlite", *words, "--out", tmp_path / "undisturbed")
    killed = [*words, "--out", str(tmp_path / "killed")]
    command = [sys.executable, "-c", SLOW_CHILD, str(torch.get_num_threads()), *killed]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = tmp_path / "killed/leaves/softcpt-epochs6/random-demo/shots2-seed1"
    deadline = time.monotonic() + 300
    while not (folder / "checkpoint.pt").exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    child.kill()
    assert child.wait(30) == -signal.SIGKILL
    assert (folder / "checkpoint.pt").exists()
    assert not (folder / "results.json").exists()
    epochs = watch_epochs(monkeypatch)
    typed("cptlite", *killed)
    assert 1 < epochs[0] <= epochs[-1] == 6, "from the checkpoint, not from the start"
    other = tmp_path / "undisturbed/leaves/softcpt-epochs6/random-demo/shots2-seed1"
    for name in ("prompts.safetensors", "classifier.safetensors"):
        assert (folder / name).read_bytes() == (other / name).read_bytes()
    assert scores_and_losses(folder) == scores_and_losses(other)
    assert not (folder / "checkpoint.pt").exists()


def watch_epochs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note the epochs that are trained from now on."""
    epochs: list[int] = []

    def watched(method: PromptMethod, states: Sequence[TrainingState], **more: Any) -> None:
        for state in states:
            state.on_epoch = lambda done, _: epochs.append(done)
        train(method, states, **more)

    monkeypatch.setattr("cptlite.runs.learn.train", watched)
    return epochs


def scores_and_losses(folder: Path) -> tuple[Any, list[tuple[int, int, float]]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    tasks = json.loads((folder / "results.json").read_text())["tasks"]
    return tasks, [(line["step"], line["epoch"], line["loss"]) for line in lines]


# Test rows


@pytest.mark.parametrize(
    ("method", "learning"),
    [
        ("softcpt", "cptlite.runs.learn.train"),
        ("plot", "cptlite.runs.learn.train"),
        ("linear-probe", "cptlite.methods.probes.linear_probe.LinearProbe.learn"),
    ],
)
def test_only_evaluation_reads_test_rows_and_only_after_training(
    shelf: Path,
    tmp_path: Path,
    typed: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    learning: str,
) -> None:
    events: list[tuple[str, str]] = []

    def spy_on_reader(name: str) -> None:
        original = getattr(FeatureCache, name)

        def read(self: FeatureCache, split: str, *arguments: Any, **options: Any) -> Any:
            caller = sys._getframe(1)
            # Labels are looked at before anything is trained, for classes that there are not.
            checks = ("check_test_rows", "untested_classes")
            if caller.f_code.co_name not in checks or name not in ("labels", "row_tasks"):
                events.append((split, caller.f_globals["__name__"]))
            return original(self, split, *arguments, **options)

        monkeypatch.setattr(FeatureCache, name, read)

    for name in SPLIT_READERS:
        spy_on_reader(name)
    learn = pkgutil.resolve_name(learning)

    def learned(*arguments: Any, **options: Any) -> Any:
        done = learn(*arguments, **options)
        events.append(("learned", ""))
        return done

    monkeypatch.setattr(learning, learned)
    epochs = "" if method == "linear-probe" else "--epochs 1 "
    words = f"cptlite train --method {method} --shots 2 {epochs}--cache-dir"
    typed(words, shelf / "cache", "--out", tmp_path / "runs")
    tested = [index for index, (split, _) in enumerate(events) if split == "test"]
    assert {module for split, module in events if split == "test"} == {"cptlite.runs.evaluate"}
    assert {split for split, _ in events} >= {"train", "val", "test", "learned"}
    assert min(tested) > events.index(("learned", ""))
    assert all(split in ("test", "learned") for split, _ in events[min(tested) :]), "nothing is chosen afterwards"
