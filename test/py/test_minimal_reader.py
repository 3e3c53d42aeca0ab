"""A reader of the reference layout alone: the first 40 bytes of the header and 4,192 bytes of a frame.

It is made from the byte table with struct and mmap, as a program in another language would be. It uses
nothing of consumer.py, no other header field, and no field after `spin`.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import NamedTuple

from ring_writer import RingWriter, physics


class MinimalFrame(NamedTuple):
    frame_id: int
    semantic: tuple[float, ...]
    delta_time: float
    duration_ms: float
    velocity: float
    interrupt: float
    timestamp_us: int
    conversation_hash: int
    workflow_node: int
    case_status: int
    lead_status: int
    fill_rate: float
    actor_type: int
    intent_id: int
    sentiment: float
    confidence: float
    spin: tuple[float, ...]


def read_ring(path: Path) -> list[MinimalFrame]:
    """All readable frames, oldest first."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as ring:
        magic, version, frame_size, capacity, head, tail = struct.unpack_from("<QIIQQQ", ring, 0)
        assert (magic, version, frame_size) == (0x5048595349435300, 1, 4224)
        frames = []
        for frame_id in range(tail, head):
            at = 64 + frame_id % capacity * 4224
            frame = ring[at : at + 4192]
            (before,) = struct.unpack_from("<Q", frame, 0)
            (after,) = struct.unpack_from("<Q", ring, at)
            (tail_after,) = struct.unpack_from("<Q", ring, 32)
            if before != 2 * (frame_id // capacity + 1) or after != before or frame_id < tail_after:
                continue
            values = struct.unpack_from("<Q1024f4fqQ3if2i2f4f", frame, 8)
            fields = [values[0], values[1:1025], *values[1025:1039], values[1039:1043]]
            frames.append(MinimalFrame._make(fields))
        return frames


def test_a_reader_of_the_reference_part_reads_every_field(ring_path: Path) -> None:
    semantic = [index / 1024 for index in range(1024)]
    values = {
        "delta_time": 0.5,
        "duration_ms": 1.5,
        "velocity": 2.0,
        "interrupt": 1.0,
        "timestamp_us": -5,
        "conversation_hash": 2**64 - 1,
        "workflow_node": -1,
        "case_status": 2,
        "lead_status": 3,
        "fill_rate": 0.25,
        "actor_type": 1,
        "intent_id": 2**31 - 1,
        "sentiment": -0.5,
        "confidence": 0.75,
    }
    with RingWriter(ring_path, capacity=3) as writer:
        for _ in range(7):
            writer.publish_fields(
                struct.pack("<1024f", *semantic), **values, spin_w=0.5, spin_x=-0.5, spin_y=0.25, spin_z=0.125
            )
    frames = read_ring(ring_path)
    assert [frame.frame_id for frame in frames] == [5, 6, 7]
    expected = MinimalFrame._make([5, tuple(semantic), *values.values(), (0.5, -0.5, 0.25, 0.125)])
    assert frames[0] == expected


def test_the_minimal_reader_leaves_out_a_frame_that_is_being_written(ring_path: Path) -> None:
    with RingWriter(ring_path, capacity=4) as writer:
        writer.publish(4)
        writer.begin(5)
        writer.put(5, struct.pack("<Q", 5) + bytes(4096) + physics())
        assert [frame.frame_id for frame in read_ring(ring_path)] == [2, 3, 4]
        writer.end(5)
        assert [frame.frame_id for frame in read_ring(ring_path)] == [2, 3, 4, 5]
