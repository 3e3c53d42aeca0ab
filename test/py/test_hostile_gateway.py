"""A server at the gateway's address that is not a gateway: every read ends in time, with one clear error."""

from __future__ import annotations

import contextlib
import gzip
import socket
import struct
import threading
import time
from typing import Any, Callable

import pytest

import consumer as module
from consumer import ConsumerError, PhysicsConsumer

OK = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.cs-physics.frames\r\n"
    b"X-Frames-Head: 11\r\nX-Journal-Id: 7\r\n"
)
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
# Longer than any limit of the reader, so that only the reader's own limits end a test.
FOR_EVER_S = 100.0

Script = Callable[["Server", socket.socket], None]


class Server:
    """Accepts connections, and runs `script` on each after the request has arrived."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests = 0
        self.stopped = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._respond, args=(connection,), daemon=True).start()

    def _respond(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            self.requests += 1
            self.script(self, connection)

    def goes_on(self) -> bool:
        """Waits a little; returns False once the test is over."""
        return not self.stopped.wait(0.01)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        # Closing alone does not end an accept() on Linux.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def sends(*parts: bytes) -> Script:
    """Sends the parts and closes."""

    def script(server: Server, connection: socket.socket) -> None:
        for part in parts:
            connection.sendall(part)

    return script


def repeats(head: bytes, part: bytes) -> Script:
    """Sends `part` as fast as it can, for ever."""

    def script(server: Server, connection: socket.socket) -> None:
        connection.sendall(head)
        while not server.stopped.is_set():
            connection.sendall(part)

    return script


def drips(head: bytes, part: bytes) -> Script:
    """Sends `part` again and again, each time before the reader gives up waiting."""

    def script(server: Server, connection: socket.socket) -> None:
        connection.sendall(head)
        while server.goes_on():
            connection.sendall(part)

    return script


def falls_silent(head: bytes) -> Script:
    def script(server: Server, connection: socket.socket) -> None:
        connection.sendall(head)
        server.stopped.wait(FOR_EVER_S)

    return script


def length(count: int) -> bytes:
    return OK + b"Content-Length: %d\r\n\r\n" % count


HOSTILE: dict[str, tuple[Script, str]] = {
    "nothing": (falls_silent(b""), "timed out"),
    "interim responses at full speed": (repeats(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "endless headers"),
    "interim responses that drip": (drips(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "timed out"),
    "interim responses with headers": (
        repeats(b"", b"HTTP/1.1 100 Continue\r\nX: " + b"y" * 5000 + b"\r\n\r\n"),
        "endless headers",
    ),
    "a status line that drips": (drips(b"HTTP/1.1 200 ", b"O"), "timed out"),
    "a header line that drips": (drips(b"HTTP/1.1 200 OK\r\nX: ", b"y"), "timed out"),
    "header lines that drip": (drips(b"HTTP/1.1 200 OK\r\n", b"X"), "timed out"),
    "an endless header line": (
        repeats(b"HTTP/1.1 200 OK\r\nX: ", b"y" * 65536),
        "header line|endless headers",
    ),
    "endless header lines": (repeats(OK, b"X: " + b"y" * 1000 + b"\r\n"), "100 headers|endless headers"),
    "a body that drips": (drips(length(42240), b"\0"), "timed out"),
    "a body that falls silent": (falls_silent(length(42240) + bytes(100)), "timed out"),
    "a body that ends early": (sends(length(42240), bytes(100)), "IncompleteRead|more expected"),
    "a body without an end": (repeats(OK + b"\r\n", bytes(65536)), "more than"),
    "a negative length": (repeats(OK + b"Content-Length: -5\r\n\r\n", bytes(65536)), "more than"),
    "an absurd length": (falls_silent(length(10**15)), "timed out"),
    "chunks that drip": (drips(CHUNKED, b"1\r\n\0\r\n"), "timed out"),
    "an endless chunk extension": (repeats(CHUNKED + b"1;", b"y" * 65536), "got more than|chunk"),
    "chunks of one byte with long extensions": (
        repeats(CHUNKED, b"1;" + b"y" * 60000 + b"\r\n\0\r\n"),
        "endless headers",
    ),
    "endless trailers": (repeats(CHUNKED + b"0\r\n", b"X: " + b"y" * 1000 + b"\r\n"), "endless headers"),
    "trailers that drip": (drips(CHUNKED + b"0\r\n", b"X: y\r\n"), "timed out"),
    "a negative chunk": (sends(CHUNKED, b"-5\r\nxx\r\n"), "responds with|no response"),
    "a redirect": (
        sends(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"),
        "responds with 302",
    ),
    "a compressed body": (
        sends(OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(bytes(10_000_000))),
        "the encoding 'gzip', which nobody asked for",
    ),
    "a refusal without an end": (repeats(b"HTTP/1.1 503 No\r\n\r\n", b"x" * 65536), "more than"),
}


@pytest.fixture(autouse=True)
def _short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GATEWAY_TOKEN", raising=False)
    monkeypatch.setattr(module, "_HTTP_TIMEOUT_S", 0.3)
    monkeypatch.setattr(module, "_HTTP_DEADLINE_S", 0.6)


@pytest.mark.parametrize("what", HOSTILE)
def test_a_response_without_an_end_is_an_error_within_the_deadline(what: str) -> None:
    script, expected = HOSTILE[what]
    with Server(script) as server:
        start = time.monotonic()
        with pytest.raises(ConsumerError, match=expected) as refused:
            PhysicsConsumer(url=server.url)
        # The limits above, plus the delays of a busy machine.
        assert time.monotonic() - start < 20
        assert "\n" not in str(refused.value)


@pytest.fixture
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HTTP_TIMEOUT_S", 30.0)
    monkeypatch.setattr(module, "_HTTP_DEADLINE_S", 60.0)


@pytest.mark.usefixtures("_unhurried")
def test_one_interim_response_before_the_respond_is_fine() -> None:
    response = OK + b"Connection: close\r\nContent-Length: 0\r\n\r\n"
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    with Server(sends(interim, response)) as server, PhysicsConsumer(url=server.url) as consumer:
        assert consumer.lag == 10


@pytest.mark.usefixtures("_unhurried")
def test_a_body_in_chunks_is_the_same_body() -> None:
    def script(server: Server, connection: socket.socket) -> None:
        # The first request is only for the gateway's head.
        ids = () if server.requests == 1 else (1, 2)
        frames = b"".join(struct.pack("<QQ4196xI8x", 2, frame_id, 7) for frame_id in ids)
        pieces = [frames[at : at + 1000] for at in range(0, len(frames), 1000)]
        body = b"".join(b"%x;note=1\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        head = CHUNKED.replace(b"Head: 11", b"Head: 3")
        connection.sendall(head + body + b"0\r\nX-Trailer: y\r\n\r\n")

    with Server(script) as server, PhysicsConsumer(url=server.url) as consumer:
        assert consumer.read_since(0, 2)["frame_id"].tolist() == [1, 2]


def test_an_address_that_does_not_accept_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    response = OK + b"Connection: close\r\nContent-Length: 0\r\n\r\n"
    with Server(sends(response)) as server, socket.socket() as full:
        monkeypatch.setattr(module, "_HTTP_TIMEOUT_S", 2.0)
        # A listener whose queue is full accepts nothing and refuses nothing.
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        port = int(server.url.rsplit(":", 1)[1])

        def addresses(*_: Any, **__: Any) -> list[Any]:
            kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
            return [(*kind, full.getsockname()), (*kind, ("127.0.0.1", port))]

        monkeypatch.setattr(socket, "getaddrinfo", addresses)
        with PhysicsConsumer(url=server.url) as consumer:
            assert consumer.lag == 10
        for one in waiting:
            one.close()


def test_a_name_that_is_none_is_an_error() -> None:
    with pytest.raises(ConsumerError, match="is not a host's name"):
        PhysicsConsumer(url=f"http://{'a' * 70}..b:9382")
