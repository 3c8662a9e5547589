"""Frozen CLIP towers: found by name or file, loaded, identified."""

from cptlite.backbones.backbone import PRECISIONS, Backbone, TextTower, load_backbone, load_image_tower
from cptlite.backbones.clip import CLIP
from cptlite.backbones.names import backbone_slug, check_user_named, feature_space, is_checkpoint_path, same_backbone
from cptlite.backbones.tokenizer import Tokenizer

__all__ = [
    "CLIP",
    "PRECISIONS",
    "Backbone",
    "TextTower",
    "Tokenizer",
    "backbone_slug",
    "check_user_named",
    "feature_space",
    "is_checkpoint_path",
    "load_backbone",
    "load_image_tower",
    "same_backbone",
]
