"""Names of backbones: which of them are paths, which two are one backbone, and the folder of each one's caches."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from pathlib import Path

from cptlite.backbones.architectures import ARCHITECTURES
from cptlite.errors import UsageError

__all__ = ["backbone_slug", "check_user_named", "feature_space", "is_checkpoint_path", "same_backbone"]

FEATURES = re.compile(r"features:([\w.-]{1,100}):([1-9]\d{0,5})", re.ASCII)


def feature_space(name: str) -> tuple[str, int] | None:
    """Take ``features:ENCODER:DIMENSION`` apart, the name of what made features elsewhere; None for another name."""
    match = FEATURES.fullmatch(name)
    return (match[1], int(match[2])) if match else None


def is_checkpoint_path(name: str) -> bool:
    """Whether a backbone of this name is read from a file that the name itself points to."""
    return name not in ARCHITECTURES and name.partition(":")[0] != "random" and feature_space(name) is None


def same_backbone(one: str, other: str) -> bool:
    """Whether two names load the same backbone: equal names, or paths that lead to one file."""
    if is_checkpoint_path(one) and is_checkpoint_path(other):
        return os.path.realpath(one) == os.path.realpath(other)  # digests of paths are short enough to be made equal
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
    kind, _, rest = name.partition(":")
    if kind == "random":
        architecture, _, seed = rest.partition(":")
        suffix = f"-seed{seed}" if seed not in ("", "0") else ""
        return f"random-{architecture.replace('/', '-').replace('@', '-')}{suffix}"
    if not is_checkpoint_path(name):
        return name.replace("/", "-").replace("@", "-").replace(":", "-")
    path = Path(name)
    # Two checkpoints of one file name in different folders must not share caches.
    digest = hashlib.sha256(os.path.realpath(path).encode(errors="surrogateescape")).hexdigest()[:8]
    return f"{path.stem}-{digest}"
