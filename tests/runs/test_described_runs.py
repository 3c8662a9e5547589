"""Runs with class texts: what was read is kept with the run, and another file is another run."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from run_bench import DATASETS, RunBench, least
from typer.testing import CliRunner

import cptlite
from cptlite.cli import app
from cptlite.errors import DataError
from cptlite.methods.class_texts import ClassTexts
from cptlite.runs.by_name import classify_by_name, name_task
from cptlite.runs.card import _method
from cptlite.runs.load import read_run
from cptlite.runs.rows import check_caches, short_rows

SAID = {"ash": ["a grey tree."], "oak": ["a tree of acorns.", "its leaves have lobes."], "dime": ["ten cents."]}
ATTRIBUTES = {
    "dime": ["small"],
    "coins": {"penny": ["of copper", "worn"], "cent": ["old"]},
    "leaves": {name: ["green all summer"] for name in DATASETS["leaves"]},
    "shells": {"conch": ["large"], "whelk": ["seen on every beach of the north"]},
}


def weights_of(folder: Path) -> torch.Tensor:
    return read_run(folder).stored.classifier.tensors()["weights"]


@pytest.mark.parametrize(
    ("method", "option", "content"),
    [
        ("zeroshot", "descriptions", SAID),
        ("kgcoop", "descriptions", SAID),
        ("tip-adapter", "descriptions", SAID),
        ("argue-n-text", "attributes", ATTRIBUTES),
    ],
)
def test_what_was_said_is_kept_with_the_run(
    bench: RunBench, tmp_path: Path, method: str, option: str, content: dict
) -> None:
    """Read back after the file is gone; the run's folder is named after what it said."""
    path = tmp_path / "said.json"
    path.write_text(json.dumps(content))
    given = {option: str(path)}
    folder = bench.train("runs", least(method, **given))
    digest = ClassTexts(option, content)
    assert folder.parts[-3].endswith(f"-{option}_{digest}")
    assert json.loads((folder / f"{option}.json").read_text()) == content
    assert json.loads((folder / "config.json").read_text())["config"][option] == digest
    path.write_text(json.dumps({**content, "dime": ["another."]}))
    other = bench.train("runs", least(method, **given))
    assert other != folder and not torch.equal(weights_of(other), weights_of(folder))
    path.unlink()
    run = read_run(folder)
    assert run.config == least(method, **{option: content})
    assert bench.train_together("runs", [run.config])[0] == run.results, "it is done"
    assert cptlite.load_run(folder).get_params()[option].content == content
    (line,) = (line for line in _method(run, {}) if line.startswith("Options that are not the defaults: "))
    assert f"`{option}` {digest}" in line, "a card has the digest alone"


@pytest.mark.parametrize(
    ("method", "option", "content"), [("zeroshot", "descriptions", SAID), ("argue-text", "attributes", ATTRIBUTES)]
)
def test_other_texts_in_a_runs_folder_are_refused(bench: RunBench, method: str, option: str, content: dict) -> None:
    folder = bench.train("runs", least(method, **{option: content}))
    kept, says = folder / f"{option}.json", f"wanted the {option} that a run was made with"
    for text in (json.dumps({**content, "dime": ["changed."]}), "garbage", None):
        kept.unlink() if text is None else kept.write_text(text)
        with pytest.raises(DataError, match=says):
            read_run(folder)
    # What a configuration says is a digest: no file is opened on its word.
    kept.write_text(json.dumps(content))
    config = json.loads((folder / "config.json").read_text())
    config["config"][option] = str(kept)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=says):
        read_run(folder)


