"""``python -m cptlite`` is the command ``cptlite``."""

import sys

from cptlite.cli import main

if __name__ == "__main__":
    sys.exit(main())
