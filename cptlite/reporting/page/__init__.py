"""Runs as one HTML page that holds all it needs: tables, curves, confusion, and where each number comes from."""

from cptlite.reporting.page.write import write_page

__all__ = ["write_page"]
