"""`HttpProxy`: which addresses and tokens it takes, and what it makes of an answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pytest

from checkpointer.errors import SettingsError
from orchestrator.errors import RemoteError
from orchestrator.queues.driver import MessageData
from orchestrator.queues.proxies import HttpProxy

TOKEN = "a-token-of-some-length"
MESSAGE = MessageData("flow", "01a1f8cf-aa28-70b4-82ba-fe9f1b5c21d1", "line")


class _Endpoint(BaseHTTPRequestHandler):
    """Answers with the status in the path's first part."""

    asked: ClassVar[list[tuple[str, str, str | None]]] = []

    def do_POST(self) -> None:
        self.asked.append((self.command, self.path, self.headers["Authorization"]))
        self.rfile.read(int(self.headers["Content-Length"]))
        status = int(self.path.split("/")[1])
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Endpoint)
    _Endpoint.asked.clear()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:3456",
        "ftp://127.0.0.1",
        "file:///etc/passwd",
        "http://",
        "http://:80",
        "http://[bad",
        "http://host:0",
        "http://host:99999",
        "http://host:port",
        "http://someone:hunter2@host",
        "http://a b",
        "http://host/\n",
        "http://host?a=1",
        "http://host#a",
        "http://h\u00f6st",
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^APP_URL takes") as refused:
        HttpProxy(url, TOKEN)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("token", [f"{TOKEN}\n", f" {TOKEN}", f"{TOKEN}\r\nX: y", f"{TOKEN}\u00e9", f"{TOKEN}\x00"])
def test_a_token_that_can_not_be_a_header(token: str) -> None:
    with pytest.raises(SettingsError, match=r"^WORKER_TOKEN takes") as refused:
        HttpProxy("http://127.0.0.1:1", token)
    assert TOKEN not in str(refused.value)


async def test_an_answer_is_the_end_of_it(endpoint: str) -> None:
    await HttpProxy(f"{endpoint}/200/", TOKEN)(MESSAGE)
    assert _Endpoint.asked == [("POST", "/200/.well-known/workflow/v1/flow", f"Bearer {TOKEN}")]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 400, 401, 404, 413, 422, 500, 503])
async def test_anything_else_is_an_error(endpoint: str, status: int) -> None:
    """A redirect is not followed: nobody else gets the token, or the message."""
    with pytest.raises(RemoteError, match=f"answered {status} about flow {MESSAGE.id}") as failed:
        await HttpProxy(f"{endpoint}/{status}", TOKEN)(MESSAGE)
    assert TOKEN not in repr(failed.getrepr(style="long"))
    assert len(_Endpoint.asked) == 1


async def test_no_answer_is_an_error() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(RemoteError, match="gave no answer about flow") as failed:
            await HttpProxy(f"http://127.0.0.1:{nobody.getsockname()[1]}", TOKEN)(MESSAGE)
    assert TOKEN not in str(failed.value)


async def test_an_answer_that_takes_too_long_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as hung:
        port = hung.getsockname()[1]
        with pytest.raises(RemoteError, match="timed out"):
            await HttpProxy(f"http://127.0.0.1:{port}", TOKEN, timeout_s=0.05)(MESSAGE)
