"""A run keeps the class texts that it read: their file may change or go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from run_bench import RunBench, least, results_of

from cptlite.errors import DataError
from cptlite.runs.by_name import classify_by_name, name_task
from cptlite.runs.card import _method
from cptlite.runs.folders import run_folder
from cptlite.runs.load import read_run


def test_a_run_keeps_what_it_read(bench: RunBench, tmp_path: Path) -> None:
    """Two files have two folders; without its file a run gives new classes their weights, if the file had them."""
    file = tmp_path / "attributes.json"
    content = {
        "coins": {"dime": ["small"], "penny": ["of copper", "worn"], "cent": ["old"]},
        "leaves": {name: ["green all summer"] for name in ("ash", "elm", "oak")},
        "shells": {"conch": ["large"], "whelk": ["seen on every beach of the north"]},
    }
    file.write_text(json.dumps(content))
    config = least("argue-n-text", attributes=str(file))
    folder = bench.train("runs", config)
    assert results_of(folder)["config"]["attributes"] == config.to_json()["attributes"]
    file.write_text(json.dumps({**content, "coins": {**content["coins"], "dime": ["large"]}}))
    other = run_folder(bench.folder / "runs", least("argue-n-text", attributes=str(file)))
    plain = run_folder(bench.folder / "runs", least("argue-n-text"))
    assert len({folder, other, plain}) == 3
    file.unlink()
    run = read_run(folder)
    assert run.config == config
    images = torch.eye(run.stored.backbone.embed_dim)[:3]
    found = classify_by_name(run, name_task(run, "coins", ["cent", "penny"])).scores(images)
    wanted = run.stored.classifier.scores(images)[:, 1]
    torch.testing.assert_close(found[:, 1], wanted, rtol=1e-4, atol=1e-4)
    *_, said, _, _ = _method(run, {})  # the card's lines: of options, of choices, of the machine
    assert said.startswith("Options that are not the defaults: ") and "all in config.json" in said and len(said) < 400
    with pytest.raises(DataError, match="wanted attributes of every class of task 'coins', got none of 'euro'"):
        classify_by_name(run, name_task(run, "coins", ["euro"]))


def test_a_path_in_a_runs_folder_is_not_opened(bench: RunBench, tmp_path: Path) -> None:
    folder = bench.train("runs", least("argue-text"))
    file = tmp_path / "attributes.json"
    file.write_text('{"dime": ["small"]}')
    said = json.loads((folder / "config.json").read_text())
    said["config"]["attributes"] = str(file)
    (folder / "config.json").write_text(json.dumps(said))
    with pytest.raises(DataError, match="cannot be read .attributes is not the content of a file"):
        read_run(folder)
