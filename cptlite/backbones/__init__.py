"""Frozen CLIP towers: found by name or file, loaded, identified."""

from cptlite.backbones.backbone import PRECISIONS, Backbone, TextTower, backbone_slug, load_backbone
from cptlite.backbones.clip import CLIP
from cptlite.backbones.tokenizer import Tokenizer

__all__ = ["CLIP", "PRECISIONS", "Backbone", "TextTower", "Tokenizer", "backbone_slug", "load_backbone"]
