"""Drawings made from a seed: the demo's image folders, and captioned ones for its small CLIP.

Source: this package's own.
"""

from __future__ import annotations

from cptlite.drawings.suite import ROWS_PER_CLASS, TASKS, DrawnTask, draw_suite

__all__ = ["ROWS_PER_CLASS", "TASKS", "DrawnTask", "draw_suite"]
