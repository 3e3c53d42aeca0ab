"""follow(): each frame once and in order, across laps, restarts and replacements, which it reports."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Callable

import pytest
from ring_writer import RingWriter

import consumer as module
from consumer import ConsumerError, Frame, PhysicsConsumer, RingEvent, _Ring, _RingSource


def ids(frames: list[Frame]) -> list[int]:
    return [frame.frame_id for frame in frames]


def ring_of(consumer: PhysicsConsumer) -> _Ring:
    """The mapped ring that `consumer` reads."""
    assert isinstance(consumer._source, _RingSource)
    return consumer._source.ring


def drain(consumer: PhysicsConsumer, start: str | int | tuple[int, int]) -> list[int]:
    return ids(list(consumer.follow(start, timeout_s=0)))


@pytest.fixture
def events() -> list[RingEvent]:
    return []


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks path and heartbeat at every read instead of four times a second."""
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.005)


def kinds(events: list[RingEvent]) -> list[str]:
    return [event.kind for event in events]


def test_start_decides_where_reading_begins(writer: RingWriter) -> None:
    writer.publish(40)
    with PhysicsConsumer(writer.path) as consumer:
        assert drain(consumer, "latest") == []
        assert drain(consumer, "oldest") == list(range(25, 41))
        assert (consumer.lost, consumer.position, consumer.lag) == (0, (7, 40), 0)
        assert drain(consumer, 38) == [38, 39, 40]
        assert drain(consumer, (7, 38)) == [39, 40]
        assert consumer.lost == 0
        assert drain(consumer, 21) == list(range(25, 41))
        assert consumer.lost == 4
        assert drain(consumer, 0) == list(range(25, 41))
        assert consumer.lost == 28


@pytest.mark.parametrize("start", ["newest", -1])
def test_an_invalid_start_is_refused_at_once(writer: RingWriter, start: str | int) -> None:
    with PhysicsConsumer(writer.path) as consumer, pytest.raises(ValueError, match="start"):
        consumer.follow(start)


def test_latest_begins_at_the_moment_of_the_call(writer: RingWriter) -> None:
    writer.publish(3)
    with PhysicsConsumer(writer.path) as consumer:
        frames = consumer.follow(timeout_s=10)
        writer.publish(2)
        assert [next(frames).frame_id, next(frames).frame_id] == [4, 5]


def test_follow_waits_for_a_future_frame_id(writer: RingWriter) -> None:
    with PhysicsConsumer(writer.path) as consumer:
        frames = consumer.follow(5, timeout_s=10)
        writer.publish(6)
        assert next(frames).frame_id == 5
        assert consumer.lost == 0


def test_a_slow_reader_learns_its_exact_loss(writer: RingWriter, events: list[RingEvent]) -> None:
    with PhysicsConsumer(writer.path, on_event=events.append) as consumer:
        frames = consumer.follow("oldest", timeout_s=10)
        writer.publish(2)
        assert next(frames).frame_id == 1
        writer.publish(100)
        # The reader copied the second together with the first.
        assert next(frames).frame_id == 2
        assert next(frames).frame_id == 102 - 16 + 1
        assert consumer.lost == 84
        assert consumer.lag == 15
    assert [(event.kind, event.lost) for event in events] == [("lost", 84)]


def test_a_sleeping_reader_sets_waiters_and_the_futex_wakes_it(writer: RingWriter) -> None:
    wake = futex_wake(writer)
    if wake is None:
        pytest.skip("no futex here")
    seen: list[int] = []
    with PhysicsConsumer(writer.path) as consumer:
        assert consumer.stats()["wait"] == "futex"
        ring = ring_of(consumer)

        def sleep() -> None:
            ring.wait(ring.head, 60)
            seen.append(ring.head)

        reader = threading.Thread(target=sleep, daemon=True)
        reader.start()
        eventually(lambda: writer.waiters == 1)
        writer.publish()
        writer.waiters = 0
        # Before the reader sleeps in the kernel, no wake reaches it. It then sees that the head has moved.
        while reader.is_alive():
            wake()
            reader.join(0.001)
    assert seen == [2]


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.001)


def futex_wake(writer: RingWriter) -> Callable[[], int] | None:
    """Wakes readers as the gateway does after a frame if `waiters` is set."""
    import ctypes
    import platform

    number = {"x86_64": 202, "aarch64": 98}.get(platform.machine())
    if sys.platform != "linux" or number is None:
        return None
    head = ctypes.c_uint32.from_buffer(writer.map, 24)
    syscall = ctypes.CDLL(None).syscall

    def wake() -> int:
        return int(syscall(ctypes.c_long(number), ctypes.byref(head), 1, 2**31 - 1, None, None, 0))

    return wake


def test_a_wait_sleeps_until_its_timeout_if_no_writer_wakes_the_reader(writer: RingWriter) -> None:
    with PhysicsConsumer(writer.path) as consumer:
        ring = ring_of(consumer)
        waits = 0
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            ring.wait(ring.head, 0.02)
            waits += 1
        # A futex may return early without a cause, so one short wait proves nothing. Without sleep there
        # would be thousands.
        assert waits < 200


