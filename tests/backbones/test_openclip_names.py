"""Names of open_clip's models, which are told apart without the package."""

from __future__ import annotations

import sys

import pytest

from cptlite.backbones import (
    backbone_slug,
    check_user_named,
    checkpoint_path,
    is_checkpoint_path,
    load_backbone,
    openclip_name,
    same_backbone,
)
from cptlite.errors import CptliteError, UsageError


def test_names_are_taken_apart() -> None:
    assert openclip_name("ViT-B/32") is None and openclip_name("open_clip:ViT-B-32") is None
    cases = {
        "openclip:ViT-B-32": ("ViT-B-32", "", "", ""),
        "openclip:ViT-B-32:3": ("ViT-B-32", "3", "", ""),
        "openclip:ViT-B-32/laion2b_s34b_b79k": ("ViT-B-32", "", "laion2b_s34b_b79k", ""),
        "openclip:ViT-B-32/w.pt": ("ViT-B-32", "", "", "w.pt"),
        "openclip:ViT-B-32/./weights": ("ViT-B-32", "", "", "./weights"),
        "openclip:ViT-B-32//a/b:c": ("ViT-B-32", "", "", "/a/b:c"),
    }
    assert {name: tuple(openclip_name(name) or ()) for name in cases} == cases


@pytest.mark.parametrize("name", ["openclip:ViT-B-32/w.pt", "openclip:ViT-B-32/../x", "openclip:a:b//etc/passwd"])
def test_files_are_only_opened_if_the_user_names_them(name: str) -> None:
    assert is_checkpoint_path(name) and checkpoint_path(name) == name.partition("/")[2]
    check_user_named(name, name, "cache")
    for given in (None, "RN50", "openclip:RN50/" + name.partition("/")[2], name.partition("/")[2]):
        with pytest.raises(UsageError, match="only opened if you give it"):
            check_user_named(name, given, "cache")


def test_which_names_are_one_backbone() -> None:
    assert same_backbone("openclip:a/w.pt", "openclip:a/./w.pt") and same_backbone("openclip:a:0", "openclip:a")
    for one, other in [
        ("openclip:a/w.pt", "openclip:b/w.pt"),
        ("openclip:a/w.pt", "w.pt"),
        ("openclip:a", "openclip:a:1"),
        ("openclip:a/tag", "openclip:a-tag"),
        ("openclip:a/tag", "openclip:a/tag.pt"),
    ]:
        assert not same_backbone(one, other) and not same_backbone(other, one)
        assert backbone_slug(one) != backbone_slug(other)


def test_slugs_are_names_of_one_folder() -> None:
    assert backbone_slug("openclip:ViT-B-32") == "openclip-random-ViT-B-32"
    assert backbone_slug("openclip:ViT-B-32:4") == "openclip-random-ViT-B-32-seed4"
    assert backbone_slug("openclip:ViT-B-32/laion400m_e31") == "openclip-ViT-B-32-laion400m_e31"
    assert backbone_slug("openclip:ViT-B-32//a/w.pt").startswith("openclip-ViT-B-32-w-")
    assert "/" not in backbone_slug("openclip:../\\x\n/../w") and backbone_slug("openclip:..") != ".."


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("open_clip:ViT-B/32", "'openclip:ViT-B-32'"),
        ("OpenCLIP:vit-l/14@336px", "'openclip:ViT-L-14-336'"),
        ("open-clip:coca_ViT-B-32", "'openclip:coca_ViT-B-32'"),
        ("vit-b/32", "'ViT-B/32'"),
        ("ViT-B-32", "'ViT-B/32' (OpenAI's weights) or 'openclip:ViT-B-32'"),
        ("rn50", "'RN50'"),
        ("Random:rn50:3", "'random:rn50:3'"),
    ],
)
def test_other_spellings(name: str, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_backbone(name)
    assert str(caught.value) == f"unknown backbone {name!r}: did you mean {meant}?"


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(CptliteError) as caught:
        load_backbone("openclip:ViT-B-32")
    assert "open_clip_torch" in str(caught.value) and "pip install 'cptlite[openclip]'" in str(caught.value)
    assert type(caught.value) is CptliteError  # exit code 1, as of other extras
