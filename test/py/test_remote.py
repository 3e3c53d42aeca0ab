"""The reader over HTTP: the same calls, the same frames, and a gateway that does not respond."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
from gateway_stub import GatewayStub
from ring_writer import RingWriter, checksum, frame_payload
from test_cli import CONSUMER, ENVIRONMENT, run
from test_follow import eventually
from test_properties import assert_whole

import consumer as module
from consumer import (
    FRAME_BYTES,
    ConsumerError,
    Frame,
    Frames,
    GatewayUnreachableError,
    PhysicsConsumer,
    RingEvent,
)


@pytest.fixture
def gateway() -> Iterator[GatewayStub]:
    with GatewayStub(token="secret") as stub:
        yield stub


@pytest.fixture
def events() -> list[RingEvent]:
    return []


@pytest.fixture
def consumer(gateway: GatewayStub, events: list[RingEvent]) -> Iterator[PhysicsConsumer]:
    with PhysicsConsumer(url=gateway.url, token="secret", on_event=events.append) as reader:
        yield reader


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GATEWAY_TOKEN", raising=False)


def ids(frames: Frames | list[Frame]) -> list[int]:
    return [int(frame.frame_id) for frame in frames]


def kinds(events: list[RingEvent]) -> list[str]:
    return [event.kind for event in events]


def test_the_same_calls_return_the_same_frames_as_over_the_ring(
    gateway: GatewayStub, consumer: PhysicsConsumer, ring_path: Path
) -> None:
    gateway.publish(40)
    with RingWriter(ring_path, capacity=100) as writer, PhysicsConsumer(ring_path) as local:
        writer.publish(40)
        assert type(local) is PhysicsConsumer
        assert isinstance(consumer, PhysicsConsumer)
        calls: list[Callable[[PhysicsConsumer], Any]] = [
            lambda one: one.read_batch(5).tobytes(),
            lambda one: one.read_batch(0).tobytes(),
            lambda one: one.read_batch(1000).tobytes(),
            lambda one: (one.position, one.lag),
            lambda one: one.read_since(30, 4).tobytes(),
            lambda one: (one.position, one.lag, one.lost),
            lambda one: one.read_since(40).tobytes(),
            lambda one: [frame.to_dict() for frame in [one.read_latest()] if frame],
            lambda one: [frame.to_dict() for frame in one.follow("oldest", timeout_s=0)],
            lambda one: ids(list(one.follow(38, timeout_s=0))),
            lambda one: ids(list(one.follow((7, 38), timeout_s=0))),
            lambda one: ids(list(one.follow("latest", timeout_s=0))),
        ]
        for index, call in enumerate(calls):
            assert call(consumer) == call(local), index
        assert consumer.age_ms == pytest.approx(local.age_ms, abs=5_000)
    batch = consumer.read_batch(3)
    assert batch.semantic.flags.writeable
    assert_whole(batch)


def test_an_empty_gateway_has_nothing_to_read(consumer: PhysicsConsumer) -> None:
    assert consumer.read_latest() is None
    assert len(consumer.read_batch(5)) == len(consumer.read_since(0)) == 0
    assert (consumer.lag, consumer.lost, consumer.position, consumer.age_ms) == (0, 0, None, None)


def test_a_batch_larger_than_one_page_takes_several_requests(
    gateway: GatewayStub, consumer: PhysicsConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_HTTP_PAGE_FRAMES", 10)
    gateway.publish(35)
    assert ids(consumer.read_since(3, 25)) == list(range(4, 29))
    assert ids(consumer.read_batch(30)) == list(range(6, 36))
    assert ids(list(consumer.follow("oldest", timeout_s=0))) == list(range(1, 36))
    assert gateway.connections == 1


def test_frames_that_the_gateway_no_longer_has_count_as_lost(
    gateway: GatewayStub, consumer: PhysicsConsumer, events: list[RingEvent]
) -> None:
    gateway.publish(40)
    gateway.oldest = 25
    frames = consumer.read_since(10, 4)
    assert (ids(frames), frames.lost, consumer.lost) == ([25, 26, 27, 28], 14, 14)
    assert ids(list(consumer.follow(21, timeout_s=0))) == list(range(25, 41))
    assert consumer.lost == 18
    assert ids(list(consumer.follow("oldest", timeout_s=0))) == list(range(25, 41))
    assert consumer.lost == 18
    assert [(event.kind, event.lost) for event in events] == [("lost", 14), ("lost", 4)]


def test_a_batch_ends_before_a_gap_that_opens_between_two_responses(
    gateway: GatewayStub, consumer: PhysicsConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_HTTP_PAGE_FRAMES", 10)
    gateway.publish(40)

    def prune(body: bytes, headers: dict[str, str]) -> tuple[bytes, dict[str, str]]:
        gateway.oldest = 15
        return body, headers

    gateway.change = prune
    assert ids(consumer.read_since(0)) == list(range(1, 11))


def test_follow_polls_seldom_while_no_frames_come(gateway: GatewayStub, consumer: PhysicsConsumer) -> None:
    frames = consumer.follow(timeout_s=30)
    gateway.publish(2)
    assert [next(frames).frame_id, next(frames).frame_id] == [1, 2]
    gateway.requests.clear()

    def publish_at_the_eighth() -> None:
        while len(gateway.requests) < 8:
            time.sleep(0.001)
        gateway.publish()

    start = time.monotonic()
    threading.Thread(target=publish_at_the_eighth).start()
    assert next(frames).frame_id == 3
    # The pauses begin at 5 ms and double up to 250 ms, so seven of them take 565 ms. A busy loop takes none.
    assert time.monotonic() - start > 0.4


def test_a_view_over_http_is_refused(consumer: PhysicsConsumer) -> None:
    with pytest.raises(ConsumerError, match="no shared memory"):
        consumer.view(5)


def test_labels_come_from_the_gateway_without_a_request_for_each_frame(
    gateway: GatewayStub, consumer: PhysicsConsumer
) -> None:
    gateway.publish(200)
    gateway.labels = {"models": {"3": {"name": "hashing-1024-v1", "dim": 1024}}}
    names = {frame.model_name for frame in consumer.read_batch(200)}
    assert names == {"hashing-1024-v1"}
    assert [consumer.labels.intent(number) for number in range(1, 100)] == [None] * 99
    assert gateway.label_requests == 1


def test_labels_that_cannot_be_fetched_are_none(gateway: GatewayStub, consumer: PhysicsConsumer) -> None:
    gateway.publish(1)
    frame = consumer.read_latest()
    assert frame is not None
    gateway.labels = "no object"
    assert (frame.model_name, consumer.labels.model(9)) == (None, None)
    consumer.labels._next_fetch = 0  # type: ignore[attr-defined]
    gateway.fail = (503, {}, b"")
    assert frame.model_name is None
    assert frame.type_label == "UnknownEvent"


# A gateway that does not respond


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_an_address_without_a_gateway_is_an_error_at_once_with_the_next_step() -> None:
    with pytest.raises(GatewayUnreachableError, match=r"no response from http://127.0.0.1:\d+: .*start the"):
        PhysicsConsumer(url=f"http://127.0.0.1:{closed_port()}")


@pytest.mark.parametrize("url", ["127.0.0.1:9382", "ftp://x", "http://", "http://h:99999", "http://u:p@h"])
def test_an_invalid_address_is_refused_without_a_secret_in_the_error(url: str) -> None:
    with pytest.raises(ConsumerError, match="not a gateway's address") as refused:
        PhysicsConsumer(url=url)
    assert "u:p" not in str(refused.value)


def test_a_path_and_a_url_or_a_token_without_a_url_are_refused(gateway: GatewayStub) -> None:
    with pytest.raises(ValueError, match="not both"):
        PhysicsConsumer("x", url=gateway.url)
    with pytest.raises(ValueError, match="token goes with a url"):
        PhysicsConsumer(token="secret")
    with pytest.raises(ConsumerError, match="no HTTP header") as refused:
        PhysicsConsumer(url=gateway.url, token="a\nb")
    assert "a\nb" not in str(refused.value)


@pytest.mark.parametrize(("token", "expected"), [(None, "requires a token"), ("wrong", "rejects this token")])
def test_a_missing_or_wrong_token_is_an_error_at_once(
    gateway: GatewayStub, token: str | None, expected: str
) -> None:
    with pytest.raises(ConsumerError, match=expected) as refused:
        PhysicsConsumer(url=gateway.url, token=token)
    assert not isinstance(refused.value, GatewayUnreachableError)
    assert "wrong;" not in str(refused.value)


def test_the_token_may_come_from_the_environment(
    gateway: GatewayStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_TOKEN", "secret")
    with PhysicsConsumer(url=gateway.url) as consumer:
        assert consumer.stats()["head"] == 1


def test_a_revoked_token_ends_a_follower(gateway: GatewayStub, consumer: PhysicsConsumer) -> None:
    gateway.publish(1)
    frames = consumer.follow("oldest", timeout_s=30)
    next(frames)
    gateway.token = "another"
    with pytest.raises(ConsumerError, match="token"):
        next(frames)


@pytest.mark.parametrize("failure", ["gone", "503", "500", "429"])
def test_a_follower_goes_on_when_the_gateway_is_back_and_reports_it_once(
    gateway: GatewayStub, consumer: PhysicsConsumer, events: list[RingEvent], failure: str
) -> None:
    gateway.publish(3)
    frames = consumer.follow("oldest", timeout_s=30)
    assert [next(frames).frame_id for _ in range(3)] == [1, 2, 3]
    if failure == "gone":
        gateway.stop()
    else:
        gateway.fail = (int(failure), {}, json.dumps({"detail": "draining"}).encode())
    seen: list[int] = []
    reader = threading.Thread(target=lambda: seen.append(next(frames).frame_id), daemon=True)
    reader.start()
    eventually(lambda: kinds(events) == ["unreachable"])
    assert consumer.stalled
    with pytest.raises(GatewayUnreachableError):
        PhysicsConsumer(url=gateway.url, token="secret")
    if failure == "gone":
        gateway = GatewayStub(token="secret", port=gateway.port)
        gateway.publish(3)
    gateway.fail = None
    gateway.publish(1)
    reader.join(30)
    assert (seen, kinds(events), consumer.stalled) == ([4], ["unreachable", "reachable"], False)
    if failure == "gone":
        gateway.stop()


def test_pauses_after_failures_grow_and_respect_retry_after() -> None:
    backoff = module._Backoff()
    error = GatewayUnreachableError("x")
    pauses = [backoff.failed(error) for _ in range(8)]
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert backoff.failed(GatewayUnreachableError("x", 7.0)) == 7.0
    backoff.worked()
    assert backoff.failed(error) == 0.05


@pytest.mark.parametrize(
    ("header", "expected"), [("3", 3.0), ("999999", 300.0), ("soon", 0.0), ("-1", 0.0), ("1" * 50, 0.0)]
)
def test_retry_after_is_read_and_bounded(
    gateway: GatewayStub, consumer: PhysicsConsumer, header: str, expected: float
) -> None:
    gateway.fail = (503, {"retry-after": header}, b"")
    with pytest.raises(GatewayUnreachableError, match="503") as refused:
        consumer.read_latest()
    assert refused.value.retry_after_s == expected


def test_a_closed_idle_connection_is_not_a_failure(
    gateway: GatewayStub, consumer: PhysicsConsumer, events: list[RingEvent]
) -> None:
    gateway.publish(3)
    gateway.close_after_each = True
    for _ in range(3):
        assert ids(consumer.read_batch(1)) == [3]
    assert gateway.connections > 3
    assert events == []


def test_a_gateway_that_accepts_and_does_not_respond_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HTTP_TIMEOUT_S", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(GatewayUnreachableError, match="timed out"):
            PhysicsConsumer(url=f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_timeout_s_includes_the_time_while_the_gateway_is_unreachable(
    gateway: GatewayStub, consumer: PhysicsConsumer
) -> None:
    gateway.fail = (503, {"retry-after": "60"}, b"")
    start = time.monotonic()
    assert list(consumer.follow("oldest", timeout_s=0.1)) == []
    assert time.monotonic() - start < 30


def test_closing_from_another_thread_ends_follow_and_the_connection(
    gateway: GatewayStub, consumer: PhysicsConsumer
) -> None:
    gateway.fail = (503, {"retry-after": "60"}, b"")

    def close_after_a_refusal() -> None:
        while gateway.failures == 0:
            time.sleep(0.001)
        consumer.close()

    closer = threading.Thread(target=close_after_a_refusal)
    closer.start()
    assert list(consumer.follow("oldest")) == []
    closer.join()
    assert not consumer._source._gateway._channel.is_open  # type: ignore[attr-defined]
    with pytest.raises(ConsumerError, match="closed"):
        consumer.read_latest()


# A response with other content than requested

Change = Callable[[bytes, dict[str, str]], tuple[bytes, dict[str, str]]]


def without(name: str) -> Change:
    return lambda body, headers: (body, {key: value for key, value in headers.items() if key != name})


def with_body(change: Callable[[bytes], bytes]) -> Change:
    return lambda body, headers: (change(body), headers)


LIES: dict[str, tuple[Change, str]] = {
    "half a frame": (with_body(lambda body: body[:-1]), "not a whole number of frames"),
    "more than requested": (with_body(lambda body: body * 2000), "more than"),
    "out of order": (with_body(lambda body: body[FRAME_BYTES:] + body[:FRAME_BYTES]), "other frames"),
    "a gap": (with_body(lambda body: body[:FRAME_BYTES] + body[2 * FRAME_BYTES :]), "other frames"),
    "a repeat": (with_body(lambda body: body[:FRAME_BYTES] + body[:FRAME_BYTES]), "other frames"),
    "what we had": (lambda _, headers: (frames_of(5, 3), headers), "other frames"),
    "a corrupt frame": (with_body(lambda _: corrupt(6)), "checksum"),
    "another journal's": (lambda _, headers: (frames_of(6, 1, journal_id=8), headers), "another journal"),
    "no head": (without("x-frames-head"), "no x-frames-head"),
    "no journal": (without("x-journal-id"), "no x-journal-id"),
    "a wrong head": (lambda body, headers: (body, {**headers, "x-frames-head": "-1"}), "no x-frames-head"),
    "a web page": (lambda body, headers: (body, {**headers, "content-type": "text/html"}), "text/html"),
}


def frames_of(first: int, count: int, journal_id: int = 7) -> bytes:
    return b"".join(bytes(8) + frame_payload(one, journal_id) for one in range(first, first + count))


def corrupt(frame_id: int) -> bytes:
    payload = bytearray(frame_payload(frame_id))
    payload[-8:] = checksum(bytes(payload)).to_bytes(8, "little")
    payload[500] ^= 1
    return bytes(8) + payload


@pytest.mark.parametrize("lie", LIES)
def test_a_response_with_other_content_is_an_error_and_never_a_frame(
    gateway: GatewayStub, consumer: PhysicsConsumer, lie: str
) -> None:
    gateway.publish(10)
    gateway.change, expected = LIES[lie]
    for read in (lambda: consumer.read_since(5), lambda: next(consumer.follow(6, timeout_s=30))):
        with pytest.raises(ConsumerError, match=expected) as refused:
            read()
        assert not isinstance(refused.value, GatewayUnreachableError)
    assert consumer.position is None
    gateway.change = None
    assert ids(consumer.read_since(5)) == [6, 7, 8, 9, 10]


def test_a_truncated_response_is_requested_again(
    gateway: GatewayStub, consumer: PhysicsConsumer, events: list[RingEvent]
) -> None:
    gateway.publish(3)
    cuts = iter(range(2))

    def cut(body: bytes, headers: dict[str, str]) -> tuple[bytes, dict[str, str]]:
        if next(cuts, None) is None:
            return body, headers
        return body[:5000], {**headers, "content-length": str(len(body))}

    gateway.change = cut
    assert ids(list(consumer.follow("oldest", timeout_s=0.5))) == [1, 2, 3]
    assert kinds(events) == ["unreachable", "reachable"]


@pytest.mark.parametrize("status", [301, 404, 400])
def test_a_server_that_is_not_a_gateway_is_named_in_the_error(
    gateway: GatewayStub, consumer: PhysicsConsumer, status: int
) -> None:
    gateway.fail = (status, {"location": "/"}, b"")
    with pytest.raises(ConsumerError, match=f"responds with {status}; is it a gateway"):
        consumer.read_latest()


def test_frames_with_a_right_checksum_are_accepted(gateway: GatewayStub, consumer: PhysicsConsumer) -> None:
    gateway.publish(1)
    payload = bytearray(frame_payload(1))
    payload[-8:] = checksum(bytes(payload)).to_bytes(8, "little")
    gateway.payloads[1] = bytes(payload)
    frame = consumer.read_latest()
    assert frame is not None
    assert np.all(frame.semantic == 1.0)


# Another journal


def test_another_journal_is_reported_and_followed_from_its_oldest_frame(
    gateway: GatewayStub, consumer: PhysicsConsumer, events: list[RingEvent]
) -> None:
    gateway.publish(50)
    frames = consumer.follow(50, timeout_s=30)
    assert next(frames).frame_id == 50
    gateway.journal_id, gateway.head, gateway.oldest = 8, 6, 3
    assert [next(frames).frame_id for _ in range(3)] == [3, 4, 5]
    assert (consumer.lost, consumer.position) == (0, (8, 5))
    assert kinds(events) == ["journal_changed"]


def test_a_saved_position_of_another_journal_begins_at_the_oldest_frame(
    gateway: GatewayStub, consumer: PhysicsConsumer, events: list[RingEvent]
) -> None:
    gateway.publish(20)
    gateway.oldest = 5
    assert ids(list(consumer.follow((99, 18), timeout_s=0))) == list(range(5, 21))
    assert (consumer.lost, kinds(events)) == (0, ["journal_changed"])


# The command line


def test_the_command_line_reads_over_http(gateway: GatewayStub) -> None:
    gateway.publish(3)
    gateway.labels = {"models": {}}
    result = run("--batch", "2", "--json", "--url", gateway.url, "--token", "secret")
    assert (result.returncode, result.stderr) == (0, "")
    assert [json.loads(line)["frame_id"] for line in result.stdout.splitlines()] == ["2", "3"]
    result = run("--stats", "--url", gateway.url, GATEWAY_TOKEN="secret")
    assert (result.returncode, result.stderr) == (0, "")
    assert "age_ms " in result.stdout
    assert "head             4\n" in result.stdout
    with subprocess.Popen(
        [sys.executable, CONSUMER, "--from", "2", "--url", gateway.url, "--token", "secret"],
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env=ENVIRONMENT,
    ) as process:
        assert process.stdout is not None
        assert "#2 " in process.stdout.readline()
        assert "#3 " in process.stdout.readline()
        gateway.publish()
        assert "#4 " in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def test_errors_over_http_are_one_line_with_exit_code_1(gateway: GatewayStub) -> None:
    for arguments, expected in (
        (["--url", gateway.url], "requires a token"),
        (["--url", gateway.url, "--token", "wrong"], "rejects this token"),
        (["--url", f"http://127.0.0.1:{closed_port()}"], "no response from"),
        (["--url", "nonsense"], "not a gateway's address"),
    ):
        result = run("--stats", *arguments)
        assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (1, "", 1)
        assert expected in result.stderr
    for usage in (["--token", "x"], ["--url", gateway.url, "--path", "x"]):
        assert run(*usage).returncode == 2