def test_new_classes_have_attributes_or_are_refused(bench: RunBench) -> None:
    run = read_run(bench.train("runs", least("argue-text", attributes=ATTRIBUTES)))
    images = torch.eye(run.stored.backbone.embed_dim)[:3]
    found = classify_by_name(run, name_task(run, "coins", ["cent", "penny"])).scores(images)
    wanted = run.stored.classifier.scores(images)[:, 1]
    torch.testing.assert_close(found[:, 1], wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(DataError, match="wanted --attributes of every class of coins, got none of 'euro'"):
        classify_by_name(run, name_task(run, "coins", ["euro"]))


def test_a_file_that_lacks_attributes_leaves_no_folder(bench: RunBench) -> None:
    config = least("argue-text", attributes={**ATTRIBUTES, "shells": {"conch": ["large"]}})
    with pytest.raises(DataError, match="wanted --attributes of every class of shells, got none of 'whelk'"):
        bench.train("lacking", config)
    assert not (bench.folder / "lacking").exists()


def test_new_classes_are_described_too(bench: RunBench) -> None:
    said = {**SAID, "fir": ["a tree with needles."]}
    run = read_run(bench.train("runs", least("zeroshot", descriptions=said)))
    found = classify_by_name(run, name_task(run, "leaves", ["ash", "fir", "yew"])).tensors()["weights"]
    torch.testing.assert_close(found[0], run.stored.classifier.tensors()["weights"][run.stored.classes_of("leaves")][0])
    plain = read_run(bench.train("plain", least("zeroshot")))
    without = classify_by_name(plain, name_task(plain, "leaves", ["ash", "fir", "yew"])).tensors()["weights"]
    assert not torch.allclose(found[1], without[1], atol=1e-3)
    torch.testing.assert_close(found[2], without[2])


def test_base_classes_learn_and_new_ones_are_described(bench: RunBench) -> None:
    """Of leaves ash and elm are base: sentences of oak reach the classifier by name alone."""
    folder = bench.train("runs", least("kgcoop", classes="base", descriptions=SAID))
    assert json.loads((folder / "results.json").read_text())["tasks"]["leaves"]["new"] is not None


def test_what_lacks_is_told_and_nothing_at_all_is_refused(opened: list[cptlite.cache.FeatureCache]) -> None:
    for method in ("zeroshot", "gda"):
        found = short_rows(opened, [least(method, descriptions=SAID)])
        lines = {name: [line for line in lines if "descriptions" in line] for name, lines in found.items()}
        assert {name: line.partition(" (")[2].partition(")")[0] for name, [line] in lines.items()} == {
            "coins": "'penny'",
            "leaves": "'elm'",
            "shells": "'conch', 'whelk'",
        }
        with pytest.raises(
            DataError, match="wanted --descriptions of classes of coins, leaves, shells, got none of 'dime'"
        ):
            check_caches(opened, [least(method, descriptions={"fir": ["a tree."]})])


def test_the_command_line_reads_a_file(bench: RunBench, tmp_path: Path) -> None:
    path, place = tmp_path / "said.json", ["--cache-dir", str(bench.caches), "--out", str(tmp_path / "runs")]
    words = ["train", "--method", "zeroshot", "--descriptions", str(path), "-v", *place]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 3 and "No such file" in done.stderr
    path.write_text(json.dumps(SAID))
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert str(ClassTexts("descriptions", SAID)) in done.output and "acorns" not in done.output
    assert "no descriptions of 1 of the 2 classes of coins ('penny')" in " ".join(done.stderr.split())
    [folder] = (tmp_path / "runs").glob("*/zeroshot-descriptions_*/*/*")
    extended = tmp_path / "more.safetensors"
    words = ["extend", str(folder), "--out", str(extended), "--task", "leaves", "--classes", "fir"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output


def test_python_takes_a_table(opened: list[cptlite.cache.FeatureCache], bench: RunBench) -> None:
    model = cptlite.FewShotClassifier("zeroshot", bench.backbone, descriptions=SAID)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cptlite.errors.DataWarning)
        model.fit(opened)
    wanted = weights_of(bench.train("runs", least("zeroshot", descriptions=SAID)))
    torch.testing.assert_close(torch.from_numpy(model.class_weights()), wanted)
