"""At any pace of the writer, returned frames are whole, in order and without gaps, and losses are exact."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from ring_writer import RingWriter

from consumer import Frames, PhysicsConsumer

capacities = st.integers(1, 40)
heads = st.one_of(
    st.integers(1, 100), st.integers(2**32 - 50, 2**32 + 50), st.integers(2**53 - 1000, 2**53 - 900)
)


def assert_whole(frames: Frames) -> None:
    """Checks that every float is the function of the id that ring_writer.frame_payload defines."""
    ids = frames["frame_id"]
    if len(frames) == 0:
        return
    assert np.array_equal(ids, np.arange(int(ids[0]), int(ids[0]) + len(ids), dtype=np.uint64))
    value = (ids % np.uint64(1_000_003)).astype(np.float32)
    assert (frames["semantic"] == value[:, None]).all()
    assert (frames["spin"] == value[:, None]).all()
    for name in (
        "delta_time",
        "duration_ms",
        "velocity",
        "interrupt",
        "fill_rate",
        "sentiment",
        "confidence",
    ):
        assert (frames[name] == value).all()
    assert np.array_equal(frames["event_seq"], ids + np.uint64(5))


@settings(max_examples=60)
@given(capacity=capacities, head=heads, published=st.integers(0, 100), wanted=st.integers(0, 60))
def test_a_batch_is_the_newest_run_of_frames(capacity: int, head: int, published: int, wanted: int) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        RingWriter(Path(folder, "ring"), capacity, head=head) as writer,
        PhysicsConsumer(writer.path) as consumer,
    ):
        writer.publish(published)
        expected = min(wanted, published, capacity)
        frames = consumer.read_batch(wanted)
        assert_whole(frames)
        assert frames["frame_id"].tolist() == list(range(writer.head - expected, writer.head))
        with consumer.view(wanted) as view:
            assert view["frame_id"].tolist() == frames["frame_id"].tolist()
            assert len(view.segments) <= 2
            assert view.valid()


@settings(max_examples=60)
@given(
    capacity=capacities,
    head=heads,
    steps=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 50)), min_size=1, max_size=8),
)
def test_read_since_accounts_for_every_frame(capacity: int, head: int, steps: list[tuple[int, int]]) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        RingWriter(Path(folder, "ring"), capacity, head=head) as writer,
        PhysicsConsumer(writer.path) as consumer,
    ):
        position = head - 1
        total_lost = 0
        for published, wanted in steps:
            writer.publish(published)
            lost = max(writer.tail - (position + 1), 0)
            frames = consumer.read_since(position, wanted)
            assert_whole(frames)
            assert frames.lost == lost
            assert len(frames) == min(wanted, writer.head - (position + 1 + lost))
            if len(frames):
                assert int(frames["frame_id"][0]) == position + 1 + lost
                position = int(frames["frame_id"][-1])
            total_lost += frames.lost
            assert consumer.lost == total_lost


@settings(max_examples=40)
@given(
    capacity=capacities,
    head=heads,
    steps=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30)), min_size=1, max_size=8),
)
def test_follow_yields_or_counts_every_frame_once(
    capacity: int, head: int, steps: list[tuple[int, int]]
) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        RingWriter(Path(folder, "ring"), capacity, head=head) as writer,
        PhysicsConsumer(writer.path) as consumer,
    ):
        frames = consumer.follow(head, timeout_s=0)
        seen = 0
        last = head - 1
        for published, wanted in steps:
            writer.publish(published)
            for _ in range(min(wanted, writer.head - 1 - last)):
                before = consumer.lost
                frame = next(frames, None)
                if frame is None:
                    # Fewer frames were left than expected. The others are lost and counted.
                    break
                assert frame.frame_id == last + 1 + consumer.lost - before
                assert frame.semantic[0] == np.float32(frame.frame_id % 1_000_003)
                last = frame.frame_id
                seen += 1
        for frame in frames:
            last = frame.frame_id
            seen += 1
        if seen or consumer.lost:
            assert seen + consumer.lost == last - head + 1
