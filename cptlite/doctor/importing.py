"""Imports packages in a process of its own, which may crash, hang or print as it likes.

It is run as a file and loads nothing of cptlite. Its arguments are JSON: ``sys.path``, and pairs of a package's name
and the modules to import. For each package it writes a line of JSON to stdout, and ends at the first that fails, since
what is half imported would make others fail.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import warnings
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """Import, and end without taking modules apart."""
    path, packages = map(json.loads, sys.argv[1:])
    sys.path[:] = path
    lines = os.dup(1)
    os.dup2(2, 1)  # what a module prints is no result
    warnings.simplefilter("ignore")
    gc.disable()
    for name, modules in packages:
        file = error = ""
        try:
            file = [importlib.import_module(module).__file__ or "" for module in modules][0]
        except BaseException as problem:  # SystemExit, too, which some raise where a file lacks
            error = f"{type(problem).__name__}: {problem}"
        os.write(lines, f"{json.dumps({'name': name, 'file': file, 'error': error})}\n".encode())
        if error:
            break
    os._exit(0)


if __name__ == "__main__":
    main()
