"""A run as files that need no cptlite: what is in them scores as the run does, and what does not fit is refused."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_fakes import tiny_state
from run_bench import BACKBONE, DATASETS, RunBench, classifier_of, least, results_of
from safetensors import safe_open
from trees import draw_classes
from typer.testing import CliRunner, Result

from cptlite.backbones import load_backbone
from cptlite.cache.encode import encode_dataset
from cptlite.classifiers import LinearClassifier
from cptlite.cli import app
from cptlite.datasets import load_catalog, read_dataset
from cptlite.datasets.views import ViewConfig
from cptlite.runs import onnx_model
from cptlite.runs.export import export_run

SCRIPT = Path(__file__).parents[1] / "plain_clip.py"


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["export", *map(str, words)])


def opened_file(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in ("weights", "bias")}, json.loads(file.metadata()["cptlite"])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder that is not there yet; runs lie beside it."""
    return tmp_path / "out"


@pytest.fixture
def probed(bench: RunBench) -> Path:
    """A run in a folder beside where the tests write."""
    return bench.train("exported", least("linear-probe"))


@pytest.mark.parametrize("method", ["linear-probe", "prototype", "coop-ca"])
def test_exported_weights_score_as_the_run_does(bench: RunBench, tmp_path: Path, method: str) -> None:
    folder = bench.train("exported", least(method))
    before = contents(folder)
    report = export_run(folder, tmp_path / "new" / "m.safetensors")
    tensors, facts = opened_file(report.path)
    stored = classifier_of(folder)
    features = torch.randn(5, stored.backbone.embed_dim)
    used = features / features.norm(dim=-1, keepdim=True) if facts["unit_length"] else features
    found = facts["scale"] * used @ tensors["weights"].T + tensors["bias"]
    torch.testing.assert_close(found, stored.classifier.scores(features).float())
    assert facts["class_names"] == [name for names in DATASETS.values() for name in names]
    sizes = [(task["id"], task["start"], task["stop"]) for task in facts["tasks"]]
    assert sizes == [("coins", 0, 2), ("leaves", 2, 5), ("shells", 5, 7)]
    assert facts["preprocess"] == load_backbone(BACKBONE, device="cpu").preprocess_spec
    assert facts["backbone"]["weights_sha256"] == bench.backbone.weights_sha256
    assert contents(folder) == before, "the run's own files stay as they are"
    assert {path.name for path in report.path.parent.iterdir()} == {"m.safetensors", "m.safetensors.md"}
    again = export_run(folder, report.path, force=True)
    assert again.sha256 == report.sha256


