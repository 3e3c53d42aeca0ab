"""Snapshots of the ring: read_latest, read_batch, read_since, view, and the fields and labels of frames."""

from __future__ import annotations

import gc
import pickle
import time
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
from ring_writer import PHYSICS_NAMES, RingWriter
from test_follow import ring_of

import consumer as module
from consumer import (
    FRAME_BYTES,
    FRAME_DTYPE,
    HEADER_BYTES,
    HEADER_DTYPE,
    KINETICS_COLUMNS,
    ConsumerError,
    Frame,
    Frames,
    PhysicsConsumer,
)


def ids(frames: Frames) -> list[int]:
    return [int(one) for one in frames["frame_id"]]


def test_the_dtype_has_no_gaps() -> None:
    assert FRAME_DTYPE.itemsize == FRAME_BYTES == 4224
    assert HEADER_DTYPE.itemsize == HEADER_BYTES == 64
    assert FRAME_DTYPE.fields is not None
    assert FRAME_DTYPE.fields["delta_time"][1] == 4112
    assert FRAME_DTYPE.fields["checksum"][1] == 4216


def test_every_field_is_an_attribute_of_frame_and_frames(writer: RingWriter) -> None:
    writer.publish(2)
    with PhysicsConsumer(writer.path) as consumer:
        frames = consumer.read_batch(2)
        for name in FRAME_DTYPE.names or ():
            assert frames[name].shape[0] == 2
            assert type(frames[name]) is np.ndarray
            value = getattr(frames[0], name)
            assert np.array_equal(value, frames[name][0])
            if name != "flags":
                assert np.array_equal(getattr(frames, name), frames[name])
            if name not in ("semantic", "spin"):
                assert type(value) in (int, float), name
        assert frames.flags.c_contiguous  # numpy's own flags, which np.save and others need
        with pytest.raises(AttributeError, match="no field 'semantics'"):
            _ = frames[0].semantics
        with pytest.raises(AttributeError, match="no attribute 'semantics'"):
            _ = frames.semantics  # type: ignore[attr-defined]


def test_an_empty_ring_has_nothing_to_read(writer: RingWriter) -> None:
    with PhysicsConsumer(writer.path) as consumer:
        assert consumer.read_latest() is None
        for frames in (consumer.read_batch(5), consumer.read_since(0, 5)):
            assert len(frames) == 0
            assert frames.semantic.shape == (0, 1024)
            assert frames.kinetics().shape == (0, 17)
            assert frames.lost == 0
            assert repr(frames) == "Frames(0, lost=0)"
        with consumer.view(5) as view:
            assert len(view) == 0
            assert view["semantic"].shape == (0, 1024)
            assert view.valid()
        assert (consumer.lag, consumer.lost, consumer.position) == (0, 0, None)


def test_the_newest_frames_are_returned_oldest_first(writer: RingWriter) -> None:
    writer.publish(40)
    with PhysicsConsumer(writer.path) as consumer:
        assert ids(consumer.read_batch(5)) == [36, 37, 38, 39, 40]
        assert ids(consumer.read_batch(100)) == list(range(25, 41))
        assert ids(consumer.read_batch(0)) == []
        frame = consumer.read_latest()
        assert isinstance(frame, Frame)
        assert (frame.frame_id, frame.event_seq, frame.semantic[1023]) == (40, 45, 40.0)
        assert repr(frame) == "Frame(frame_id=40, event_seq=45, type='UnknownEvent')"
        with pytest.raises(ValueError, match="negative"):
            consumer.read_batch(-1)


def test_read_since_begins_after_the_id_and_counts_overwritten_frames(writer: RingWriter) -> None:
    writer.publish(40)
    with PhysicsConsumer(writer.path) as consumer:
        frames = consumer.read_since(30, 4)
        assert (ids(frames), frames.lost) == ([31, 32, 33, 34], 0)
        assert (consumer.position, consumer.lag) == ((7, 34), 6)
        frames = consumer.read_since(10, 4)
        assert (ids(frames), frames.lost, consumer.lost) == ([25, 26, 27, 28], 14, 14)
        frames = consumer.read_since(0)
        assert (len(frames), frames.lost, consumer.lost) == (16, 24, 38)
        for beyond in (40, 41, 2**60):
            frames = consumer.read_since(beyond)
            assert (len(frames), frames.lost) == (0, 0)
        with pytest.raises(ValueError, match="negative"):
            consumer.read_since(-1)


