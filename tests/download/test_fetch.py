"""Files over HTTP, from a server that breaks connections, knows no ranges, or sends something else."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from file_server import FileServer, serving

from cptlite.download.fetch import Fetch, part_of
from cptlite.errors import CptliteError, DataError

CONTENT = np.random.default_rng(0).bytes(300_000)
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving() as server:
        server.files["data.bin"] = CONTENT
        yield server


@pytest.fixture
def fetch(server: FileServer, tmp_path: Path) -> Fetch:
    return Fetch(url=f"{server.url}/data.bin", target=tmp_path / "data.bin", md5=MD5, waits=(0.0, 0.0))


def whole(fetch: Fetch) -> bool:
    """Whether the file is there, and nothing else."""
    return fetch.target.read_bytes() == CONTENT and list(fetch.target.parent.iterdir()) == [fetch.target]


def test_a_file_comes_whole_and_is_not_asked_for_again(server: FileServer, fetch: Fetch) -> None:
    seen: list[tuple[int, int | None]] = []
    space: list[tuple[int, int]] = []
    watched = replace(fetch, on_progress=lambda *now: seen.append(now), check_space=lambda *now: space.append(now))
    watched.run()
    assert whole(fetch)
    assert (seen[0], seen[-1]) == ((0, len(CONTENT)), (len(CONTENT), len(CONTENT)))
    assert space == [(len(CONTENT), len(CONTENT))]
    fetch.run()
    assert server.asked == [("data.bin", None)]


def test_a_broken_connection_is_gone_on_with(server: FileServer, fetch: Fetch) -> None:
    server.break_after = [100_000, 50_000, None]
    notes: list[str] = []
    replace(fetch, on_note=notes.append).run()
    assert whole(fetch)
    assert server.asked == [("data.bin", None), ("data.bin", "bytes=100000-"), ("data.bin", "bytes=150000-")]
    assert "broke at 100000 of 300000 bytes" in notes[0]


def test_what_a_call_left_is_gone_on_with_by_the_next(server: FileServer, fetch: Fetch) -> None:
    server.break_after = [100_000, 0, 0, 0]
    with pytest.raises(CptliteError, match="got 100000 bytes .* they are kept in .*data.bin.part") as caught:
        fetch.run()
    assert caught.value.exit_code == 1
    assert part_of(fetch.target).read_bytes() == CONTENT[:100_000]
    assert not fetch.target.exists()
    fetch.run()
    assert whole(fetch)
    assert server.asked[-1] == ("data.bin", "bytes=100000-")


def test_an_interrupt_keeps_the_part(server: FileServer, fetch: Fetch) -> None:
    def interrupt(done: int, total: int | None) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace(fetch, on_progress=interrupt).run()
    kept = len(part_of(fetch.target).read_bytes())
    assert 0 < kept < len(CONTENT)
    fetch.run()
    assert whole(fetch)
    assert server.asked[-1] == ("data.bin", f"bytes={kept}-")


def test_a_server_without_ranges_begins_anew(server: FileServer, fetch: Fetch) -> None:
    server.ranges, server.break_after = False, [100_000, None]
    notes: list[str] = []
    replace(fetch, on_note=notes.append).run()
    assert whole(fetch)
    assert any("from its start" in line for line in notes)


def test_another_version_of_the_file_is_not_joined_to_the_part(server: FileServer, fetch: Fetch) -> None:
    server.tags["data.bin"], server.break_after = '"old"', [100_000, 0, 0, 0]
    unchecked = replace(fetch, md5=None)
    with pytest.raises(CptliteError):
        unchecked.run()
    server.files["data.bin"], server.tags["data.bin"] = CONTENT[::-1], '"new"'
    unchecked.run()
    assert fetch.target.read_bytes() == CONTENT[::-1]


def test_without_tag_and_checksum_a_part_is_not_gone_on_with(server: FileServer, fetch: Fetch) -> None:
    part_of(fetch.target).write_bytes(b"of something else")
    replace(fetch, md5=None).run()
    assert whole(fetch)
    assert server.asked == [("data.bin", None)]


def test_a_part_that_is_all_there_needs_no_more_bytes(server: FileServer, fetch: Fetch) -> None:
    part_of(fetch.target).write_bytes(CONTENT)
    fetch.run()
    assert whole(fetch)
    assert server.asked == [("data.bin", "bytes=300000-")]


def test_a_part_that_is_too_long_goes(fetch: Fetch) -> None:
    part_of(fetch.target).write_bytes(CONTENT + b"more")
    fetch.run()
    assert whole(fetch)


def test_bytes_from_elsewhere_are_not_joined(server: FileServer, fetch: Fetch) -> None:
    part_of(fetch.target).write_bytes(CONTENT[:1000])
    server.shift = 7
    fetch.run()
    assert whole(fetch)
    assert server.asked == [("data.bin", "bytes=1000-"), ("data.bin", None)]


def test_a_wrong_checksum_leaves_nothing(server: FileServer, fetch: Fetch) -> None:
    server.files["data.bin"] = CONTENT[::-1]
    with pytest.raises(DataError, match=f"wanted MD5 {MD5}, got [0-9a-f]{{32}}; it was removed"):
        fetch.run()
    assert not list(fetch.target.parent.iterdir())


def test_a_file_put_there_by_hand_is_checked(server: FileServer, fetch: Fetch) -> None:
    fetch.target.write_bytes(b"a page that says no")
    with pytest.raises(DataError, match="wanted MD5 .* delete it"):
        fetch.run()
    fetch.target.write_bytes(CONTENT)
    fetch.run()
    assert not server.asked


def test_a_missing_file_is_not_asked_for_twice(server: FileServer, fetch: Fetch) -> None:
    with pytest.raises(DataError, match="the server answers 404") as caught:
        replace(fetch, url=f"{server.url}/other.bin").run()
    assert caught.value.exit_code == 3
    assert len(server.asked) == 1


def test_a_busy_server_is_asked_again(server: FileServer, fetch: Fetch) -> None:
    server.answers = [503, 429]
    fetch.run()
    assert whole(fetch)
    server.answers, fetch = [500] * 3, replace(fetch, target=fetch.target.with_name("again"))
    with pytest.raises(DataError, match="got nothing .*answers 500"):
        fetch.run()


def test_redirects_are_followed_with_the_range(server: FileServer, fetch: Fetch) -> None:
    server.redirects["moved"] = f"{server.url}/data.bin"
    server.break_after = [100_000, None]
    replace(fetch, url=f"{server.url}/moved").run()
    assert whole(fetch)
    assert server.asked[-1] == ("data.bin", "bytes=100000-")


@pytest.mark.parametrize("where", ["file:///etc/passwd", "ftp://127.0.0.1/data.bin", "gopher://127.0.0.1/"])
def test_redirects_lead_to_no_file_and_no_other_kind_of_server(server: FileServer, fetch: Fetch, where: str) -> None:
    server.redirects["moved"] = where
    with pytest.raises(CptliteError):
        replace(fetch, url=f"{server.url}/moved").run()
    assert not list(fetch.target.parent.iterdir())


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:text/plain,hello"])
def test_addresses_are_of_web_servers_alone(fetch: Fetch, url: str) -> None:
    with pytest.raises(DataError, match=re.escape(url)):
        replace(fetch, url=url).run()
    assert not list(fetch.target.parent.iterdir())


def test_a_server_that_does_not_say_how_long_the_file_is(server: FileServer, fetch: Fetch) -> None:
    server.lengths = False
    fetch.run()
    assert whole(fetch)


def test_too_little_room_is_said_before_a_byte_comes(fetch: Fetch) -> None:
    def refuse(coming: int, total: int) -> None:
        raise CptliteError(f"no room for {coming}")

    with pytest.raises(CptliteError, match="no room for 300000"):
        replace(fetch, check_space=refuse).run()
    assert not part_of(fetch.target).exists()


def test_nobody_answers(fetch: Fetch) -> None:
    with pytest.raises(DataError, match="got nothing .*refused"):
        replace(fetch, url="http://127.0.0.1:9/data.bin").run()
