"""Ids and checksums, which replace the order of stores on processors that do not keep it."""

from __future__ import annotations

import platform
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ring_writer import RingWriter, checksum, frame_payload
from test_follow import ring_of

import consumer as module
from consumer import FRAME_BYTES, Frames, PhysicsConsumer, RingEvent


def ids(frames: Frames) -> list[int]:
    return [int(one) for one in frames["frame_id"]]


@pytest.fixture
def checked(ring_path: Path) -> Iterator[RingWriter]:
    """A ring of 16 slots whose frames have checksums."""
    with RingWriter(ring_path, capacity=16, checksums=True) as writer:
        yield writer


def flip(writer: RingWriter, frame_id: int, offset: int = 16 + 4 * 500) -> None:
    """Changes one bit of a frame, like a store that has not become visible."""
    writer.map[writer.offset(frame_id) + offset] ^= 1


payloads = st.lists(st.tuples(st.integers(8, FRAME_BYTES - 8 - 4), st.integers(0, 2**32 - 1)), max_size=12)


@given(changes=payloads)
def test_the_checksum_is_the_sum_that_the_format_defines(changes: list[tuple[int, int]]) -> None:
    payload = bytearray(FRAME_BYTES - 8)
    for at, word in changes:
        struct.pack_into("<I", payload, at - 8, word)
    frame = np.frombuffer(bytes(8) + payload, dtype=np.uint8).reshape(1, FRAME_BYTES)
    assert module._checksums(frame).tolist() == [checksum(bytes(payload))]


def test_a_frame_of_zeros_has_the_checksum_1() -> None:
    assert module._checksums(np.zeros((2, FRAME_BYTES), dtype=np.uint8)).tolist() == [1, 1]


def test_a_refilled_frame_keeps_its_checksum_and_every_other_bit_changes_it() -> None:
    frame = np.frombuffer(bytes(8) + frame_payload(3), dtype=np.uint8).reshape(1, FRAME_BYTES).copy()
    before = module._checksums(frame)[0]
    frame[0, 4202] ^= 16
    assert module._checksums(frame)[0] == before
    for offset in (16, 17, 4111, 4112, 4201, 4202, 4203, 4212, 4215):
        frame[0, offset] ^= 8
        assert module._checksums(frame)[0] != before, offset
        frame[0, offset] ^= 8


def test_checksums_of_many_frames_equal_those_of_each_frame_alone(ring_path: Path) -> None:
    with RingWriter(ring_path, capacity=256, checksums=True) as writer:
        writer.publish(200)
        with PhysicsConsumer(ring_path, verify_checksums=True) as consumer:
            frames = consumer.read_batch(200)
    assert ids(frames) == list(range(1, 201))
    assert frames["checksum"].tolist() == [checksum(frame_payload(i)) for i in range(1, 201)]


@pytest.mark.parametrize("offset", [8, 16 + 4 * 500, 4212, 4216])
def test_a_corrupt_frame_is_never_returned(checked: RingWriter, offset: int) -> None:
    checked.publish(20)
    flip(checked, 10, offset)
    with PhysicsConsumer(checked.path, verify_checksums=True) as consumer:
        assert ids(consumer.read_batch(16)) == list(range(11, 21))
        assert ids(consumer.read_since(6)) == [7, 8, 9]
        with consumer.view(16) as view:
            assert not view.valid()
        with consumer.view(10) as view:
            assert view.valid()
            flip(checked, 12, offset)
            assert not view.valid()
        flip(checked, 20, offset)
        assert consumer.read_latest() is None


def test_a_reader_that_does_not_verify_returns_the_corrupt_frame(checked: RingWriter) -> None:
    checked.publish(20)
    flip(checked, 10)
    flip(checked, 20)
    with PhysicsConsumer(checked.path, verify_checksums=False) as consumer:
        assert ids(consumer.read_batch(16)) == list(range(5, 21))
        assert ids(consumer.read_since(6)) == list(range(7, 21))
        with consumer.view(16) as view:
            assert view.valid()
        latest = consumer.read_latest()
        assert latest is not None
        assert latest.frame_id == 20


def test_frames_without_a_checksum_are_returned(writer: RingWriter) -> None:
    writer.publish(20)
    with PhysicsConsumer(writer.path, verify_checksums=True) as consumer:
        assert ids(consumer.read_batch(16)) == list(range(5, 21))
        latest = consumer.read_latest()
        assert latest is not None
        with consumer.view(16) as view:
            assert view.valid()


@pytest.mark.parametrize("machine", ["x86_64", "AMD64", "aarch64", "arm64", "riscv64"])
def test_the_processor_decides_whether_checksums_are_verified(
    writer: RingWriter, monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with PhysicsConsumer(writer.path) as consumer:
        assert ring_of(consumer).verify == (machine not in ("x86_64", "AMD64"))


def test_a_frame_that_becomes_whole_between_two_attempts_is_returned(
    checked: RingWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked.publish(5)
    flip(checked, 5)
    looks = iter(range(10))
    with PhysicsConsumer(checked.path, verify_checksums=True) as consumer:
        intact = module._intact

        def arrives(frames: np.ndarray, low: int) -> np.ndarray:  # type: ignore[type-arg]
            fits = intact(frames, low)
            if next(looks, None) == 3:
                flip(checked, 5)
            return fits

        monkeypatch.setattr(module, "_intact", arrives)
        frames = consumer.read_since(4)
        assert (ids(frames), frames.lost) == ([5], 0)


def test_a_frame_that_stays_corrupt_is_counted_and_reported_and_a_follower_goes_on(
    checked: RingWriter,
) -> None:
    events: list[RingEvent] = []
    checked.publish(10)
    for frame_id in (4, 5, 10):
        flip(checked, frame_id)
    with PhysicsConsumer(checked.path, on_event=events.append, verify_checksums=True) as consumer:
        assert [frame.frame_id for frame in consumer.follow("oldest", timeout_s=0)] == [1, 2, 3, 6, 7, 8, 9]
        assert (consumer.lost, [event[::2] for event in events]) == (2, [("damaged", 2)])
        frames = consumer.read_since(3, 1)
        assert (ids(frames), frames.lost) == ([6], 2)
        # No frame follows the last one yet, so the follower tries it again.
        frames = consumer.read_since(9, 1)
        assert (ids(frames), frames.lost) == ([], 0)
        checked.publish()
        frames = consumer.read_since(9, 1)
        assert (ids(frames), frames.lost) == ([11], 1)


def test_overwritten_frames_and_damaged_frames_are_reported_separately(checked: RingWriter) -> None:
    events: list[RingEvent] = []
    checked.publish(20)
    flip(checked, 5)
    with PhysicsConsumer(checked.path, on_event=events.append, verify_checksums=True) as consumer:
        frames = consumer.read_since(1, 3)
        assert (ids(frames), frames.lost, consumer.lost) == ([6, 7, 8], 4, 4)
    assert [event[::2] for event in events] == [("lost", 3), ("damaged", 1)]


def test_a_read_ends_if_every_frame_is_damaged(ring_path: Path) -> None:
    with RingWriter(ring_path, capacity=300) as writer:
        writer.publish(300)
        for frame_id in range(1, 300):
            writer.sequence(frame_id, 1)
        with PhysicsConsumer(ring_path) as consumer:
            frames = consumer.read_since(1, 1)
            assert (ids(frames), frames.lost) == ([300], 298)
            writer.sequence(300, 1)
            assert len(consumer.read_since(1, 1)) == 0
            assert consumer.read_latest() is None
