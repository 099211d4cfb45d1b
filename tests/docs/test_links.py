"""What `.ci/links.py` says of addresses: a server of this test's own answers, or none."""

from __future__ import annotations

import runpy
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from pages import PATHS, Page

ROOT = Path(__file__).parents[2]


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of the script as its functions see them, to call and to patch."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return runpy.run_path(str(ROOT / ".ci" / "links.py"))["main"].__globals__


@pytest.fixture
def server() -> Iterator[str]:
    """Answers with the status that the path says."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(int(self.path.strip("/")))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.mark.parametrize(
    ("statuses", "gone"), [((200, 403, 429, 500), ()), ((200, 404), (404,)), ((410, 200, 404), (404, 410))]
)
def test_only_what_the_server_says_is_not_there_is_gone(links, server, capsys, statuses, gone):
    links["ALWAYS_THERE"] = f"{server}/200"
    links["addresses"] = lambda: {f"{server}/{status}" for status in statuses}
    assert links["main"]() == int(bool(gone))
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        *(f"gone: {server}/{status}" for status in gone),
        f"{len(statuses)} addresses, {len(gone)} of them gone",
    ]


def test_without_a_network_it_says_that_nothing_was_looked_for(links, capsys):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        links["ALWAYS_THERE"] = f"http://127.0.0.1:{closed.getsockname()[1]}"
        assert links["main"]() == 0
    assert "LINKS NOT FOLLOWED" in capsys.readouterr().out


def test_it_finds_the_links_of_the_pages_and_of_messages(links):
    found = links["addresses"]()
    linked = {link for path in PATHS for link in Page(path).links if link.startswith("https:")}
    assert len(linked) > 10
    assert linked <= found
    assert "https://www.vision.caltech.edu/datasets/cub_200_2011/" in found  # in a message of `reference.datasets`
