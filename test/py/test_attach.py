"""Which files the reader accepts as a ring. It refuses others in one line, and never ends by a signal."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import pytest
from ring_writer import FRAME_BYTES, HEADER_BYTES, RingWriter

from consumer import ConsumerError, PhysicsConsumer, RingMissingError, default_path


def header(
    magic: int = 0x5048595349435300, version: int = 1, frame_bytes: int = FRAME_BYTES, capacity: int = 4
) -> bytes:
    return struct.pack("<QIIQQQ", magic, version, frame_bytes, capacity, 1, 1).ljust(HEADER_BYTES, b"\0")


def refusal(path: Path) -> str:
    with pytest.raises(ConsumerError) as caught:
        PhysicsConsumer(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_a_path_without_a_file_is_a_missing_ring(ring_path: Path) -> None:
    with pytest.raises(RingMissingError, match=r"no ring at .*start the gateway"):
        PhysicsConsumer(ring_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has 0 bytes"),
        (header()[:40], "has 40 bytes"),
        (b"SQLite format 3\0" + bytes(100_000), "is no physics ring"),
        (header(magic=0) + bytes(4 * FRAME_BYTES), "is no physics ring"),
        (header(version=2) + bytes(4 * FRAME_BYTES), "version 2"),
        (header(frame_bytes=4096) + bytes(4 * FRAME_BYTES), "4096 bytes"),
        (header(capacity=0) + bytes(4 * FRAME_BYTES), "capacity of 0"),
        (header() + bytes(4 * FRAME_BYTES - 1), "is damaged"),
        (header(capacity=2**63) + bytes(4 * FRAME_BYTES), "is damaged"),
    ],
)
def test_a_file_that_is_not_a_ring_of_this_version_is_refused_by_name(
    ring_path: Path, content: bytes, message: str
) -> None:
    ring_path.write_bytes(content)
    assert re.search(message, refusal(ring_path))


def test_a_ring_file_may_be_larger_than_its_frames(ring_path: Path) -> None:
    ring_path.write_bytes(header() + bytes(4 * FRAME_BYTES + 100))
    with PhysicsConsumer(ring_path) as consumer:
        assert consumer.read_latest() is None


def test_a_path_that_is_not_a_regular_file_is_refused_and_does_not_block(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "not a regular file" in refusal(pipe)
    assert "not a regular file" in refusal(tmp_path)
    link = tmp_path / "link"
    link.symlink_to("/dev/zero")
    assert "not a regular file" in refusal(link)


def test_a_symlink_to_a_ring_is_followed(tmp_path: Path, writer: RingWriter) -> None:
    link = tmp_path / "link"
    link.symlink_to(writer.path)
    writer.publish(3)
    with PhysicsConsumer(link) as consumer:
        frame = consumer.read_latest()
        assert frame is not None
        assert frame.frame_id == 3


def test_a_circle_of_symlinks_is_refused(ring_path: Path) -> None:
    ring_path.symlink_to(ring_path)
    refusal(ring_path)


def test_the_path_is_the_argument_or_else_the_environment_variable(
    writer: RingWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CS_PHYSICS_PATH", str(writer.path))
    with PhysicsConsumer() as consumer:
        assert consumer.path == str(writer.path)
    with pytest.raises(RingMissingError, match="elsewhere"):
        PhysicsConsumer(writer.path.with_name("elsewhere"))
    monkeypatch.delenv("CS_PHYSICS_PATH")
    assert default_path() in ("/dev/shm/cs_physics", "/tmp/cs_physics")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_ring_without_read_permission_is_refused_with_the_next_step(writer: RingWriter) -> None:
    writer.path.chmod(0)
    assert "may not read" in refusal(writer.path)


def test_a_reader_polls_a_ring_without_write_permission(
    writer: RingWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.publish(2)
    deny_writing(monkeypatch)
    with PhysicsConsumer(writer.path) as consumer:
        assert consumer.stats()["wait"] == "poll"
        assert len(consumer.read_batch(5)) == 2
        frames = consumer.follow("latest", timeout_s=10)
        writer.publish()
        assert next(frames).frame_id == 3
        assert list(consumer.follow("latest", timeout_s=0.01)) == []
        assert writer.waiters == 0


def deny_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Does for root, who may write every file, what mode 0444 does for other users."""
    open_file = os.open

    def refuse(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(13, "Permission denied", path)
        return open_file(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)


def test_reading_never_writes_to_frames(writer: RingWriter) -> None:
    writer.publish(3)
    with PhysicsConsumer(writer.path) as consumer, consumer.view(3) as view:
        with pytest.raises(ValueError, match="read-only"):
            view["sentiment"][0] = 1.0
        assert consumer.read_batch(3)["sentiment"].flags.writeable
