"""A reader for the torture tests that uses the public API of consumer.py.

    reader.py PATH MODE [--first ID] [--status-s S] [--seed N] [--trusting]

MODE is since, follow, batch (with read_latest), latest or view. Reads until its stdin ends. Checks every
byte of every frame against the content that test/torture/content.ts defines, and prints a line of JSON every
S seconds and at the end. --trusting takes the second check out of consumer.py. This is the control, which
must find torn frames.
"""

from __future__ import annotations

import argparse
import json
import random
import select
import struct
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

import consumer as module
from consumer import FRAME_BYTES, Frame, PhysicsConsumer, RingEvent

VALUES = 1_000_003
JOURNAL_ID = 0x70BED7
BATCH_MAX = 512

SEMANTIC = slice(16 // 8, 4112 // 8)
PHYSICS = slice(4112 // 8, 4216 // 8)  # without the checksum, which the writer computes

# The fields after `semantic`, from the table of docs/FRAME.md.
PHYSICS_DTYPE = np.dtype(
    [
        ("four", "<f4", (4,)),
        ("timestamp_us", "<u8"),
        ("conversation_hash", "<u8"),
        ("workflow_node", "<u4"),
        ("case_status", "<u4"),
        ("lead_status", "<u4"),
        ("fill_rate", "<f4"),
        ("actor_type", "<u4"),
        ("intent_id", "<u4"),
        ("six", "<f4", (6,)),
        ("event_seq", "<u8"),
        ("semantic_dim", "<u2"),
        ("flags", "<u2"),
        ("model_id", "<u4"),
        ("type_id", "<u4"),
        ("journal_id", "<u4"),
    ]
)
assert PHYSICS_DTYPE.itemsize == 4216 - 4112

Words = npt.NDArray[np.uint64]


def expected_physics(ids: Words) -> Words:
    """The expected bytes after `semantic`: (n, 13) uint64."""
    rows = np.zeros(len(ids), dtype=PHYSICS_DTYPE)
    low = ids & np.uint64(0xFFFFFFFF)
    value = (ids % np.uint64(VALUES)).astype(np.float32)
    rows["four"] = value[:, None] + np.arange(0, 4, dtype=np.float32)
    rows["timestamp_us"] = ids * np.uint64(1000)
    # The low word has one product, the high word another.
    products = [(low * np.uint64(factor)) & np.uint64(0xFFFFFFFF) for factor in (0x9E3779B1, 0x85EBCA6B)]
    rows["conversation_hash"] = products[0] | products[1] << np.uint64(32)
    rows["workflow_node"] = low
    rows["case_status"] = ids % np.uint64(5)
    rows["lead_status"] = ids % np.uint64(3)
    rows["fill_rate"] = value + np.float32(11)
    rows["actor_type"] = ids % np.uint64(4)
    rows["intent_id"] = low & np.uint64(0x7FFFFFFF)
    rows["six"] = value[:, None] + np.arange(14, 20, dtype=np.float32)
    rows["event_seq"] = ids + np.uint64(5)
    rows["semantic_dim"] = 1024
    rows["flags"] = 15
    rows["model_id"] = (low * np.uint64(0xC2B2AE35)) & np.uint64(0xFFFFFFFF)
    rows["type_id"] = low >> np.uint64(1)
    rows["journal_id"] = JOURNAL_ID
    return rows.view(np.uint64).reshape(len(ids), -1)


def torn_frames(rows: npt.NDArray[Any], first: int) -> int:
    """How many of the frames first, first + 1, … have a wrong byte."""
    count = len(rows)
    words = rows.view(np.ndarray).view(np.uint64).reshape(count, FRAME_BYTES // 8)
    ids = np.arange(first, first + count, dtype=np.uint64)
    bits = (ids % np.uint64(VALUES)).astype(np.float32).view(np.uint32).astype(np.uint64)
    pairs = bits | bits << np.uint64(32)
    whole = words[:, 1] == ids
    whole &= (words[:, SEMANTIC] == pairs[:, None]).all(axis=1)
    whole &= (words[:, PHYSICS] == expected_physics(ids)).all(axis=1)
    return count - int(np.count_nonzero(whole))


def is_torn(frame: Frame, frame_id: int) -> bool:
    """Whether one frame of follow() has a wrong attribute."""
    low = frame_id & 0xFFFFFFFF
    value = float(frame_id % VALUES)
    expected = {
        "frame_id": frame_id,
        "delta_time": value,
        "duration_ms": value + 1,
        "velocity": value + 2,
        "interrupt": value + 3,
        "timestamp_us": frame_id * 1000,
        "conversation_hash": (low * 0x9E3779B1 & 0xFFFFFFFF) | (low * 0x85EBCA6B & 0xFFFFFFFF) << 32,
        "workflow_node": struct.unpack("<i", struct.pack("<I", low))[0],
        "case_status": frame_id % 5,
        "lead_status": frame_id % 3,
        "fill_rate": value + 11,
        "actor_type": frame_id % 4,
        "intent_id": low & 0x7FFFFFFF,
        "sentiment": value + 14,
        "confidence": value + 15,
        "event_seq": frame_id + 5,
        "semantic_dim": 1024,
        "flags": 15,
        "model_id": low * 0xC2B2AE35 & 0xFFFFFFFF,
        "type_id": low >> 1,
        "journal_id": JOURNAL_ID,
    }
    if any(getattr(frame, name) != right for name, right in expected.items()):
        return True
    if frame.spin.tolist() != [value + k for k in range(16, 20)]:
        return True
    return not bool((frame.semantic == np.float32(value)).all())


def trust_the_first_look() -> None:
    """Takes the second look at sequence and tail out of the reader."""

    def copy(ring: Any, low: int, high: int) -> tuple[Any, npt.NDArray[np.bool_]]:
        valid = ring.whole(low, high)
        copied = np.empty((high - low, FRAME_BYTES), dtype=np.uint8)
        for start, end, slot, _ in ring._segments(low, high):
            copied[start - low : end - low] = ring._bytes[slot : slot + end - start]
        return copied.reshape(-1).view(module.FRAME_DTYPE), valid

    # If these were renamed in the reader, this patch would change nothing, so it must fail.
    ring_class = module._Ring
    assert callable(ring_class.copy)
    ring_class.copy = copy  # type: ignore[assignment, method-assign, unused-ignore]
    assert callable(ring_class._copy_few)
    ring_class._copy_few = lambda *_: None  # type: ignore[method-assign, unused-ignore]


class Reader:
    """Counts the frames that it reads, until stdin ends."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.consumer = PhysicsConsumer(arguments.path, on_event=self.told)
        self.random = random.Random(arguments.seed)
        self.status_s: float = arguments.status_s
        self.first: int = arguments.first or self.consumer.stats()["head"]
        self.last = self.first - 1
        self.accepted = 0
        self.torn = 0
        self.gaps = 0
        self.lost = 0
        self.events: dict[str, int] = {}
        self.following = arguments.mode == "follow"
        self.ended = threading.Event()
        self.listener = threading.Thread(target=self.listen)

    def told(self, event: RingEvent) -> None:
        self.events[event.kind] = self.events.get(event.kind, 0) + 1

    def listen(self) -> None:
        """Reports progress and notices the end. Has its own thread: the reader may be waiting."""
        while not select.select([sys.stdin], [], [], self.status_s)[0]:
            self.say()
        self.ended.set()
        if self.following:
            self.consumer.close()

    def say(self, *, done: bool = False) -> None:
        said = {
            "accepted": self.accepted,
            "torn": self.torn,
            "lost": self.lost,
            "first": self.first,
            "last": self.last,
            # Our own count of lost frames must equal that of the reader.
            "violations": abs(self.gaps - self.lost),
            "events": self.events,
            "done": done,
        }
        print(json.dumps(said), flush=True)

    def turns(self) -> Iterator[int]:
        """Numbers of frames to request, until the end."""
        capacity: int = self.consumer.stats()["capacity"]
        while not self.ended.is_set():
            yield self.random.randint(1, min(capacity, BATCH_MAX))

    def take(self, rows: npt.NDArray[Any], first: int) -> None:
        self.accepted += len(rows)
        self.torn += torn_frames(rows, first)

    def read_since(self) -> None:
        for count in self.turns():
            frames = self.consumer.read_since(self.last, count)
            if len(frames) == 0:
                time.sleep(0.0002)
                continue
            first = int(frames["frame_id"][0])
            self.torn += first != self.last + 1 + frames.lost
            self.take(frames, first)
            self.gaps += first - (self.last + 1)
            self.last = first + len(frames) - 1
            self.lost = self.consumer.lost

    def follow(self) -> None:
        for frame in self.consumer.follow(self.first):
            frame_id: int = frame.frame_id
            self.gaps += frame_id - self.last - 1
            # An id that decreases would hide a repeated frame.
            self.torn += frame_id <= self.last or is_torn(frame, frame_id)
            self.accepted += 1
            self.last = frame_id
            # As of this frame. The reader may lose more before the next one, which we may never read.
            self.lost = self.consumer.lost

    def read_batch(self) -> None:
        for count in self.turns():
            frames = self.consumer.read_batch(count)
            if len(frames):
                self.take(frames, int(frames["frame_id"][0]))
                self.newest(int(frames["frame_id"][-1]))
            self.take_latest()

    def read_latest(self) -> None:
        while not self.ended.is_set():
            self.take_latest()

    def take_latest(self) -> None:
        frame = self.consumer.read_latest()
        if frame is not None:
            self.accepted += 1
            self.torn += is_torn(frame, frame.frame_id)
            self.newest(frame.frame_id)

    def view(self) -> None:
        for count in self.turns():
            with self.consumer.view(count) as view:
                first = int(view.frame_id[0]) if len(view) else 0
                torn = 0
                at = first
                for segment in view.segments:
                    torn += torn_frames(segment, at)
                    at += len(segment)
                if len(view) and view.valid():
                    self.accepted += len(view)
                    self.torn += torn
                    self.newest(at - 1)

    def newest(self, frame_id: int) -> None:
        """Checks that the newest frame never becomes older."""
        self.torn += frame_id < self.last
        self.last = frame_id
        self.lost = self.consumer.lost


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("mode", choices=["since", "follow", "batch", "latest", "view"])
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--status-s", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trusting", action="store_true")
    arguments = parser.parse_args()
    if arguments.trusting:
        trust_the_first_look()
    reader = Reader(arguments)
    reader.say()
    reader.listener.start()
    modes = {
        "since": reader.read_since,
        "follow": reader.follow,
        "batch": reader.read_batch,
        "latest": reader.read_latest,
        "view": reader.view,
    }
    modes[arguments.mode]()
    reader.listener.join()
    reader.say(done=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