def test_a_frame_below_the_tail_is_not_returned_even_if_its_sequence_fits(ring_path: Path) -> None:
    with RingWriter(ring_path, capacity=16) as writer:
        writer.publish(10)
        writer._words[4] = 8
        with PhysicsConsumer(ring_path) as consumer:
            assert ids(consumer.read_batch(16)) == [8, 9, 10]
            assert ids(consumer.read_since(0)) == [8, 9, 10]
            with consumer.view(16) as view:
                assert list(view.frame_id) == [8, 9, 10]


@pytest.mark.parametrize(
    ("head", "tail"),
    [(11, 2**64 - 1), (11, 12), (11, 0), (28, 11), (2**64 - 1, 2**64 - 5), (2**53, 2**53 - 4), (0, 0)],
)
def test_a_head_and_a_tail_that_do_not_fit_are_damage(writer: RingWriter, head: int, tail: int) -> None:
    writer.publish(10)
    with PhysicsConsumer(writer.path) as consumer:
        writer._words[3], writer._words[4] = head, tail
        # A reader that is attached returns no frame below the tail, and its stats report the damage.
        assert all(tail <= frame.frame_id < head for frame in consumer.read_batch(16))
        with pytest.raises(
            ConsumerError, match=f"is damaged: its head {head} and its tail {tail} do not fit"
        ):
            consumer.stats()
    with pytest.raises(ConsumerError, match="is damaged"):
        PhysicsConsumer(writer.path)


