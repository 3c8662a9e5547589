"""The commands that write, each in a folder it finds, and what the folder holds afterwards but for times.

A folder is as new, of a command that was killed halfway, or of one that is done and is to be done anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
from fault_process import Fate, die, run
from feature_files import LAYOUTS, make_rows
from trees import draw_classes

from cptlite.cache.write import replace_words

__all__ = ["COMMANDS", "Command", "Shelf", "outcome_of"]

CACHE = ("cache", "-d", "leaves", "--backbone", "random:demo", "--workers", "0", "--batch-size", "4", "--views", "2")
TRAIN = ("train", "--shots", "2", "-d", "coins", "-d", "leaves", "--method")
STEPS = ("--epochs", "2", "--batch-size", "4", "--context-length", "2")
RUN = "runs/coins+leaves/prototype/random-demo/shots2-seed1"
NAMED = "runs/coins+leaves/zeroshot/random-demo/shots2-seed1"
PROMPTED = "runs/coins+leaves/coop-ca-epochs2-batch_size4-context_length2/random-demo/shots2-seed1"
DATASETS = {"coins": ("dime", "penny"), "leaves": ("ash", "elm", "oak")}
STRANGERS = (
    "notes.txt",
    "cache/notes.txt",
    "cache/random-demo/other.h5",
    "runs/notes.txt",
    "runs/coins+leaves/mine.txt",
)
"""What is nobody's business."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command that writes.

    Attributes
    ----------
    name : str
        As the table has it.
    words : tuple of str
    outputs : tuple of str
        Folders and files that it makes.
    state : str
        "new", "half" (killed before), or "done" (and done anew).
    finds : tuple of str
        Folders of a shelf that it reads.
    share : float
        Of the points: less for a command that takes seconds.
    """

    name: str
    words: tuple[str, ...]
    outputs: tuple[str, ...]
    state: str = "new"
    finds: tuple[str, ...] = ()
    share: float = 1.0


def _states(command: Command, *, force: bool = False) -> list[Command]:
    """The same command, new, gone on with and, where it does so only when told to, done anew."""
    half = replace(command, name=f"{command.name}, resumed", state="half")
    words = (*command.words, "--force") if force else command.words
    return [
        command,
        half,
        replace(command, name=f"{command.name}{' --force' * force}, again", words=words, state="done"),
    ]


def _train(method: str, *more: str) -> list[Command]:
    words = (*TRAIN, method, *more)
    return _states(Command(name=f"train {method}", words=words, outputs=("runs",), finds=("cache",)), force=True)


FEATURES = ("import-features", "features/f.npz", "--name", "trees", "--backbone", "random:demo")
EXPORT = ("export", RUN, "--out", "exports/m.safetensors")
BENCH = ("bench", "cache", "--backbone", "random:demo", "--images", "2", "--seconds", "0.001", "--repeats", "1")
COMMANDS = [
    *_states(Command(name="cache", words=CACHE, outputs=("cache",), finds=("coins", "leaves")), force=True),
    Command(name="cache, other words", words=CACHE, outputs=("cache",), finds=("leaves",), state="reworded"),
    *_train("softcpt", *STEPS),
    *_train("kgcoop", *STEPS),
    *_train("prototype"),
    *_states(Command(name="import-features", words=FEATURES, outputs=("cache",), finds=("features",)), force=True),
    *_states(Command(name="export", words=EXPORT, outputs=("exports",), finds=("runs",)), force=True),
    Command(name="eval", words=("eval", RUN), outputs=("runs",), finds=("runs", "cache")),
    Command(
        name="eval --predictions",
        words=("eval", RUN, "--predictions", "p.csv", "--reliability", "r.png"),
        outputs=("runs", "p.csv", "r.png"),
        finds=("runs", "cache"),
    ),
    Command(
        name="predict --csv",
        words=("predict", RUN, "leaves", "--csv", "p.csv", "--workers", "0"),
        outputs=("runs", "p.csv"),
        finds=("runs", "leaves"),
    ),
    Command(
        name="extend",
        words=("extend", NAMED, "--task", "leaves", "--classes", "fir", "--out", "m.safetensors", "--force"),
        outputs=("runs", "m.safetensors"),
        finds=("runs",),
    ),
    Command(
        name="interpret --sheet",
        words=("interpret", PROMPTED, "--tasks-plot", "t.png", "--class", "oak", "--sheet", "s.png", "--root", "."),
        outputs=("runs", "t.png", "s.png"),
        finds=("runs", "leaves"),
    ),
    Command(name="report --out", words=("report", "--out", "plots"), outputs=("plots",), finds=("runs",)),
    Command(
        name="bench --json --plot",
        words=(*BENCH, "--json", "b.json", "--plot", "b.png"),
        outputs=("b.json", "b.png"),
        share=0.3,
    ),
    Command(name="demo", words=("demo",), outputs=("demo",), share=0.3),
]


class Shelf:
    """Folders that commands find, made once and copied for each try.

    Attributes
    ----------
    folder : Path
        Where they lie.
    points : dict
        Of commands, by what counts as one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made = folder / "made"
        for name, classes in DATASETS.items():
            draw_classes(self.made / name, classes, images=8)
        (self.made / "features").mkdir()
        LAYOUTS["npz"](self.made / "features", make_rows(128))
        trained = ((*TRAIN, "prototype"), (*TRAIN, "zeroshot"), (*TRAIN, "coop-ca", *STEPS))
        for words in ((*CACHE, "-d", "coins"), *trained):
            ended = run(words, self.made)
            assert ended.code == 0, ended
        self.points: dict[Command, dict[tuple[bool, bool], tuple[str, ...]]] = {}
        self._begun: dict[Command, Path] = {}
        self._references: dict[tuple[str, ...], Any] = {}

    def fresh(self, command: Command, target: Path) -> None:
        """Copy the folder that a command finds when nothing was made before."""
        target.mkdir()
        for name in command.finds:
            shutil.copytree(self.made / name, target / name)
        for name in STRANGERS:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            if name.endswith(".h5"):
                shutil.copyfile(self.made / "cache/random-demo/coins.h5", target / name)
            else:
                (target / name).write_text("somebody's own")

    def lay_out(self, command: Command, target: Path) -> Path:
        """Make a folder in the command's state."""
        if command not in self._begun:
            begun = self.folder / f"begun{len(self._begun)}"
            self.fresh(command, begun)
            words = tuple(word for word in command.words if word != "--force")
            if command.state == "half":
                points = run(words, Path(shutil.copytree(begun, self.folder / "whole")), fate=Fate()).points
                shutil.rmtree(self.folder / "whole")
                assert run(words, begun, fate=Fate(at=halfway(points), act=die)).code == -9
            elif command.state in ("done", "reworded"):
                assert run(words, begun).code == 0
            if command.state == "reworded":
                _reword(begun / "cache/random-demo/leaves.h5")
            self._begun[command] = begun
        return Path(shutil.copytree(self._begun[command], target, symlinks=True))

    def reference(self, command: Command) -> Any:
        """What an undisturbed command makes of its folder."""
        words = tuple(word for word in command.words if word != "--force")
        if words not in self._references:
            folder = self.folder / f"reference{len(self._references)}"
            self.fresh(command, folder)
            ended = run(words, folder)
            assert ended.code == 0, ended.err
            self._references[words] = outcome_of(folder, command)
        return self._references[words]