def test_a_wait_returns_at_once_if_the_head_has_moved(writer: RingWriter) -> None:
    with PhysicsConsumer(writer.path) as consumer:
        ring = ring_of(consumer)
        ring.wait(ring.head - 1, 3600)


def test_closing_from_another_thread_ends_follow(writer: RingWriter) -> None:
    writer.publish(5)
    with PhysicsConsumer(writer.path) as consumer:

        def close_after_the_fifth() -> None:
            while (consumer.position or (0, 0))[1] < 5:
                time.sleep(0.001)
            consumer.close()

        closer = threading.Thread(target=close_after_the_fifth)
        closer.start()
        assert ids(list(consumer.follow("oldest"))) == [1, 2, 3, 4, 5]
        closer.join()


def test_closing_the_reader_inside_the_loop_ends_the_loop(writer: RingWriter) -> None:
    writer.publish(5)
    consumer = PhysicsConsumer(writer.path)
    seen = []
    for frame in consumer.follow("oldest"):
        seen.append(frame.frame_id)
        consumer.close()
    assert seen == [1]


def test_a_restart_on_the_same_ring_is_reported_and_no_frame_is_missed(
    writer: RingWriter, events: list[RingEvent]
) -> None:
    with PhysicsConsumer(writer.path, on_event=events.append) as consumer:
        frames = consumer.follow("oldest", timeout_s=10)
        writer.publish(3)
        assert [next(frames).frame_id for _ in range(3)] == [1, 2, 3]
        writer.epoch = 3
        writer.publish(2)
        assert [next(frames).frame_id for _ in range(2)] == [4, 5]
        consumer.read_latest()
        assert consumer.restarts == 2
    assert kinds(events) == ["restarted"]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("superseded", [True, False])
def test_a_replaced_ring_is_read_to_its_end_and_followed(
    writer: RingWriter, events: list[RingEvent], superseded: bool
) -> None:
    writer.publish(20)
    with PhysicsConsumer(writer.path, on_event=events.append) as consumer:
        frames = consumer.follow(8, timeout_s=10)
        assert next(frames).frame_id == 8
        writer.publish(4)
        # The new ring is too small for the frames that the reader has not seen yet. The old ring has them.
        with RingWriter(writer.path, capacity=4, head=21) as successor:
            successor.publish(6)
            if superseded:
                writer.state(3)
            seen = [next(frames).frame_id for _ in range(18)]
            assert seen == list(range(9, 27))
            successor.publish(2)
            assert [next(frames).frame_id for _ in range(2)] == [27, 28]
        assert (consumer.replacements, consumer.lost, consumer.position) == (1, 0, (7, 28))
    assert kinds(events) == ["replaced"]


@pytest.mark.usefixtures("impatient")
def test_frames_published_in_the_old_ring_during_its_replacement_are_read_first(writer: RingWriter) -> None:
    def publish_on_the_old(event: RingEvent) -> None:
        if event.kind == "replaced":
            writer.publish(2)

    writer.publish(3)
    with PhysicsConsumer(writer.path, on_event=publish_on_the_old) as consumer:
        frames = consumer.follow("oldest", timeout_s=10)
        with RingWriter(writer.path, capacity=2, head=6) as successor:
            successor.publish(2)
            assert [next(frames).frame_id for _ in range(7)] == [1, 2, 3, 4, 5, 6, 7]
        assert consumer.lost == 0


@pytest.mark.usefixtures("impatient")
def test_frames_that_a_new_ring_no_longer_has_count_as_lost(
    writer: RingWriter, events: list[RingEvent]
) -> None:
    writer.publish(5)
    with PhysicsConsumer(writer.path, on_event=events.append) as consumer:
        frames = consumer.follow("oldest", timeout_s=10)
        assert [next(frames).frame_id for _ in range(5)] == [1, 2, 3, 4, 5]
        with RingWriter(writer.path, capacity=4, head=1) as successor:
            successor.publish(12)
            writer.state(3)
            assert [next(frames).frame_id for _ in range(4)] == [9, 10, 11, 12]
        assert consumer.lost == 3
    assert kinds(events) == ["replaced", "lost"]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("empty_at_first", [True, False])
def test_another_journal_is_reported_and_read_from_its_oldest_frame(
    writer: RingWriter, events: list[RingEvent], empty_at_first: bool
) -> None:
    writer.publish(50)
    with PhysicsConsumer(writer.path, on_event=events.append) as consumer:
        frames = consumer.follow(50, timeout_s=10)
        assert next(frames).frame_id == 50
        with RingWriter(writer.path, capacity=16, journal_id=8) as successor:
            if empty_at_first:
                while consumer.replacements == 0:
                    consumer.read_latest()
            successor.publish(3)
            assert [next(frames).frame_id for _ in range(3)] == [1, 2, 3]
        assert (consumer.lost, consumer.position) == (0, (8, 3))
    assert kinds(events) == ["replaced", "journal_changed"]


