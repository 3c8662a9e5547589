"""Frozen CLIP towers: found by name or file, loaded, identified."""

from cptlite.backbones.backbone import PRECISIONS, Backbone, TextTower
from cptlite.backbones.clip import CLIP
from cptlite.backbones.load import load_backbone, load_image_tower
from cptlite.backbones.names import (
    backbone_slug,
    check_user_named,
    checkpoint_path,
    feature_space,
    is_checkpoint_path,
    openclip_name,
    same_backbone,
)
from cptlite.backbones.tokenizer import Tokenizer, TokenSource

__all__ = [
    "CLIP",
    "PRECISIONS",
    "Backbone",
    "TextTower",
    "TokenSource",
    "Tokenizer",
    "backbone_slug",
    "check_user_named",
    "checkpoint_path",
    "feature_space",
    "is_checkpoint_path",
    "load_backbone",
    "load_image_tower",
    "openclip_name",
    "same_backbone",
]
