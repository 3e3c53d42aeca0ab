"""A small HTTP server that serves /api/frames and /api/labels as the gateway does, and can fail."""

from __future__ import annotations

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ring_writer import frame_payload, whole_sequence

RAW = "application/vnd.cs-physics.frames"


class GatewayStub:
    """Serves the frames ``oldest`` to ``head`` - 1 of a journal. ``frame_payload`` makes each of them."""

    def __init__(self, *, token: str | None = None, journal_id: int = 7, port: int = 0) -> None:
        self.token = token
        self.journal_id = journal_id
        self.oldest = 1
        self.head = 1
        self.labels: Any = {}
        self.payloads: dict[int, bytes] = {}
        self.fail: tuple[int, dict[str, str], bytes] | None = None
        """Status, headers and body of every response; None: the gateway's own."""
        self.change: Any = None
        """Changes body and headers of a response with frames before it is sent."""
        self.requests: list[tuple[int, int]] = []
        """(after, limit) of each request for frames."""
        self.failures = 0
        """How often ``fail`` was sent."""
        self.label_requests = 0
        self.connections = 0
        self.close_after_each = False
        self._server = _Server(("127.0.0.1", port), self)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True
        )
        self._thread.start()

    def publish(self, count: int = 1) -> None:
        self.head += count

    def frame(self, frame_id: int) -> bytes:
        payload = self.payloads.get(frame_id) or frame_payload(frame_id, self.journal_id)
        return whole_sequence(frame_id, 100).to_bytes(8, "little") + payload

    def response(self, after: int, limit: int) -> bytes:
        first = max(after + 1, self.oldest)
        return b"".join(self.frame(one) for one in range(first, min(first + limit, self.head)))

    def stop(self) -> None:
        self._server.shutdown()
        self._server.close_connections()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> GatewayStub:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], stub: GatewayStub) -> None:
        self.stub = stub
        self.open: set[Any] = set()
        super().__init__(address, _Handler)

    def close_connections(self) -> None:
        """Closes idle connections, too: a gateway that has ended responds on none."""
        for one in list(self.open):
            # The handler's thread may have closed it meanwhile.
            with contextlib.suppress(OSError):
                one.shutdown(2)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores a client that disconnects in the middle of a response."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.open.add(self.connection)
        self.server.stub.connections += 1

    def finish(self) -> None:
        self.server.open.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing."""

    def do_GET(self) -> None:
        stub = self.server.stub
        parts = urlsplit(self.path)
        if stub.fail is not None:
            stub.failures += 1
            return self.send(*stub.fail)
        if stub.token is not None and self.headers.get("authorization") != f"Bearer {stub.token}":
            problem = json.dumps({"status": 401, "detail": "the token is missing or wrong"}).encode()
            return self.send(401, {"content-type": "application/problem+json"}, problem)
        if parts.path == "/api/labels":
            stub.label_requests += 1
            return self.send(200, {"content-type": "application/json"}, json.dumps(stub.labels).encode())
        if parts.path != "/api/frames" or self.headers.get("accept") != RAW:
            return self.send(404, {}, b"")
        query = {name: int(values[0]) for name, values in parse_qs(parts.query).items()}
        stub.requests.append((query["after"], query["limit"]))
        body = stub.response(query["after"], query["limit"])
        headers = {
            "content-type": RAW,
            "x-frames-head": str(stub.head),
            "x-frames-count": str(len(body) // 4224),
            "x-journal-id": str(stub.journal_id),
        }
        if stub.change is not None:
            body, headers = stub.change(body, headers)
        return self.send(200, headers, body)

    def send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "content-length" not in headers:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        # Unannounced, as by a server whose keep-alive time is over.
        self.close_connection = self.server.stub.close_after_each or "content-length" in headers
