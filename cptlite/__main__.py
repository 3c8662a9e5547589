"""``python -m cptlite`` is the command ``cptlite``."""

from cptlite.cli import run

if __name__ == "__main__":
    run()
