"""A writer at full speed in another process, and readers that must never return a torn frame.

CS_TORTURE_S (seconds for each case, 1 by default) makes it longer.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ring_writer import RingWriter
from test_properties import assert_whole

import consumer as module
from consumer import PhysicsConsumer, RingEvent, _Blocks, _Place, _Stream

SECONDS = float(os.environ.get("CS_TORTURE_S", "1"))

WRITER = """
import os, sys
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from ring_writer import RingWriter, frame_payload
parent = os.getppid()
with RingWriter(Path(sys.argv[1]), int(sys.argv[2])) as writer:
    print("ready", flush=True)
    while os.getppid() == parent:
        writer.publish(100)
"""


@pytest.fixture(params=[2, 16, 64, 1000])
def busy_ring(request: pytest.FixtureRequest, ring_path: Path) -> Iterator[Path]:
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", WRITER, str(ring_path), str(request.param), here]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield ring_path
        process.kill()


def test_no_read_is_torn_and_no_loss_goes_uncounted(busy_ring: Path) -> None:
    read = batches = 0
    with PhysicsConsumer(busy_ring) as consumer:
        first = position = consumer.stats()["head"] - 1
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            frames = consumer.read_since(position, 32)
            assert_whole(frames)
            if len(frames):
                assert int(frames["frame_id"][0]) == position + 1 + frames.lost
                position = int(frames["frame_id"][-1])
                read += len(frames)
            batch = consumer.read_batch(8)
            assert_whole(batch)
            batches += len(batch)
            latest = consumer.read_latest()
            if latest is not None:
                assert (latest.semantic == latest.semantic[0]).all()
                assert latest.semantic[0] == latest.frame_id % 1_000_003 == latest.spin[3]
        assert read + consumer.lost == position - first
    assert read > 0
    assert batches > 0


def test_a_view_that_reports_valid_was_not_touched(busy_ring: Path) -> None:
    checked = 0
    with PhysicsConsumer(busy_ring) as consumer:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            with consumer.view(4) as view:
                lows = view["semantic"].min(axis=1) if len(view) else None
                highs = view["semantic"].max(axis=1) if len(view) else None
                expected = view.frame_id % 1_000_003
                if view.valid() and lows is not None and highs is not None:
                    assert (lows == expected).all()
                    assert (highs == expected).all()
                    checked += len(view)
        if consumer.stats()["capacity"] >= 64:
            assert checked > 0


def test_follow_returns_or_counts_every_frame(busy_ring: Path) -> None:
    seen = 0
    with PhysicsConsumer(busy_ring) as consumer:
        end = time.monotonic() + SECONDS
        first = last = 0
        for frame in consumer.follow(timeout_s=10):
            if first == 0:
                first = frame.frame_id
                lost_before = consumer.lost
            assert frame.frame_id > last
            assert (frame.semantic == frame.frame_id % 1_000_003).all()
            last = frame.frame_id
            seen += 1
            if time.monotonic() > end:
                break
        assert seen + consumer.lost - lost_before == last - first + 1


def test_the_shards_of_a_dataset_return_or_count_every_frame(busy_ring: Path) -> None:
    told: list[RingEvent] = []
    with PhysicsConsumer(busy_ring) as consumer:
        first = consumer.stats()["head"]
    shards = [
        _Stream(str(busy_ring), None, _Blocks(8, shard, 3), _Place(7, first, 0), told.append)
        for shard in range(3)
    ]
    taking = [module._batches(one, 8, 10.0, 0.02) for one in shards]
    seen = [0, 0, 0]
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for shard, batches in enumerate(taking):
            rows, place = next(batches)
            ids = rows["frame_id"]
            assert (rows["semantic"] == (ids % 1_000_003).astype("f4")[:, None]).all()
            assert ((ids - 1) // 8 % 3 == shard).all()
            seen[shard] += len(rows)
            whole = _Blocks(8, shard, 3).own_between(first, place.next_frame_id)
            assert seen[shard] + place.lost == whole
    assert min(seen) > 0
    assert sum(event.lost for event in told) == sum(one.lost for one in shards)


def test_many_readers_do_not_disturb_the_writer_or_one_another(ring_path: Path) -> None:
    with RingWriter(ring_path, capacity=64) as writer:
        readers = [PhysicsConsumer(ring_path) for _ in range(4)]
        followers = [reader.follow(timeout_s=10) for reader in readers]
        for _ in range(50):
            writer.publish(3)
            for follower in followers:
                for offset in (3, 2, 1):
                    assert next(follower).frame_id == writer.head - offset
        assert [reader.lost for reader in readers] == [0, 0, 0, 0]
