"""A headless Chromium that opens files: what it complains of, what it asks the network for, how a page looks.

Spoken to through two pipes in the Chrome DevTools Protocol (https://chromedevtools.github.io/devtools-protocol/), so
that a page is looked at as it is, at any width, and nothing is written into it.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["NAMES", "Browser", "Page", "find_chromium", "open_browser"]

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
    "--no-first-run",
)
READS, WRITES = 3, 4  # file descriptors that Chromium listens and answers on
SECONDS = 60.0  # for an answer, on a busy machine


def find_chromium() -> str | None:
    """Path of a Chromium, where there is one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def open_browser(program: str) -> Iterator[Browser]:
    """Start a browser with a profile of its own; it is gone afterwards."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # From 10 on, so that none is one of the two that the browser's ends become.
        (theirs_in, ours_out), (ours_in, theirs_out) = (
            tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in os.pipe()) for _ in range(2)
        )
        sandbox = ("--no-sandbox",) if os.geteuid() == 0 else ()  # which root has none of
        actions: list[tuple[Any, ...]] = [
            (os.POSIX_SPAWN_DUP2, theirs_in, READS),
            (os.POSIX_SPAWN_DUP2, theirs_out, WRITES),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0o600),
        ]
        words = [program, *FLAGS, *sandbox, f"--user-data-dir={profile}"]
        process = os.posix_spawn(program, words, os.environ, file_actions=actions, setpgroup=0)
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            yield Browser(ours_in, ours_out)
        finally:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            os.close(ours_in)
            os.close(ours_out)


class Browser:
    """Sends commands to a browser, and keeps what its pages tell."""

    def __init__(self, reads: int, writes: int) -> None:
        self._reads, self._writes, self._rest, self._last = reads, writes, b"", 0
        self._pages: dict[str, Page] = {}

    def call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Send a command and return what it answers."""
        self._last += 1
        number = self._last
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self._writes, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return dict(answer["result"])
            if page := self._pages.get(answer.get("sessionId", "")):
                page.hear(answer["method"], answer["params"])

    def _receive(self) -> dict[str, Any]:
        until = time.monotonic() + SECONDS
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._reads], [], [], max(0.0, until - time.monotonic()))
            more = os.read(self._reads, 2**20) if ready else b""
            if not more:
                raise TimeoutError(f"the browser gave no answer within {SECONDS:g} s, or ended")
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))

    def open(self, file: Path, *, width: int, height: int = 900, dark: bool = False) -> Page:
        """Open a file in a window of some size in pixels, and wait until it is loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.resize(width, height)
        page.prefer(dark)
        page.call("Page.navigate", url=file.absolute().as_uri())
        page.wait("document.readyState === 'complete'")
        return page


@dataclass
class Page:
    """A page that is open.

    Attributes
    ----------
    complaints : list of str
        Errors and warnings of the console, exceptions, and what its policy forbade.
    requests : list of str
        Addresses that were asked for, its own included.
    """

    browser: Browser
    session: str
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command to this page."""
        return self.browser.call(method, self.session, **parameters)

    def hear(self, method: str, told: dict[str, Any]) -> None:
        """Keep what the page tells."""
        if method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.complaints.append(told["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.complaints.append(" ".join(str(each.get("value", each)) for each in told["args"]))

    def evaluate(self, script: str) -> Any:
        """Value of an expression in the page, waited for if it is a promise."""
        done = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until an expression is true."""
        until = time.monotonic() + SECONDS
        while not self.evaluate(condition):
            if time.monotonic() > until:
                raise TimeoutError(f"within {SECONDS:g} s, not true: {condition}; {self.complaints}")
            time.sleep(0.05)

    def resize(self, width: int, height: int) -> None:
        """Give the window another size in pixels, a telephone's with a touch screen where it is narrow."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def prefer(self, dark: bool) -> None:
        """Prefer dark colours, or light ones."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def press(self, key: str) -> None:
        """Press and release a key, ``Tab`` or ``Enter``."""
        codes: dict[str, dict[str, Any]] = {
            "Tab": {"windowsVirtualKeyCode": 9},
            "Enter": {"windowsVirtualKeyCode": 13, "text": "\r"},
        }
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, **codes[key])

    def point(self, x: float, y: float) -> None:
        """Move the pointer."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self) -> bytes:
        """Take a picture of what the window shows, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
