"""Gradient steps over cached rows in memory: recipe, state, loop, checkpoint."""
