"""A small writer of rings, made from the byte table of docs/FRAME.md. It uses nothing of consumer.py."""

from __future__ import annotations

import json
import mmap
import os
import struct
import time
from pathlib import Path
from types import TracebackType
from typing import Any

MAGIC = 0x5048595349435300
HEADER_BYTES = 64
FRAME_BYTES = 4224

# The fields after `semantic`, in the order of the table.
PHYSICS = struct.Struct("<4f qQ 3i f 2i 2f 4f Q 2H I i I Q")
PHYSICS_NAMES = [
    "delta_time",
    "duration_ms",
    "velocity",
    "interrupt",
    "timestamp_us",
    "conversation_hash",
    "workflow_node",
    "case_status",
    "lead_status",
    "fill_rate",
    "actor_type",
    "intent_id",
    "sentiment",
    "confidence",
    "spin_w",
    "spin_x",
    "spin_y",
    "spin_z",
    "event_seq",
    "semantic_dim",
    "flags",
    "model_id",
    "type_id",
    "journal_id",
    "checksum",
]
assert PHYSICS.size == FRAME_BYTES - 4112


def physics(**values: Any) -> bytes:
    """The bytes after `semantic`. A field that is not given is 0; spin is the identity."""
    row: dict[str, Any] = dict.fromkeys(PHYSICS_NAMES, 0)
    row["spin_w"] = 1.0
    unknown = values.keys() - row.keys()
    assert not unknown, unknown
    row.update(values)
    return PHYSICS.pack(*row.values())


def whole_sequence(frame_id: int, capacity: int) -> int:
    return 2 * (frame_id // capacity + 1)


def frame_payload(frame_id: int, journal_id: int = 7) -> bytes:
    """A frame without its sequence. Every float is a function of the id, which shows torn frames."""
    value = float(frame_id % 1_000_003)
    return (
        struct.pack("<Q", frame_id)
        + struct.pack("<f", value) * 1024
        + physics(
            delta_time=value,
            duration_ms=value,
            velocity=value,
            interrupt=value,
            timestamp_us=1_700_000_000_000_000 + 1_000 * frame_id,
            fill_rate=value,
            sentiment=value,
            confidence=value,
            spin_w=value,
            spin_x=value,
            spin_y=value,
            spin_z=value,
            event_seq=frame_id + 5,
            semantic_dim=1024,
            flags=0b1111,
            model_id=3,
            intent_id=-1,
            type_id=-1,
            journal_id=journal_id,
        )
    )


def fmix32(x: int) -> int:
    x ^= x >> 16
    x = x * 0x85EBCA6B % 2**32
    x ^= x >> 13
    x = x * 0xC2B2AE35 % 2**32
    return x ^ x >> 16


FACTORS = [(fmix32(2 * k + 1) | 1, fmix32(2 * k + 2) | 1) for k in range(1050)]


def checksum(payload: bytes) -> int:
    """The checksum of a frame without its sequence. Flag bit 4 counts as 0, and a sum of 0 becomes 1."""
    words = list(struct.unpack_from("<1050I", payload, 8))
    words[(4202 - 16) // 4] &= ~(1 << 4 << 16)
    low = high = 0
    for word, (a, b) in zip(words, FACTORS):
        mixed = word ^ word >> 16
        low += mixed * a
        high += mixed * b
    return (high % 2**32 << 32 | low % 2**32) or 1


class RingWriter:
    """Publishes frames as the gateway does: tail, odd sequence, frame, even sequence, head."""

    def __init__(
        self,
        path: Path,
        capacity: int,
        *,
        head: int = 1,
        tail: int | None = None,
        epoch: int = 1,
        journal_id: int = 7,
        checksums: bool = False,
    ) -> None:
        self.path = Path(path)
        self.checksums = checksums
        self.capacity = capacity
        self.journal_id = journal_id
        self.head = head
        self.tail = head if tail is None else tail
        temporary = self.path.with_name(self.path.name + ".new")
        with temporary.open("wb+") as file:
            file.truncate(HEADER_BYTES + capacity * FRAME_BYTES)
            self.map = mmap.mmap(file.fileno(), 0)
        struct.pack_into(
            "<QIIQQQIIqII",
            self.map,
            0,
            MAGIC,
            1,
            FRAME_BYTES,
            capacity,
            self.head,
            self.tail,
            epoch,
            os.getpid(),
            int(time.time() * 1e6),
            0,
            1,
        )
        self._words = memoryview(self.map).cast("Q")
        self._halves = memoryview(self.map).cast("I")
        temporary.rename(self.path)

    def offset(self, frame_id: int) -> int:
        return HEADER_BYTES + frame_id % self.capacity * FRAME_BYTES

    def begin(self, frame_id: int) -> None:
        """Raises the tail above the frame that is overwritten, and marks the slot."""
        if frame_id - self.capacity >= self.tail:
            self.tail = frame_id - self.capacity + 1
            self._words[4] = self.tail
        self._words[self.offset(frame_id) // 8] = whole_sequence(frame_id, self.capacity) - 1

    def end(self, frame_id: int) -> None:
        self._words[self.offset(frame_id) // 8] = whole_sequence(frame_id, self.capacity)
        self.head = frame_id + 1
        self._words[3] = self.head

    def put(self, frame_id: int, payload: bytes) -> None:
        at = self.offset(frame_id) + 8
        if self.checksums:
            payload = payload[:4208] + struct.pack("<Q", checksum(payload))
        self.map[at : at + len(payload)] = payload

    def publish(self, count: int = 1, payload: bytes | None = None) -> None:
        for _ in range(count):
            frame_id = self.head
            self.begin(frame_id)
            self.put(frame_id, frame_payload(frame_id, self.journal_id) if payload is None else payload)
            self.end(frame_id)

    def publish_fields(self, semantic: bytes = b"", **values: Any) -> None:
        """Publishes one frame with these fields."""
        values.setdefault("journal_id", self.journal_id)
        self.publish(payload=struct.pack("<Q", self.head) + semantic.ljust(4096, b"\0") + physics(**values))

    def sequence(self, frame_id: int, value: int) -> None:
        self._words[self.offset(frame_id) // 8] = value

    @property
    def waiters(self) -> int:
        return self._halves[14]

    @waiters.setter
    def waiters(self, value: int) -> None:
        self._halves[14] = value

    @property
    def epoch(self) -> int:
        return self._halves[10]

    @epoch.setter
    def epoch(self, value: int) -> None:
        self._halves[10] = value

    def state(self, value: int) -> None:
        self._halves[15] = value

    def heartbeat(self, age_s: float = 0.0) -> None:
        struct.pack_into("<q", self.map, 48, int((time.time() - age_s) * 1e6))

    def labels(self, content: Any) -> None:
        temporary = self.path.with_name("labels.new")
        temporary.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        temporary.rename(f"{self.path}.json")

    def __enter__(self) -> RingWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._words.release()
        self._halves.release()
        self.map.close()