def test_a_saved_position_of_another_journal_begins_at_the_oldest_frame(
    writer: RingWriter, events: list[RingEvent]
) -> None:
    writer.publish(20)
    with PhysicsConsumer(writer.path, on_event=events.append) as consumer:
        assert drain(consumer, (99, 18)) == list(range(5, 21))
        assert consumer.lost == 0
    assert kinds(events) == ["journal_changed"]


@pytest.mark.usefixtures("impatient")
def test_a_reader_that_has_seen_no_frame_reads_all_of_the_new_ring(writer: RingWriter) -> None:
    with PhysicsConsumer(writer.path) as consumer:
        frames = consumer.follow("latest", timeout_s=10)
        with RingWriter(writer.path, capacity=16, head=501, journal_id=8) as successor:
            successor.publish(2)
            writer.state(3)
            assert [next(frames).frame_id for _ in range(2)] == [501, 502]
        assert consumer.lost == 0


@pytest.mark.usefixtures("impatient")
def test_a_removed_ring_is_read_until_a_new_one_exists(writer: RingWriter) -> None:
    writer.publish(2)
    with PhysicsConsumer(writer.path) as consumer:
        writer.path.unlink()
        assert drain(consumer, "oldest") == [1, 2]
        writer.publish(1)
        assert drain(consumer, 3) == [3]
        assert consumer.replacements == 0


@pytest.mark.usefixtures("impatient")
def test_a_foreign_file_at_the_path_is_tolerated_for_a_while_and_then_refused(
    writer: RingWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.publish(2)
    with PhysicsConsumer(writer.path) as consumer:
        frames = consumer.follow("oldest", timeout_s=10)
        writer.path.unlink()
        writer.path.write_bytes(b"not a ring" * 100)
        assert [next(frames).frame_id for _ in range(2)] == [1, 2]
        writer.publish(1)
        assert next(frames).frame_id == 3
        monkeypatch.setattr(module, "_STRANGER_PATIENCE_S", 0.02)
        with pytest.raises(ConsumerError, match="no physics ring"):
            next(frames)


@pytest.mark.parametrize("step_s", [8 * 3600.0, -3600.0])
def test_a_wall_clock_that_was_set_is_no_stall_and_hides_none(
    step_s: float, writer: RingWriter, events: list[RingEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time
    with PhysicsConsumer(writer.path, on_event=events.append) as consumer:
        monkeypatch.setattr(time, "time", lambda: real() + step_s)
        monkeypatch.setattr(module, "_STILL_S", 60.0)
        beat = threading.Timer(0.1, writer.heartbeat)
        beat.start()
        assert not consumer.stalled
        beat.join()
        stats = consumer.stats()
        assert (stats["stalled"], 0 <= stats["heartbeat_age_s"] < 5, events) == (False, True, [])
        monkeypatch.setattr(time, "time", real)
        monkeypatch.setattr(module, "_STILL_S", 0.05)
        assert consumer.stalled
        assert consumer.stats()["stalled"] is True


@pytest.mark.usefixtures("impatient")
def test_a_stall_a_return_and_a_shutdown_are_reported(writer: RingWriter, events: list[RingEvent]) -> None:
    with PhysicsConsumer(writer.path, on_event=events.append) as consumer:
        assert not consumer.stalled

        def told(kind: str) -> None:
            while kind not in kinds(events):
                list(consumer.follow(timeout_s=0.01))

        writer.heartbeat(age_s=4.0)
        list(consumer.follow(timeout_s=0.02))
        assert events == []
        writer.heartbeat(age_s=6.0)
        told("stalled")
        assert consumer.stalled
        assert consumer.stats()["stalled"] is True
        writer.heartbeat()
        told("resumed")
        writer.state(2)
        told("closed")
        writer.heartbeat(age_s=6.0)
        list(consumer.follow(timeout_s=0.02))
        assert not consumer.stalled
    assert kinds(events) == ["stalled", "resumed", "closed"]


def test_events_without_a_handler_are_logged(writer: RingWriter, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "consumer"), PhysicsConsumer(writer.path) as consumer:
        writer.publish(20)
        consumer.read_since(0)
        writer.epoch = 2
        consumer.read_latest()
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert "4 frames before 5" in caplog.text
    assert "restarted" in caplog.text


IDLE = """
import sys, time
sys.path.insert(0, sys.argv[2])
from consumer import PhysicsConsumer
with PhysicsConsumer(sys.argv[1]) as consumer:
    before = time.thread_time()  # excludes numpy's threads, which are still starting
    assert list(consumer.follow(timeout_s=1.0)) == []
    print(time.thread_time() - before)
"""


def test_an_idle_follower_uses_little_processor_time(writer: RingWriter, repository: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", IDLE, str(writer.path), str(repository)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(run.stdout) < 0.03
