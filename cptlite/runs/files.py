"""A run's folder: what is in it, whether it is done, and how its files are written.

``config.json`` is written first and ``results.json`` last, so a directory without results is unfinished and gone on
with; one with results is returned as it is when it was made by the same configuration and refused when not. Between
them comes ``prompts.safetensors``, where a training is done. Tasks that are learned separately have folders of their
own in ``tasks``, with log, checkpoint and prompts; what a run learned first, to start from, has one in ``source``.

Damage is seen: each file carries a digest of itself, or ``results.json`` has it. Those of earlier versions have none.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from cptlite.backbones import Backbone
from cptlite.classifiers import BackboneFacts, Classifier, StoredClassifier, pack_classifier
from cptlite.config import known_options
from cptlite.datasets.text_files import read_text, shown
from cptlite.errors import CptliteError, DataError, UsageError
from cptlite.files import is_whole, locked, naming_full_disk, sha256_of, table_digest, write_whole
from cptlite.methods.base import Problem
from cptlite.methods.class_texts import TEXT_OPTIONS, ClassTexts, read_class_texts, texts_in
from cptlite.methods.options import MethodOptions
from cptlite.methods.table import METHODS
from cptlite.training.checkpoint import CHECKPOINT, LOG

__all__ = [
    "CLASSIFIER",
    "PROMPTS",
    "SOURCE",
    "check_files",
    "class_text_files",
    "complete_config",
    "finished_results",
    "kept_class_texts",
    "read_json",
    "read_results",
    "remove_checkpoints",
    "tidy_finished",
    "write_class_texts",
    "write_classifier",
    "write_json",
    "write_predictions",
    "write_results",
    "writing_run",
]

CLASSIFIER, PROMPTS, PREDICTIONS = "classifier.safetensors", "prompts.safetensors", "predictions.csv"
CLASS_TEXTS = {option: f"{option}.json" for option in TEXT_OPTIONS}
RESULTS, CONFIG, LOCK = "results.json", "config.json", ".run.lock"
SOURCE = "source"
DIGESTED = (CONFIG, CLASSIFIER, PROMPTS, PREDICTIONS, LOG, *CLASS_TEXTS.values())


def complete_config(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the configuration of a run that was filed by a version with fewer options, as JSON has it.

    An option that was not there yet counts as its own default, whatever recipes have set it to since. The configuration
    of a method that is not known stays as it is.
    """
    entry = METHODS.get(str(stored.get("method")))
    options = {each.name: each.default for _, each in known_options(entry)} if entry else {}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()} | dict(stored)


def finished_results(folder: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Results in a run's folder, if it is done; None where it is not.

    Parameters
    ----------
    folder : Path
    identity : dict
        ``config`` and ``caches`` as the run would write them.

    Raises
    ------
    UsageError
        The folder holds a run, finished or to be gone on with, of another configuration or other cached features.
    DataError
        A file of that run is damaged.
    """
    stored = folder / CONFIG
    begun = any(_find(folder, RESULTS, CHECKPOINT, PROMPTS))
    if not (begun and stored.exists()):
        return None
    found = read_results(folder) if (folder / RESULTS).exists() else None
    if found:
        check_files(folder, found)
    old = read_json(stored, "config")
    if isinstance(old["config"], dict):
        old["config"] = complete_config(old["config"])
    changed = [f"{key} {was!r} there, {asked!r} asked" for key, was, asked in _differences(old, identity)]
    if changed:
        raise UsageError(
            f"{folder} holds a run of another configuration ({'; '.join(changed)}): "
            f"give --force to replace it, or another --out"
        )
    return found


def check_files(folder: Path, results: dict[str, Any]) -> None:
    """Refuse a finished run with files that are not those its results have the digests of.

    Raises
    ------
    DataError
        A file is damaged, or not there.
    """
    own = {path for path in _find(folder, *DIGESTED) if path.is_file()}  # no other is opened, whatever is named
    for name, digest in results.get("files", {}).items():
        if folder / name not in own or sha256_of((folder / name).read_bytes()) != digest:
            raise DataError(
                f"wanted what a finished run wrote at {shown(folder / name)}, got a damaged file or none: give "
                f"--force to train anew, or another --out"
            )


@contextmanager
def writing_run(folder: Path, *, lock: bool = True, force: bool = False) -> Iterator[None]:
    """Be the one process that writes to a run's folder; tidy up after killed ones.

    Parameters
    ----------
    folder : Path
        Made where it is not there, and removed again where nothing was written.
    lock : bool
        False for file systems without locks: the caller sees to it that there is no other process.
    force : bool
        Remove what is there.

    Raises
    ------
    CptliteError
        Another process writes to it, the file system has no locks, or the disk is full.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        with naming_full_disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / LOCK, folder) if lock else nullcontext():
            if force:
                (folder / RESULTS).unlink(missing_ok=True)  # first: what is left is no finished run
                for path in folder.iterdir():
                    if path.is_dir() and not path.is_symlink():
                        shutil.rmtree(path)
                    elif path.name != LOCK:
                        path.unlink()
            elif lock:  # without one, a temporary file may be another process's
                for path in _find(folder, ".*.tmp"):
                    path.unlink()
            yield
    finally:
        for each in made:
            try:
                each.rmdir()
            except OSError:  # not empty
                break


