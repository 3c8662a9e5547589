"""A file over HTTP: what arrived stays when the connection breaks, and the rest is asked for.

Source: RFC 9110, sections 13.1.5 (If-Range) and 14 (Range).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import Any
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from cptlite.datasets.text_files import shown
from cptlite.errors import CptliteError, DataError
from cptlite.files import naming_full_disk, write_whole

__all__ = ["Fetch", "md5_of", "part_of"]

AGENT = "cptlite"
CHUNK = 2**18  # bytes
TIMEOUT = 30.0  # seconds without a byte
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before another try, each after one that brought nothing
LASTING = (socket.gaierror, ssl.SSLCertVerificationError)  # reasons that another try does not change
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # answers that may be others soon
BAD_RANGE, PARTIAL = 416, 206
RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class _BrokenError(Exception):
    """A try that ended early; another one may go on."""


class _NoDowngrade(request.HTTPRedirectHandler):
    """Follows redirects, but not from an encrypted address to an open one."""

    def redirect_request(
        self, req: request.Request, fp: Any, code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> request.Request | None:
        if urlsplit(req.full_url).scheme == "https" and urlsplit(newurl).scheme != "https":
            raise URLError(f"sent on from https to {newurl}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> request.OpenerDirector:
    """Make what opens addresses of http and https alone: no files, whatever a redirect says."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler(),
        request.UnknownHandler(),
        request.HTTPHandler(),
        request.HTTPSHandler(),
        request.HTTPDefaultErrorHandler(),
        _NoDowngrade(),
        request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """One file that is to come from an address.

    Attributes
    ----------
    url : str
    target : Path
        Where it goes once it is whole; its folder is there. What arrives lies beside it until then, see `part_of`.
    md5 : str or None
        Hex digest it is to have, where one is known.
    check_space : callable, optional
        Called with the bytes that are still to come, and those of the whole file, before they come; may raise.
    on_progress : callable, optional
        Called with bytes that are there, and all, or None where the server does not say.
    on_note : callable, optional
        Told what does not go as it should, in a line.
    waits : sequence of float
        Seconds before another try, each after one that brought nothing.
    """

    url: str
    target: Path
    md5: str | None = None
    check_space: Callable[[int, int], None] = lambda coming, total: None
    on_progress: Callable[[int, int | None], None] = lambda done, total: None
    on_note: Callable[[str], None] = lambda line: None
    waits: Sequence[float] = WAITS

    def run(self) -> None:
        """Fetch the file, going on from what an earlier call left.

        Raises
        ------
        DataError
            It is not there, the server cannot be reached, or what came has another checksum and was removed.
        CptliteError
            The connection broke again and again: the part is kept. Or the disk is full.
        """
        if self.target.exists():
            self._check(self.target, "delete it, and run the same command again")
            return
        part = part_of(self.target)
        with naming_full_disk(part.parent):
            self._try_again_and_again(part)
            try:
                self._check(part, "it was removed: run the same command again, which begins anew")
            except DataError:
                self._drop(part)
                raise
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(self.target)
            _facts_of(part).unlink(missing_ok=True)

    def _check(self, path: Path, advice: str) -> None:
        """Compare a file's checksum."""
        if self.md5 is not None and (got := md5_of(path)) != self.md5:
            raise DataError(f"{shown(path)}: wanted MD5 {self.md5}, got {got}; {advice}")

    def _try_again_and_again(self, part: Path) -> None:
        most, fruitless = _size(part), 0
        while True:
            try:
                self._try(part)
                return
            except _BrokenError as broken:
                here = _size(part)
                fruitless = 0 if here > most else fruitless + 1
                most = max(most, here)
                if fruitless > len(self.waits):
                    raise self._gave_up(part, broken) from None
                if fruitless:
                    time.sleep(self.waits[fruitless - 1])
                self.on_note(f"{broken}: trying again")

    def _gave_up(self, part: Path, broken: _BrokenError) -> CptliteError:
        if not _size(part):
            return DataError(f"wanted {self.url}, got nothing ({broken}): look for a network")
        return CptliteError(
            f"wanted {self.url} whole, got {_size(part)} bytes ({broken}): they are kept in {shown(part)}; run the "
            "same command again, which goes on there"
        )

    def _try(self, part: Path) -> None:
        """Ask for what is missing and write it behind what is there."""
        have, validator = _size(part), _read_facts(part, self.url)
        headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
        if have and (validator or self.md5):  # else what comes may be of another file, unnoticed
            headers["Range"] = f"bytes={have}-"
            headers |= {"If-Range": validator} if validator else {}
        try:
            with _opener().open(request.Request(self.url, headers=headers), timeout=TIMEOUT) as response:
                self._receive(response, part, have)
        except HTTPError as error:
            with error:
                self._refused(error, part, have)
        except (URLError, HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as error:
            reason = getattr(error, "reason", error)
            words = shown(reason) or type(reason).__name__
            if isinstance(reason, LASTING) and not have:
                raise DataError(f"wanted {self.url}, got nothing ({words}): look for a network") from None
            raise _BrokenError(words) from None

    def _refused(self, error: HTTPError, part: Path, have: int) -> None:
        """Say what an answer without content means; nothing where the part is whole already."""
        if error.code == BAD_RANGE and have:
            if error.headers.get("Content-Range", "").removeprefix("bytes */") == str(have):
                return
            self._drop(part)
            raise _BrokenError("the server has no bytes behind those that are there, which go")
        if error.code in PASSING:
            raise _BrokenError(f"the server answers {error.code} {shown(error.reason)}")
        raise DataError(f"wanted {self.url}, the server answers {error.code} {shown(error.reason)}")

    def _receive(self, response: HTTPResponse, part: Path, have: int) -> None:
        have, total = self._place(response, part, have)
        self.check_space(max(0, (total or 0) - have), total or 0)
        write_whole(_facts_of(part), json.dumps({"url": self.url, "validator": _validator(response)}).encode())
        with part.open("r+b" if have else "wb") as file:
            file.seek(have)
            self.on_progress(have, total)
            while content := response.read1(CHUNK):
                file.write(content)
                have += len(content)
                self.on_progress(have, total)
        if total is not None and have != total:
            raise _BrokenError(f"the connection broke at {have} of {total} bytes")

    def _place(self, response: HTTPResponse, part: Path, have: int) -> tuple[int, int | None]:
        """Where the content belongs, and how long the whole file is, if the server says so."""
        if response.status != PARTIAL:
            if have:
                self.on_note("the server sends the file from its start: what was there is replaced")
            length = response.headers.get("Content-Length", "")
            return 0, int(length) if length.isdecimal() else None
        found = RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != have:
            self._drop(part)
            raise _BrokenError("the server sends other bytes than those asked for, so that it begins anew")
        return have, None if found[2] == "*" else int(found[2])

    def _drop(self, part: Path) -> None:
        part.unlink(missing_ok=True)
        _facts_of(part).unlink(missing_ok=True)


def part_of(target: Path) -> Path:
    """Where the beginning of a file lies until it is whole."""
    return target.with_name(f"{target.name}.part")


def md5_of(path: Path) -> str:
    """Hex digest; against damage on the way, since that is what is published."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _facts_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _validator(response: HTTPResponse) -> str:
    """Return what tells this version of the file from another one: a strong tag, or else its date."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


def _read_facts(part: Path, url: str) -> str:
    """Tag or date of the file that the part was begun from; "" where there is none."""
    with suppress(OSError, ValueError, RecursionError):
        facts = json.loads(_facts_of(part).read_bytes()[:CHUNK])
        if isinstance(facts, dict) and facts.get("url") == url and isinstance(facts.get("validator"), str):
            validator: str = facts["validator"]
            return validator if validator.isascii() and validator.isprintable() else ""
    return ""
