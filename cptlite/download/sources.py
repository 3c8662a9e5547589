"""What torchvision fetches of a dataset: addresses and checksums, read from its classes.

Source: torchvision 0.29's ``datasets``. Its own functions begin anew after a broken connection and leave half an
unpacked archive behind a full disk, so that they are not called.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from cptlite.errors import CptliteError, UsageError

__all__ = ["FOLDERS", "IN_METHODS", "NESTED", "RemoteFile", "remote_files"]

FOLDERS = {
    "Caltech101": "caltech101",
    "DTD": "dtd",
    "EuroSAT": "eurosat",
    "FGVCAircraft": ".",
    "Flowers102": "flowers-102",
    "Food101": ".",
    "OxfordIIITPet": "oxford-iiit-pet",
    "SUN397": ".",
}
"""Where torchvision's classes unpack, below the data root."""

IN_METHODS = {
    "Caltech101": (
        "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
        "3138e1922a9193bfa496528edbbc45d0",
    ),
    "EuroSAT": (
        "https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
        "c8fa014336c82ac7804f0398fcb19387",
    ),
}
"""Address and MD5 of those that stand within a method, out of reach; a test compares them with torchvision's source."""

NESTED = {"Caltech101": "caltech-101"}
"""Folders of an archive whose own archives, those of gzip, are unpacked beside it, whereupon it goes."""


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file that is to be fetched.

    Attributes
    ----------
    url : str
    md5 : str or None
        Hex digest; None where none is published.
    folder : str
        Where it is unpacked, or put, below the data root.
    archive : bool
        Whether it is unpacked.
    """

    url: str
    md5: str | None
    folder: str
    archive: bool = True

    @property
    def name(self) -> str:
        """The last part of the address."""
        return posixpath.basename(urlsplit(self.url).path)


def remote_files(kind: str) -> list[RemoteFile]:
    """Ask a class of torchvision's what it fetches.

    Parameters
    ----------
    kind : str
        Its name, ``"DTD"``.

    Returns
    -------
    list of RemoteFile

    Raises
    ------
    UsageError
        The class is none of those known here.
    CptliteError
        The torchvision that is installed does not say it any more.
    """
    if kind not in FOLDERS:
        raise UsageError(f"download: wanted one of {', '.join(FOLDERS)}, got {kind!r}; correct the manifest")
    torchvision = import_module("torchvision")
    try:
        pairs = list(_pairs(kind, getattr(torchvision.datasets, kind)))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CptliteError(
            f"torchvision {torchvision.__version__} does not say where {kind} is ({error}): install another version, "
            f"or fetch it by hand"
        ) from None
    return [RemoteFile(url=url, md5=md5, folder=FOLDERS[kind], archive=not url.endswith(".mat")) for url, md5 in pairs]


def _pairs(kind: str, of_class: Any) -> Iterable[tuple[str, str | None]]:
    """Address and MD5 of each file."""
    match kind:
        case "DTD" | "Food101":
            return [(of_class._URL, of_class._MD5)]
        case "FGVCAircraft":  # no checksum is published
            return [(of_class._URL, getattr(of_class, "_MD5", None))]
        case "SUN397":
            return [(of_class._DATASET_URL, of_class._DATASET_MD5)]
        case "OxfordIIITPet":
            return of_class._RESOURCES
        case "Flowers102":
            files = (of_class._file_dict[key] for key in ("image", "label", "setid"))
            return [(f"{of_class._download_url_prefix}{name}", md5) for name, md5 in files]
        case _:
            return [IN_METHODS[kind]]
