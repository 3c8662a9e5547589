"""Names of backbones: which of them are paths, which two are one backbone, and the folder of each one's caches."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from cptlite.backbones.architectures import ARCHITECTURES
from cptlite.errors import UsageError

__all__ = [
    "OpenClipName",
    "backbone_slug",
    "check_user_named",
    "checkpoint_path",
    "feature_space",
    "is_checkpoint_path",
    "nearest_name",
    "openclip_name",
    "same_backbone",
]

FEATURES = re.compile(r"features:([\w.-]{1,100}):([1-9]\d{0,5})", re.ASCII)
OPENCLIP = "openclip:"
TAG = re.compile(r"[\w-]+", re.ASCII)
NOT_IN_FOLDERS = re.compile(r"[^\w.+-]")


def feature_space(name: str) -> tuple[str, int] | None:
    """Take ``features:ENCODER:DIMENSION`` apart, the name of what made features elsewhere; None for another name."""
    match = FEATURES.fullmatch(name)
    return (match[1], int(match[2])) if match else None


class OpenClipName(NamedTuple):
    """Parts of ``openclip:MODEL[:SEED][/PRETRAINED|FILE]``; empty are those that are not there."""

    model: str
    seed: str
    tag: str
    file: str


def openclip_name(name: str) -> OpenClipName | None:
    """Take a name of open_clip's models apart; None for another name.

    What stands behind the first slash is one of open_clip's tags if it is a single word, and else a path, whatever is
    on the disk: ``./weights`` is a file of no suffix.
    """
    if not name.startswith(OPENCLIP):
        return None
    head, _, rest = name.removeprefix(OPENCLIP).partition("/")
    model, _, seed = head.partition(":")
    is_tag = TAG.fullmatch(rest) is not None
    return OpenClipName(model=model, seed=seed, tag=rest if is_tag else "", file="" if is_tag else rest)


def checkpoint_path(name: str) -> str | None:
    """Path in a backbone's name of the file that it is read from; None where the name has none."""
    if (found := openclip_name(name)) is not None:
        return found.file or None
    known = name in ARCHITECTURES or name.partition(":")[0] == "random" or feature_space(name) is not None
    return None if known else name


def is_checkpoint_path(name: str) -> bool:
    """Whether a backbone of this name is read from a file that the name itself points to."""
    return checkpoint_path(name) is not None


def nearest_name(word: str, known: Iterable[str]) -> str | None:
    """Find the one of some known names that a word is a spelling of: other capitals, ``/``, ``_`` or ``-``."""
    return {_plain(name): name for name in known}.get(_plain(word))


def _plain(name: str) -> str:
    return re.sub(r"[/_@\s]", "-", name.strip().casefold())


def same_backbone(one: str, other: str) -> bool:
    """Whether two names load the same backbone: equal names, or paths that lead to one file."""
    paths = checkpoint_path(one), checkpoint_path(other)
    if paths[0] is not None and paths[1] is not None:
        # Digests of paths are short enough to be made equal.
        same_file = os.path.realpath(paths[0]) == os.path.realpath(paths[1])
        return same_file and one.removesuffix(paths[0]) == other.removesuffix(paths[1])
    return one == other or (
        is_checkpoint_path(one) == is_checkpoint_path(other) and backbone_slug(one) == backbone_slug(other)
    )


def check_user_named(name: str, given: str | None, source: Path | str) -> None:
    """Refuse to open a path that only a file names; files come from others, what to open is the user's to say.

    Parameters
    ----------
    name : str
        The backbone, as a file names it.
    given : str or None
        The backbone, as the user named it.
    source : Path or str
        Where the name was read, for the message.

    Raises
    ------
    UsageError
        The name is a path, and the user gave none or another.
    """
    if is_checkpoint_path(name) and (given is None or not same_backbone(name, given)):
        raise UsageError(
            f"{source} names the checkpoint {name!r} as its backbone, a path that is only opened if you give it: "
            f"say --backbone {shlex.quote(name)} if you trust it, or the path of the same weights"
        )


def backbone_slug(name: str) -> str:
    """Folder name for a backbone: ``"random:ViT-B/32:1"`` gives ``"random-ViT-B-32-seed1"``."""
    if (found := openclip_name(name)) is not None:
        kind = "openclip" if found.tag or found.file else "openclip-random"
        words = (kind, found.model, _seed(found.seed), found.tag, _file_slug(found.file) if found.file else "")
        return NOT_IN_FOLDERS.sub("-", "-".join(word for word in words if word))
    kind, _, rest = name.partition(":")
    if kind == "random":
        architecture, _, seed = rest.partition(":")
        front = f"random-{architecture.replace('/', '-').replace('@', '-')}"
        return f"{front}-{_seed(seed)}" if _seed(seed) else front
    if not is_checkpoint_path(name):
        return name.replace("/", "-").replace("@", "-").replace(":", "-")
    return _file_slug(name)


def _seed(seed: str) -> str:
    return f"seed{seed}" if seed not in ("", "0") else ""


def _file_slug(name: str) -> str:
    path = Path(name)
    # Two checkpoints of one file name in different folders must not share caches.
    digest = hashlib.sha256(os.path.realpath(path).encode(errors="surrogateescape")).hexdigest()[:8]
    return f"{path.stem}-{digest}"