def tidy_finished(folder: Path) -> None:
    """Remove what a killed process left of a run that is done, unless another is at it or the folder is read-only."""
    if any(_find(folder, ".*.tmp", CHECKPOINT, LOCK)):
        with suppress(CptliteError, OSError), writing_run(folder):
            remove_checkpoints(folder)


def _find(folder: Path, *names: str) -> Iterator[Path]:
    """Files of some names, or patterns, in a run's folder and in those of its tasks and of its source."""
    for name in names:
        yield from (*folder.glob(name), *folder.glob(f"tasks/*/{name}"), *folder.glob(f"{SOURCE}/{name}"))


def remove_checkpoints(folder: Path) -> None:
    """Remove what a run that is done will not go on from."""
    for path in _find(folder, CHECKPOINT):
        path.unlink()


def read_results(folder: Path) -> dict[str, Any]:
    """Read ``results.json`` of a run that is done.

    Raises
    ------
    DataError
        It is damaged.
    """
    path = folder / RESULTS
    results = read_json(path, "tasks", "suite_score", "parameters", "choices")
    files = results.get("files", {})
    if not is_whole(results) or not isinstance(files, dict):
        raise _damaged(path)
    return results


def write_results(folder: Path, results: dict[str, Any], written: Iterable[Path]) -> dict[str, Any]:
    """Write ``results.json``, with a digest of each file of the run and of itself; return all of it.

    Raises
    ------
    CptliteError
        One of the files that were ``written`` is gone, or the disk is full.
    """
    names = _find(folder, *DIGESTED)
    files = {path.relative_to(folder).as_posix(): sha256_of(path.read_bytes()) for path in sorted(names)}
    if lost := [path for path in written if path.relative_to(folder).as_posix() not in files]:
        raise CptliteError(f"wanted {shown(lost[0])}, which this run wrote, found none: run the same command again")
    results = {**results, "files": files}
    results["sha256"] = table_digest(results)
    write_json(folder / RESULTS, results)
    return results


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """Read a table with some keys."""
    content = None
    with suppress(DataError, ValueError, RecursionError):
        content = json.loads(read_text(path))  # which waits for no pipe
    if not isinstance(content, dict) or not content.keys() >= set(keys):
        raise _damaged(path)
    return content


def _damaged(path: Path) -> DataError:
    return DataError(
        f"wanted what an earlier run wrote at {path}, got a damaged file: give --force to train anew, or another --out"
    )


def _differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(name, old value, new value) of what differs, looking into nested tables."""
    for key, value in new.items():
        there = old.get(key)
        if isinstance(value, dict) and isinstance(there, dict):
            yield from ((f"{key}.{name}", was, now) for name, was, now in _differences(there, value))
        elif there != value:
            yield key, there, value


def write_classifier(folder: Path, problem: Problem, classifier: Classifier, backbone: Backbone) -> None:
    """Write ``classifier.safetensors``: all that scores again, with the names of classes and tasks."""
    stored = StoredClassifier(classifier=classifier, tasks=problem.tasks, backbone=BackboneFacts.of(backbone))
    write_whole(folder / CLASSIFIER, pack_classifier(stored))


def class_text_files(folder: Path, options: MethodOptions) -> dict[Path, ClassTexts]:
    """List the files of a run's folder that keep class texts, with what each keeps."""
    return {folder / CLASS_TEXTS[texts.option]: texts for texts in texts_in(options)}


def write_class_texts(folder: Path, options: MethodOptions) -> None:
    """Write what each file of class texts that was given, such as descriptions, said when it was read."""
    for path, texts in class_text_files(folder, options).items():
        write_json(path, texts.content)


def kept_class_texts(folder: Path, option: str, digest: str) -> ClassTexts:
    """Read back what `write_class_texts` wrote.

    Raises
    ------
    DataError
        It is not there, damaged, or not what the configuration has the digest of.
    """
    path, found = folder / CLASS_TEXTS[option], None
    with suppress(DataError):
        found = read_class_texts(option, path)
    if found is None or found != digest:
        raise DataError(
            f"wanted the {option} that a run was made with in {shown(path)}, got none, others or a damaged file: put "
            f"it back, or train it anew with --{option} and --force"
        )
    return found


def write_predictions(folder: Path, content: bytes | None) -> None:
    """Write ``predictions.csv``, or see to it that there is none."""
    if content is None:
        (folder / PREDICTIONS).unlink(missing_ok=True)
    else:
        write_whole(folder / PREDICTIONS, content)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, all of it or nothing."""
    write_whole(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