def halfway(points: tuple[str, ...]) -> int:
    """The point at which a command is killed to be gone on with: after half of what it renames."""
    renamed = [place for place, name in enumerate(points, 1) if name == "os.rename"]
    return renamed[len(renamed) // 2] + 1


def _reword(path: Path) -> None:
    from cptlite.cache import open_cache

    with open_cache(path) as cache:
        tasks = tuple(replace(task, template="an old photo of a {}.") for task in cache.tasks)
    replace_words(path, tasks)


# What a folder holds


def outcome_of(folder: Path, command: Command) -> dict[str, Any]:
    """What a command made, by path, without times and what else differs from run to run."""
    found = {}
    for output in command.outputs:
        paths = sorted((folder / output).rglob("*")) if (folder / output).is_dir() else [folder / output]
        for path in paths:
            name = path.relative_to(folder).as_posix()
            if path.is_file() and name not in STRANGERS:
                found[name] = READERS.get(path.name, READERS.get(path.suffix, Path.read_bytes))(path)
    return found


def _cache(path: Path) -> dict[str, Any]:
    """Every number and every word of a cache, read against checksums."""
    found: dict[str, Any] = {}

    def note(name: str, item: Any) -> None:
        found[name] = {key: str(value) for key, value in item.attrs.items() if key != "created"}
        if isinstance(item, h5py.Dataset):
            found[name]["content"] = hashlib.sha256(item[:].tobytes()).hexdigest()

    with h5py.File(path, locking=False) as file:
        note("", file)
        file.visititems(note)
    return found


def _log(path: Path) -> list[Any]:
    return [
        {name: value for name, value in json.loads(line).items() if name not in ("seconds", "crc32")}
        for line in path.read_text().splitlines()
    ]


def _results(path: Path) -> Any:
    """Results; their digests are compared with the files beside them."""
    content = json.loads(path.read_text())
    for name, digest in content.pop("files").items():
        assert hashlib.sha256((path.parent / name).read_bytes()).hexdigest() == digest, name
    return {name: value for name, value in content.items() if name not in ("seconds", "peak_mib", "peak_of", "sha256")}


def _config(path: Path) -> Any:
    """A configuration; whoever may not read the checkout does not know its commit."""
    content = json.loads(path.read_text())
    content["environment"].pop("commit")
    return content


def _evaluated(path: Path) -> Any:
    return {name: value for name, value in json.loads(path.read_text()).items() if name != "seconds"}


def _bench(path: Path) -> Any:
    """Which figures there are; none is twice the same."""
    return sorted(json.loads(path.read_text()))


def _picture(path: Path) -> bytes:
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG") and content.endswith(b"IEND\xaeB`\x82"), "a picture that is cut off"
    return content


def _bench_picture(path: Path) -> str:
    return f"a picture {_picture(path)[:4]!r}"


READERS: dict[str, Callable[[Path], Any]] = {
    ".h5": _cache,
    "log.jsonl": _log,
    "results.json": _results,
    "b.json": _bench,
    ".json": _evaluated,
    "b.png": _bench_picture,
    ".png": _picture,
    "config.json": _config,
}


def strangers_in(folder: Path) -> dict[str, str]:
    """Digests of what no command may touch."""
    paths = (folder / name for name in STRANGERS)
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if path.exists()
    }


def leftovers_in(folder: Path) -> list[str]:
    """Temporary files, locks and parts."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob(".*"))
    return sorted(name for name in names if name.endswith((".tmp", ".lock")) or ".parts-" in os.path.basename(name))
