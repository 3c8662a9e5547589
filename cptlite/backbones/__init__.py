"""Frozen CLIP towers: found by name or file, loaded, identified."""