@pytest.mark.parametrize("damage", [-1, +1, -2, +2])
def test_a_frame_of_another_sequence_is_never_returned(writer: RingWriter, damage: int) -> None:
    writer.publish(30)
    writer.sequence(25, 2 * (25 // 16 + 1) + damage)
    with PhysicsConsumer(writer.path) as consumer:
        assert ids(consumer.read_batch(16)) == [26, 27, 28, 29, 30]
        with consumer.view(16) as view:
            assert list(view.frame_id) == [26, 27, 28, 29, 30]
        assert ids(consumer.read_since(20)) == [21, 22, 23, 24]
        frames = consumer.read_since(24)
        assert (ids(frames), frames.lost) == ([26, 27, 28, 29, 30], 1)


def test_a_batch_ends_before_a_newest_frame_that_stays_damaged(writer: RingWriter) -> None:
    writer.publish(30)
    for damaged in (30, 29, 20):
        writer.sequence(damaged, 1)
    with PhysicsConsumer(writer.path) as consumer:
        assert ids(consumer.read_batch(16)) == list(range(21, 29))
        assert ids(consumer.read_batch(4)) == [27, 28]
        assert ids(consumer.read_batch(2)) == []


def test_ids_beyond_two_to_the_32_are_exact(ring_path: Path) -> None:
    start = 2**32 - 3
    with RingWriter(ring_path, capacity=4, head=start) as writer, PhysicsConsumer(ring_path) as consumer:
        frames = consumer.follow("latest", timeout_s=10)
        for expected in range(start, start + 8):
            writer.publish()
            assert next(frames).frame_id == expected
        assert ids(consumer.read_batch(4)) == list(range(start + 4, start + 8))


def test_copies_have_their_own_memory(writer: RingWriter) -> None:
    writer.publish(16)
    with PhysicsConsumer(writer.path) as consumer:
        frames = consumer.read_batch(16)
        frame = consumer.read_latest()
    before = frames["semantic"].copy()
    writer.publish(16)
    assert frame is not None
    assert np.array_equal(frames["semantic"], before)
    assert frame.semantic[0] == 16.0


def test_frames_slice_index_and_survive_pickling(writer: RingWriter) -> None:
    writer.publish(20)
    writer.labels({"types": {}})
    with PhysicsConsumer(writer.path) as consumer:
        frames = consumer.read_since(0, 10)
        assert (frames.lost, frames[2:4].lost) == (4, 0)
    assert isinstance(frames[2:4], Frames)
    assert ids(frames[2:4]) == [7, 8]
    assert ids(frames[frames["frame_id"] > 12]) == [13, 14]
    assert [frame.frame_id for frame in frames] == list(range(5, 15))
    assert frames[-1].type_label == "UnknownEvent"
    assert repr(frames) == "Frames(10, 5 to 14, lost=4)"
    assert np.array_equal(pickle.loads(pickle.dumps(frames))["event_seq"], frames["event_seq"])
    assert frames[["frame_id", "event_seq"]][0].tolist() == (5, 10)


def test_raw_bytes_of_the_http_interface_are_the_same_frames(writer: RingWriter) -> None:
    writer.publish(5)
    with PhysicsConsumer(writer.path) as consumer:
        frames = consumer.read_batch(5)
    assert np.array_equal(Frames.from_bytes(frames.tobytes()), np.asarray(frames))
    with pytest.raises(ConsumerError, match="whole number of frames"):
        Frames.from_bytes(frames.tobytes()[:-1])
    assert Frames.from_bytes(frames.tobytes()).semantic.flags.writeable


def test_kinetics_have_the_columns_of_the_table(writer: RingWriter) -> None:
    assert len(KINETICS_COLUMNS) == 17
    plain: dict[str, Any] = {
        name: index + 0.5 for index, name in enumerate(("delta_time", "duration_ms", "velocity", "interrupt"))
    }
    whole: dict[str, Any] = {
        "workflow_node": -1,
        "case_status": 2,
        "lead_status": 3,
        "actor_type": 1,
        "intent_id": 4321,
    }
    rest: dict[str, Any] = {"fill_rate": 0.25, "sentiment": -0.75, "confidence": 0.5}
    spin: dict[str, Any] = {"spin_w": 0.1, "spin_x": 0.2, "spin_y": 0.3, "spin_z": 0.4}
    for timestamp_us in (1_000_000, 3_500_000, 2_000_000):
        writer.publish_fields(**plain, **whole, **rest, **spin, timestamp_us=timestamp_us)
    with PhysicsConsumer(writer.path) as consumer:
        table = consumer.read_batch(3).kinetics()
    assert table.shape == (3, 17)
    assert table.dtype == np.float32
    ages = table[:, KINETICS_COLUMNS.index("age_s")]
    assert ages.tolist() == [1.0, -1.5, 0.0]
    for name, value in {**plain, **whole, **rest, **spin}.items():
        assert table[:, KINETICS_COLUMNS.index(name)] == pytest.approx(value), name


def test_labels_come_from_the_file_beside_the_ring(writer: RingWriter) -> None:
    writer.publish_fields(intent_id=11, type_id=21, model_id=31, flags=3)
    with PhysicsConsumer(writer.path) as consumer:
        frame = consumer.read_latest()
        assert frame is not None
        assert (frame.intent_label, frame.type_label, frame.model_name) == (None, None, None)
        writer.labels(
            {
                "intents": {"11": "transferência", "x": "ignored", "12": 5},
                "types": {"21": "UserMessage"},
                "models": {"31": {"name": "hashing-1024-v1", "dim": 1024}},
            }
        )
        assert (frame.intent_label, frame.type_label, frame.model_name) == (
            "transferência",
            "UserMessage",
            "hashing-1024-v1",
        )
        writer.labels({"intents": {"11": "transferência", "12": "saldo"}, "types": {"21": "UserMessage"}})
        writer.publish_fields(intent_id=12, type_id=-1)
        writer.publish_fields(intent_id=-1, type_id=99)
        frames = consumer.read_batch(3)
        assert frames.intent_label.tolist() == ["transferência", "saldo", None]
        assert frames.type_label.tolist() == ["UserMessage", "UnknownEvent", None]
        assert frames[1].intent_label == "saldo"


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"intents": 5}', '{"intents": {"11": null}}', "[" * 100_000]
)
def test_a_malformed_file_of_labels_does_not_stop_reading(writer: RingWriter, content: str) -> None:
    writer.publish_fields(intent_id=11)
    writer.labels(content)
    with PhysicsConsumer(writer.path) as consumer:
        frame = consumer.read_latest()
        assert frame is not None
        assert frame.intent_label is None


def test_a_view_shows_the_ring_itself_and_reports_that_it_was_overwritten(writer: RingWriter) -> None:
    writer.publish(14)
    with PhysicsConsumer(writer.path) as consumer, consumer.view(4) as view:
        assert len(view.segments) == 1
        assert np.shares_memory(view["semantic"], consumer.view(4)["semantic"])
        assert view["semantic"].shape == (4, 1024)
        assert view["frame_id"].tolist() == view.frame_id.tolist() == [11, 12, 13, 14]
        writer.publish(12)
        assert view.valid()
        writer.begin(27)
        assert not view.valid()
        writer.end(27)
        assert not view.valid()
        assert view.frame_id.tolist() == [11, 12, 13, 14]


