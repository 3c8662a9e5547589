"""The commands, from cache to export, on backbones of open_clip whose prompts go either way."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from trees import draw_classes
from typer.testing import CliRunner, Result

with warnings.catch_warnings():  # what it imports warns of what it imports
    warnings.simplefilter("ignore")
    open_clip = pytest.importorskip("open_clip", reason="needs the extra openclip")

from tiny_openclip import add_models, twin

from cptlite.backbones.architectures import PIXEL_MEAN, PIXEL_STD
from cptlite.cli import app
from cptlite.datasets.images import open_rgb, plain_view

PLAIN = "prompts go through the plain text path"


def call(*words: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == code, done.output
    return done


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "configs").mkdir()
    add_models(tmp_path / "configs")
    draw_classes(tmp_path / "leaves", ["ash", "elm", "oak"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(("name", "said"), [("tiny-gelu", ""), ("tiny-both-ways", PLAIN)])
def test_from_images_to_predictions(here: Path, name: str, said: str) -> None:
    torch.save(twin(name).state_dict(), here / "w.pt")
    backbone = f"openclip:{name}/w.pt"
    call("cache", "--dataset", "leaves", "--backbone", backbone)
    (cached,) = (here / "cache").iterdir()
    assert cached.name.startswith(f"openclip-{name}-w-")
    for method in ("softcpt", "coop-ca"):
        words = ("train", "--method", method, "--shots", "1", "--epochs", "1", "--backbone", backbone)
        done = call(*words)
        assert (said in done.stderr) and (bool(said) or PLAIN not in done.stderr)
        (run,) = (here / "runs" / "leaves").glob(f"{method}*/*/shots1-seed1")
        first = (run / "prompts.safetensors").read_bytes()
        assert "already done" in call(*words).stderr
        call(*words, "--force")
        assert (run / "prompts.safetensors").read_bytes() == first, "the same seed gives the same bytes"
        refused = call("predict", str(run), "leaves", "--json", code=2)
        assert "only opened if you give it" in refused.stderr
        found = json.loads(call("predict", str(run), "leaves", "--backbone", backbone, "--json").stdout)
        assert len(found) >= 6
        call("eval", str(run), "--backbone", backbone)
    call("predict", str(run), "leaves", "--backbone", backbone, "--task", "tree", "--classes", "ash,birch", code=2)
    export = ("export", str(run), "--out", "out.safetensors")
    call(*export)
    card = (here / "out.safetensors.md").read_text()
    assert "open_clip.create_model_and_transforms(" in card and str(here) not in card
    code = card.partition("model, _, preprocess")[2].partition("model.eval()")[0]
    scope: dict[str, Any] = {"open_clip": open_clip}
    exec(f"model, _, preprocess{code}".replace("PATH OF THE WEIGHTS", "w.pt"), scope)
    path = next((here / "leaves").rglob("*.png"))
    spec = {"resize": 32, "mean": list(PIXEL_MEAN), "std": list(PIXEL_STD)}
    image = open_rgb(path)
    torch.testing.assert_close(scope["preprocess"](image), plain_view(image, spec), atol=1e-6, rtol=0)
    assert f"'{name}', pretrained=\"PATH OF THE WEIGHTS\", image_resize_mode='shortest'" in code


def test_a_cache_of_random_weights_and_a_probe_without_a_tokenizer(here: Path) -> None:
    for name in ("tiny-siglip", "tiny-words"):
        backbone = f"openclip:{name}:5"
        call("cache", "--dataset", "leaves", "--backbone", backbone)
        call("train", "--method", "prototype", "--shots", "1", "--backbone", backbone)
        refused = call("train", "--method", "softcpt", "--shots", "1", "--epochs", "1", "--backbone", backbone, code=3)
        assert ("tokenizer" if name == "tiny-siglip" else "takes no prompts here") in refused.stderr
        shutil.rmtree(here / "cache")
        shutil.rmtree(here / "runs")


def test_spellings_are_one_line_and_exit_code_2(here: Path) -> None:
    done = call("cache", "--dataset", "leaves", "--backbone", "openclip:vit-b/32", code=2)
    assert "did you mean 'openclip:ViT-B-32'?" in done.stderr and not done.stdout