@pytest.mark.slow
def test_a_process_with_clip_alone_gives_the_runs_labels(tmp_path: Path) -> None:
    backbone = load_backbone("demo", device="cpu")
    draw_classes(tmp_path / "leaves", ["ash", "elm", "oak"], images=12)
    (spec,) = load_catalog().resolve([str(tmp_path / "leaves")])
    encode_dataset(read_dataset(spec, tmp_path), backbone, tmp_path / "cache", views=ViewConfig())
    bench = RunBench(backbone, tmp_path / "cache", tmp_path)
    folder = bench.train("runs", least("linear-probe", backbone="demo", datasets=("leaves",)))
    export_run(folder, tmp_path / "leaves.safetensors")
    torch.save(backbone.model.state_dict(), tmp_path / "weights.pt")
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    done = subprocess.run(
        [
            sys.executable,
            SCRIPT,
            tmp_path / "weights.pt",
            tmp_path / "leaves.safetensors",
            tmp_path / "leaves",
            "leaves",
        ],
        input="\n".join(row["image"] for row in rows),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert done.returncode == 0, done.stderr
    assert len(rows) == 12 and json.loads(done.stdout) == [row["predicted"] for row in rows]


@pytest.mark.parametrize(
    "method, kind",
    [
        ("tip-adapter", "tip"),
        ("tip-x", "tip-x"),
        ("ape", "ape"),
        ("dept", "two-headed"),
        ("cocoop", "image-conditioned"),
        ("plot", "transport"),
    ],
)
def test_what_is_not_linear_is_refused_by_what_it_is(bench: RunBench, out: Path, method: str, kind: str) -> None:
    folder = bench.train("exported", least(method))
    done = call(folder, "--out", out / "m.safetensors")
    assert done.exit_code == 2 and repr(kind) in done.stderr and done.stderr.count("\n") == 1
    in_graph = kind in ("tip", "tip-x", "ape", "two-headed")
    assert ("--format onnx" if in_graph else "cptlite.load_run") in done.stderr.rpartition("hold: ")[2]
    if not in_graph:
        assert call(folder, "--out", out / "m.onnx").exit_code == 2
    assert not out.exists()


def test_no_file_is_written_over(probed: Path, tmp_path: Path) -> None:
    out, card = tmp_path / "m.safetensors", tmp_path / "m.safetensors.md"
    card.write_text("mine")
    done = call(probed, "--out", out)
    assert done.exit_code == 2 and "--force" in done.stderr and card.read_text() == "mine" and not out.exists()
    assert call(probed, "--out", out, "--force").exit_code == 0
    assert card.read_text().startswith("# linear-probe on shelf")
    own = call(probed, "--out", probed / "classifier.safetensors", "--force")
    assert own.exit_code == 2 and "own file" in own.stderr
    assert call(probed, "--out", out).exit_code == 0, "the same again"
    (tmp_path / "d.safetensors").mkdir()
    assert call(probed, "--out", tmp_path / "d.safetensors", "--force").exit_code == 2


@pytest.mark.parametrize(
    "words, said",
    [
        (("--out", "m"), "ends in .safetensors or .onnx"),
        (("--out", "m.onnx", "--format", "safetensors"), "ends in .safetensors"),
        (("--out", "m.onnx", "--format", "tflite"), "unknown format 'tflite'"),
    ],
)
def test_a_name_that_fits_no_format_is_refused(probed: Path, words: tuple[str, ...], said: str) -> None:
    done = call(probed, *words)
    assert done.exit_code == 2 and said in done.stderr


def test_no_run_is_said(tmp_path: Path) -> None:
    done = call(tmp_path, "--out", tmp_path / "m.safetensors")
    assert done.exit_code == 3 and "wanted a finished run" in done.stderr


def test_the_card_says_data_method_metrics_limits_use_and_citation(probed: Path, tmp_path: Path) -> None:
    report = export_run(probed, tmp_path / "m.safetensors")
    text, results = report.card.read_text(), results_of(probed)
    headings = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
    assert headings == ["linear-probe on shelf", "Data", "Method", "Metrics", "Limits", "Use", "How to cite"]
    assert f"| leaves | accuracy | {100 * results['tasks']['leaves']['acc1']:.1f} | 33.3 |" in text
    assert f"tasks: {100 * results['suite_score']:.1f} %" in text
    assert report.sha256 in text and results["sha256"] in text and "Radford et al., ICML 2021" in text
    assert not any(line != line.rstrip() for line in text.splitlines())


def test_names_in_the_card_are_no_markup(tmp_path: Path) -> None:
    backbone = load_backbone(BACKBONE, device="cpu")
    draw_classes(tmp_path / "odd", ["a|b", "<script>x", "[link](http)"], images=8)
    (spec,) = load_catalog().resolve([str(tmp_path / "odd")])
    encode_dataset(read_dataset(spec, tmp_path), backbone, tmp_path / "cache", views=ViewConfig())
    folder = RunBench(backbone, tmp_path / "cache", tmp_path).train("runs", least("prototype", datasets=("odd",)))
    text = export_run(folder, tmp_path / "m.safetensors").card.read_text()
    (row,) = (line for line in text.splitlines() if line.startswith("| odd | accuracy"))
    for name in (r"a\|b", r"\<script\>x", r"\[link\](http)"):
        assert name in row
    assert "<script" not in text.replace(r"\<script", "")


def test_a_checkpoints_place_stays_private_and_is_asked_for_by_onnx_alone(tmp_path: Path) -> None:
    path = tmp_path / "secret-folder" / "mine.pt"
    path.parent.mkdir()
    torch.save(load_backbone(BACKBONE, device="cpu").model.state_dict(), path)
    backbone = load_backbone(str(path), device="cpu")
    draw_classes(tmp_path / "leaves", ["ash", "elm"], images=8)
    (spec,) = load_catalog().resolve([str(tmp_path / "leaves")])
    encode_dataset(read_dataset(spec, tmp_path), backbone, tmp_path / "cache", views=ViewConfig())
    config = least("prototype", backbone=str(path), datasets=("leaves",))
    folder = RunBench(backbone, tmp_path / "cache", tmp_path).train("runs", config)
    report = export_run(folder, tmp_path / "m.safetensors")
    assert opened_file(report.path)[1]["backbone"]["name"] == "mine.pt"
    assert b"secret-folder" not in report.path.read_bytes() + report.card.read_bytes()
    done = call(folder, "--out", tmp_path / "m.onnx")
    assert done.exit_code == 2 and "say --backbone" in done.stderr
    path.write_bytes(b"")
    assert call(folder, "--out", tmp_path / "m.onnx", "--backbone", path).exit_code == 3


def test_onnx_says_which_package_it_lacks(probed: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = call(probed, "--out", out / "m.onnx")
    assert done.exit_code == 1 and "pip install 'cptlite[onnx]'" in done.stderr
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["linear-probe", "coop-ca", "tip-adapter", "tip-x", "ape", "ape-t", "dept"])
def test_onnx_scores_pixels_as_the_run_does(bench: RunBench, tmp_path: Path, method: str) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    folder = bench.train("exported", least(method))
    report = export_run(folder, tmp_path / "m.onnx")
    assert report.difference is not None and report.difference <= onnx_model.TOLERANCE
    session = onnxruntime.InferenceSession(report.path, providers=["CPUExecutionProvider"])
    classifier = classifier_of(folder).classifier
    for count in (1, 2, 7):
        images = torch.randn(count, 3, bench.backbone.resolution, bench.backbone.resolution)
        (found,) = session.run(None, {"images": images.numpy()})
        wanted = classifier.scores(bench.backbone.encode_images(images))
        torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))
    facts = json.loads(session.get_modelmeta().custom_metadata_map["cptlite"])
    assert facts["class_names"] == [name for names in DATASETS.values() for name in names]
    assert b"site-packages" not in report.path.read_bytes()


@pytest.mark.slow
def test_onnx_of_a_vision_transformer_whatever_runs_its_linear_layers(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    path = tmp_path / "vit.pt"
    torch.save(tiny_state(), path)
    backbone = load_backbone(str(path), device="cpu")
    draw_classes(tmp_path / "leaves", ["ash", "elm"], images=8)
    (spec,) = load_catalog().resolve([str(tmp_path / "leaves")])
    encode_dataset(read_dataset(spec, tmp_path), backbone, tmp_path / "cache", views=ViewConfig())
    config = least("prototype", backbone=str(path), datasets=("leaves",))
    folder = RunBench(backbone, tmp_path / "cache", tmp_path).train("runs", config)
    done = call(folder, "--out", tmp_path / "m.onnx", "--backbone", path)
    assert done.exit_code == 0, done.output


@pytest.mark.slow
def test_a_graph_of_other_scores_is_not_written(probed: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    right = LinearClassifier.scores
    monkeypatch.setattr(LinearClassifier, "scores", lambda *given: 1.001 * right(*given))
    done = call(probed, "--out", out / "m.onnx")
    assert done.exit_code == 1 and "nothing was written" in done.stderr
    assert not out.exists()