def test_a_view_below_the_tail_is_no_longer_valid(writer: RingWriter) -> None:
    writer.publish(14)
    with PhysicsConsumer(writer.path) as consumer, consumer.view(4) as view:
        writer._words[4] = 11
        assert view.valid()
        writer._words[4] = 12
        assert not view.valid()


class Meddled:
    """The ring's bytes. Before each copy of some of them, the writer does something."""

    def __init__(self, memory: Any, meddle: Callable[[], None]) -> None:
        self.memory = memory
        self.meddle = meddle

    def __getitem__(self, key: slice) -> Any:
        self.meddle()
        return self.memory[key]


def meddle_with(consumer: PhysicsConsumer, meddle: Callable[[], None]) -> None:
    ring: Any = ring_of(consumer)
    ring._bytes = Meddled(ring._bytes, meddle)
    ring._memory = Meddled(ring._memory, meddle)


@pytest.fixture(params=[0, 16], ids=["by numpy", "frame by frame"])
def _either_copy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the test with both ways of copying: frame by frame for few frames, and with numpy for many."""
    monkeypatch.setattr(module, "_FEW_FRAMES", request.param)


# Each of the three alone makes the reader reject a frame, although today's writer also raises the tail.
@pytest.mark.usefixtures("_either_copy")
def test_a_frame_whose_sequence_changes_during_the_copy_is_not_returned(writer: RingWriter) -> None:
    writer.publish(10)
    with PhysicsConsumer(writer.path) as consumer:
        meddle_with(consumer, lambda: writer.sequence(5, 3))
        assert ids(consumer.read_batch(16)) == [6, 7, 8, 9, 10]


@pytest.mark.usefixtures("_either_copy")
def test_a_frame_that_the_tail_passes_during_the_copy_is_not_returned(writer: RingWriter) -> None:
    writer.publish(10)
    with PhysicsConsumer(writer.path) as consumer:
        meddle_with(consumer, lambda: writer._words.__setitem__(4, 6))
        assert ids(consumer.read_batch(16)) == [6, 7, 8, 9, 10]
        frames = consumer.read_since(0)
        assert (ids(frames), frames.lost) == ([6, 7, 8, 9, 10], 5)


@pytest.mark.usefixtures("_either_copy")
def test_a_frame_that_becomes_whole_only_during_the_copy_is_not_returned(writer: RingWriter) -> None:
    writer.publish(10)
    writer.sequence(5, 1)
    with PhysicsConsumer(writer.path) as consumer:
        meddle_with(consumer, lambda: writer.sequence(5, 2))
        assert ids(consumer.read_batch(16)) == [6, 7, 8, 9, 10]


@pytest.mark.usefixtures("_either_copy")
def test_a_batch_that_is_lapped_as_a_whole_is_read_again(writer: RingWriter) -> None:
    writer.publish(10)
    laps = iter(range(3))

    def lap() -> None:
        if next(laps, None) is not None:
            writer.publish(20)

    with PhysicsConsumer(writer.path) as consumer:
        meddle_with(consumer, lap)
        assert ids(consumer.read_batch(1)) == [70]
        laps = iter(range(3))
        frames = consumer.read_since(60, 4)
        assert int(frames["frame_id"][0]) == 61 + frames.lost
        assert frames.lost >= 130 - 60 - 16


def test_a_view_around_the_end_of_the_ring_has_two_segments(writer: RingWriter) -> None:
    writer.publish(18)
    with PhysicsConsumer(writer.path) as consumer:
        with consumer.view(5) as view:
            assert [ids(segment) for segment in view.segments] == [[14, 15], [16, 17, 18]]
            assert view["event_seq"].tolist() == [19, 20, 21, 22, 23]
            assert view.valid()
        assert len(view) == 0
        assert view.segments == ()


def test_returned_frames_stay_valid_after_the_reader_is_gone(writer: RingWriter) -> None:
    writer.publish(3)
    consumer = PhysicsConsumer(writer.path)
    view = consumer.view(3)
    consumer.close()
    consumer.close()
    with pytest.raises(ConsumerError, match="closed"):
        consumer.read_latest()
    del consumer
    assert view["frame_id"].tolist() == [1, 2, 3]


def test_the_age_is_that_of_the_newest_frame_that_was_returned(writer: RingWriter) -> None:
    now_us = int(time.time() * 1e6)
    for age_s in (30, 20, 10):
        writer.publish_fields(timestamp_us=now_us - age_s * 1_000_000)
    with PhysicsConsumer(writer.path) as consumer:
        assert consumer.age_ms is None
        assert consumer.stats()["age_ms"] is None
        reads: list[tuple[int, Callable[[], Any]]] = [
            (10, consumer.read_latest),
            (20, lambda: consumer.read_since(1, 1)),
            (10, lambda: consumer.read_batch(2)),
            (30, lambda: next(consumer.follow("oldest"))),
        ]
        for age_s, read in reads:
            read()
            age_ms = consumer.age_ms
            assert age_ms is not None
            passed_ms = time.time() * 1000 - now_us / 1000
            assert age_s * 1000 <= age_ms <= age_s * 1000 + passed_ms
            assert consumer.position == (7, 4 - age_s // 10)
        assert consumer.stats()["age_ms"] >= 30_000
        writer.publish_fields(timestamp_us=now_us + 3_600_000_000)
        consumer.read_latest()
        assert consumer.age_ms is not None
        assert consumer.age_ms < 0


def test_a_batch_reports_whether_it_mixes_models(writer: RingWriter) -> None:
    with PhysicsConsumer(writer.path) as consumer:
        assert (consumer.read_batch(9).model_ids, consumer.read_batch(9).mixed_models) == ((), False)
        for model_id in (0, 31, 0, 31):
            writer.publish_fields(model_id=model_id)
        assert (consumer.read_batch(9).model_ids, consumer.read_batch(9).mixed_models) == ((31,), False)
        writer.publish_fields(model_id=8)
        frames = consumer.read_batch(9)
    assert (frames.model_ids, frames.mixed_models) == ((8, 31), True)
    assert not frames[:4].mixed_models


def test_the_memory_of_a_batch_is_reused_only_if_nothing_refers_to_it(writer: RingWriter) -> None:
    writer.publish(16)

    def address(frames: Frames) -> int:
        return int(frames.__array_interface__["data"][0])

    with PhysicsConsumer(writer.path) as consumer:
        first = consumer.read_batch(16)
        before, where = first.tobytes(), address(first)
        kept: Any
        keepers: list[Callable[[Frames], Any]] = [
            lambda frames: frames,
            lambda frames: frames.semantic[3:],
            lambda frames: frames[5],
            lambda frames: frames.spin.T,
            lambda frames: frames.semantic.data,
            lambda frames: iter(frames),
        ]
        for keep in keepers:
            kept = keep(first)
            del first
            gc.collect()
            second = consumer.read_batch(16)
            assert address(second) != where
            del kept, second
            gc.collect()
            first = consumer.read_batch(16)
            assert address(first) == where, "the memory was not used again"
            assert first.tobytes() == before


def test_memory_that_is_kept_for_reuse_is_bounded(ring_path: Path) -> None:
    with RingWriter(ring_path, capacity=64) as writer, PhysicsConsumer(ring_path) as consumer:
        writer.publish(64)
        held = [consumer.read_batch(64) for _ in range(30)]
        assert len(ring_of(consumer)._buffers._arrays) == 8
        assert all(np.array_equal(one["frame_id"], held[0]["frame_id"]) for one in held)


def test_the_arrays_of_a_view_are_read_only(writer: RingWriter) -> None:
    writer.publish(3)
    with PhysicsConsumer(writer.path) as consumer, consumer.view(3) as view:
        assert not view["semantic"].flags.writeable
        # An interface without read-only memory is refused, because a write would be a segmentation fault.
        with pytest.raises(BufferError, match="readonly"):
            view["semantic"].__dlpack__()


def test_stats_show_the_header_and_the_counters(writer: RingWriter) -> None:
    writer.publish(20)
    with PhysicsConsumer(writer.path) as consumer:
        consumer.read_since(2, 3)
        stats = consumer.stats()
    expected = {
        "capacity": 16,
        "head": 21,
        "tail": 5,
        "frames": 16,
        "epoch": 1,
        "state": "running",
        "lost": 2,
    }
    assert {name: stats[name] for name in expected} == expected
    assert stats["lag"] == 13
    assert stats["journal_id"] == 7
    assert stats["stalled"] is False
    assert set(PHYSICS_NAMES).isdisjoint(stats.keys() - {"journal_id"})
