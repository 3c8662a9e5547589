"""A web server for tests of fetching: on this machine, in a thread, and as bad as it is told to be."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """What it serves, and what was asked of it.

    ``break_after`` holds, for the requests to come, after how many bytes of content each connection breaks; None and
    those behind it send all.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    answers: list[int] = field(default_factory=list)  # statuses of the next requests, instead of content
    break_after: list[int | None] = field(default_factory=list)
    ranges: bool = True
    lengths: bool = True
    shift: int = 0  # bytes by which ranges are answered wrongly
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range


def _handler(server: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, wanted = self.path.lstrip("/"), self.headers.get("Range")
            server.asked.append((path, wanted))
            if server.answers:
                self.send_error(server.answers.pop(0))
            elif path in server.redirects:
                self.send_response(302)
                self.send_header("Location", server.redirects[path])
                self.end_headers()
            elif path not in server.files:
                self.send_error(404)
            else:
                self._send(path, wanted)

        def _send(self, path: str, wanted: str | None) -> None:
            content, tag = server.files[path], server.tags.get(path)
            fits = self.headers.get("If-Range") in (None, tag)
            start = 0
            if wanted and server.ranges and fits:
                start = int(wanted.removeprefix("bytes=").rstrip("-")) + server.shift
                if start >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            if tag:
                self.send_header("ETag", tag)
            if server.lengths:
                self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            most = server.break_after.pop(0) if server.break_after else None
            self.wfile.write(content[start:] if most is None else content[start : start + most])

        def log_message(self, *words: object) -> None: ...

    return Handler


@contextmanager
def serving() -> Iterator[FileServer]:
    """Serve until the block ends."""
    server = FileServer()
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(server)) as listening:
        server.url = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()
