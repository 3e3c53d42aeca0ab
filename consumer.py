#!/usr/bin/env python3
# /// script
# requires-python = ">=3.9"
# dependencies = ["numpy>=1.24"]
# ///
"""Reads the frames of the One-File Event Gateway from shared memory, as numpy arrays or torch tensors.

    from consumer import PhysicsConsumer

    with PhysicsConsumer() as consumer:
        for frame in consumer.follow():
            print(frame.semantic[:3], frame.sentiment, frame.intent_label)

On another machine ``PhysicsConsumer(url="http://host:9382", token=...)`` reads the same frames over HTTP.

This one file needs numpy and nothing else; it imports torch only to make tensors. docs/FRAME.md describes
the format byte for byte. The command line: ``python consumer.py --help``.

Every read is validated: a frame that the writer is changing is never returned. A reader cannot delay the
writer; a reader that is too slow loses the oldest frames, and learns exactly how many.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import http.client
import io
import json
import logging
import math
import mmap
import os
import platform
import socket
import stat
import struct
import sys
import threading
import time
import urllib.parse
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Protocol, Union

try:
    import numpy as np
    import numpy.typing as npt
except ImportError as missing:
    if __name__ == "__main__":
        sys.exit("consumer: numpy is not installed; run: python3 -m pip install numpy")
    raise ImportError("consumer.py needs numpy: python3 -m pip install numpy") from missing

if TYPE_CHECKING:
    import torch  # type: ignore[import-not-found, unused-ignore]

__all__ = [
    "FRAME_DTYPE",
    "HEADER_DTYPE",
    "KINETICS_COLUMNS",
    "ConsumerError",
    "Frame",
    "Frames",
    "GatewayUnreachableError",
    "Labels",
    "MixedModelsWarning",
    "PhysicsConsumer",
    "RingEvent",
    "RingMissingError",
    "View",
]

# --- the layout: generated from src/frame.ts by scripts/generate.ts, do not edit ---
MAGIC = 0x5048595349435300
VERSION = 1
HEADER_BYTES = 64
FRAME_BYTES = 4224
SEMANTIC_DIM_MAX = 1024
STATE_RUNNING = 1
STATE_CLOSED = 2
STATE_SUPERSEDED = 3
FLAG_SEMANTIC = 1
FLAG_INTENT = 2
FLAG_SENTIMENT = 4
FLAG_CONVERSATION = 8
FLAG_REFILLED = 16
FLAG_FIRST = 32

# name, format, elements; the comment is the offset in bytes
HEADER_DTYPE: np.dtype[np.void] = np.dtype(
    [
        ("magic", "<u8"),  # 0
        ("version", "<u4"),  # 8
        ("frame_size", "<u4"),  # 12
        ("capacity", "<u8"),  # 16
        ("head", "<u8"),  # 24
        ("tail", "<u8"),  # 32
        ("epoch", "<u4"),  # 40
        ("writer_pid", "<u4"),  # 44
        ("heartbeat_us", "<i8"),  # 48
        ("waiters", "<u4"),  # 56
        ("state", "<u4"),  # 60
    ]
)
FRAME_DTYPE: np.dtype[np.void] = np.dtype(
    [
        ("sequence", "<u8"),  # 0
        ("frame_id", "<u8"),  # 8
        ("semantic", "<f4", (1024,)),  # 16
        ("delta_time", "<f4"),  # 4112
        ("duration_ms", "<f4"),  # 4116
        ("velocity", "<f4"),  # 4120
        ("interrupt", "<f4"),  # 4124
        ("timestamp_us", "<i8"),  # 4128
        ("conversation_hash", "<u8"),  # 4136
        ("workflow_node", "<i4"),  # 4144
        ("case_status", "<i4"),  # 4148
        ("lead_status", "<i4"),  # 4152
        ("fill_rate", "<f4"),  # 4156
        ("actor_type", "<i4"),  # 4160
        ("intent_id", "<i4"),  # 4164
        ("sentiment", "<f4"),  # 4168
        ("confidence", "<f4"),  # 4172
        ("spin", "<f4", (4,)),  # 4176
        ("event_seq", "<u8"),  # 4192
        ("semantic_dim", "<u2"),  # 4200
        ("flags", "<u2"),  # 4202
        ("model_id", "<u4"),  # 4204
        ("type_id", "<i4"),  # 4208
        ("journal_id", "<u4"),  # 4212
        ("checksum", "<u8"),  # 4216
    ]
)


class _FrameFields:
    """The fields of one frame. Every float is finite.

    sequence: SeqLock: 2·(⌊i / capacity⌋ + 1) when frame i is whole, that − 1 while it is written; lower than
        expected: not yet, higher: lapped
    frame_id: i, from 1, without gaps
    semantic: embedding, L2-normalised, zero-padded past semantic_dim
    delta_time: ln(max(dt, 0.001)), dt in seconds since the conversation's previous event; 0 with flag bit 5
    duration_ms: from receipt to the decision, in ms
    velocity: the conversation's events in the 60 s up to this one, itself included: messages a minute
    interrupt: 1.0 if it was received before the conversation's previous event was decided, else 0.0
    timestamp_us: the event's own timestamp if it has one, else the time of its receipt, Unix µs
    conversation_hash: first 8 bytes (little endian) of SHA-256 of the conversation id, UTF-8; 0 without a
        conversation
    workflow_node: from the event, else −1
    case_status: 0 new, 1 open, 2 pending, 3 resolved, 4 closed; from the event, else 0
    lead_status: 0 cold, 1 warm, 2 hot, 3 converted, 4 lost; from the event, else 0
    fill_rate: share of the learned schema's fields that this event fills, 0 to 1 (0 until there are schemas)
    actor_type: 0 system, 1 human, 2 agent, 3 tool; from the event, else human if there is a message, else
        system
    intent_id: first 4 bytes (little endian) of SHA-256 of the label & 0x7fffffff, else −1
    sentiment: −1 to 1; 0 if unknown (see flags)
    confidence: of the intent, 0 to 1
    spin: unit quaternion (w, x, y, z): a fixed seeded projection of the embedding; the identity without one
    event_seq: the event's number in journal and DuckDB: the join key
    semantic_dim: leading floats of semantic that carry the model's vector
    flags: bit 0 semantic present, 1 intent, 2 sentiment, 3 conversation, 4 refilled after a restart, 5 first
        event of its conversation (or the earlier ones are forgotten)
    model_id: 0 without vector, else first 4 bytes (little endian) of SHA-256 of the embedder's name,
        precision and pooling included
    type_id: like intent_id, of the event type; −1 for UnknownEvent
    journal_id: the journal that event_seq is from
    checksum: of bytes 16 to 4215, for readers on weakly ordered processors; 0: none
    """

    __slots__ = ()

    sequence: int
    frame_id: int
    semantic: npt.NDArray[np.float32]
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
    spin: npt.NDArray[np.float32]
    event_seq: int
    semantic_dim: int
    flags: int
    model_id: int
    type_id: int
    journal_id: int
    checksum: int


class _FrameColumns:
    """The same fields of n frames: (n,) each, ``semantic`` (n, 1024), ``spin`` (n, 4)."""

    sequence: npt.NDArray[np.uint64]
    frame_id: npt.NDArray[np.uint64]
    semantic: npt.NDArray[np.float32]
    delta_time: npt.NDArray[np.float32]
    duration_ms: npt.NDArray[np.float32]
    velocity: npt.NDArray[np.float32]
    interrupt: npt.NDArray[np.float32]
    timestamp_us: npt.NDArray[np.int64]
    conversation_hash: npt.NDArray[np.uint64]
    workflow_node: npt.NDArray[np.int32]
    case_status: npt.NDArray[np.int32]
    lead_status: npt.NDArray[np.int32]
    fill_rate: npt.NDArray[np.float32]
    actor_type: npt.NDArray[np.int32]
    intent_id: npt.NDArray[np.int32]
    sentiment: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32]
    spin: npt.NDArray[np.float32]
    event_seq: npt.NDArray[np.uint64]
    semantic_dim: npt.NDArray[np.uint16]
    model_id: npt.NDArray[np.uint32]
    type_id: npt.NDArray[np.int32]
    journal_id: npt.NDArray[np.uint32]
    checksum: npt.NDArray[np.uint64]


# --- end of the layout ---

KINETICS_COLUMNS = (
    "delta_time",
    "duration_ms",
    "velocity",
    "interrupt",
    "age_s",
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
)
"""The columns of :meth:`Frames.kinetics`."""

UNKNOWN_EVENT = "UnknownEvent"
"""The type of an event that was sent without one; its type_id is -1."""

STALLED_AFTER_S = 5.0
_STILL_S = 1.5  # writers refresh the heartbeat at least once a second
_AHEAD_S = 1.0  # a heartbeat so far ahead of the wall clock was written before that stepped back
_SETTLE_EVERY_S = 0.05
_LOOK_EVERY_S = 0.25  # how often a reader checks the path, the heartbeat and the epoch
_STRANGER_PATIENCE_S = 5.0  # if its file is replaced, the gateway puts its ring back within a second
_SPIN_S = 50e-6  # about the cost of a futex wake: for a shorter wait, sleeping is not worth it
_POLL_MIN_S = 50e-6
_POLL_MAX_S = 2e-3
_FOLLOW_BATCH = 64  # follow() copies this many frames at once: 270 KB
_ATTEMPTS = 64
# bound: the reader's labels, from the file beside the ring or over HTTP | no new labels are read
_LABELS_MAX_BYTES = 64 * 1024 * 1024
_FEW_FRAMES = 16  # below this a loop over the frames is quicker than numpy's operations
_REUSED_FRAMES_MIN = 16  # the allocator is quicker for smaller copies
# bound: the reader's buffers that are used again for copies | the oldest is forgotten
_REUSED_BUFFERS_MAX = 8
# bound: the reader's memory that is used again for copies | the oldest is forgotten
_REUSED_BYTES_MAX = 64 * 1024 * 1024
# bound: the reader waits for a connection and headers, or for more of a body | the gateway is unreachable
_HTTP_TIMEOUT_S = 10.0
# bound: the reader waits for a whole response | the gateway counts as unreachable
_HTTP_DEADLINE_S = 60.0
# bound: frames that the reader asks for in one request, 4.2 MB | the rest comes with the next request
_HTTP_PAGE_FRAMES = 1_000
# bound: the reader's pause between two polls while frames come | it doubles up to the longest
_HTTP_POLL_MIN_S = 5e-3
# bound: the reader's longest pause between two polls | it polls again
_HTTP_POLL_MAX_S = 0.25
# bound: the reader's pause after a failed request | it doubles up to the longest
_HTTP_RETRY_MIN_S = 0.05
# bound: the reader's longest pause after a failed request, if the gateway asks for none | it tries again
_HTTP_RETRY_MAX_S = 2.0
# bound: the longest `retry-after` that the reader respects | it tries again
_HTTP_RETRY_AFTER_MAX_S = 300.0
# bound: the headers of a response that the reader reads | the connection is closed, the response is an error
_HTTP_HEAD_BYTES_MAX = 128 * 1024
# bound: the body of a refusal that the reader reads | the connection is closed, the response is an error
_HTTP_PROBLEM_BYTES_MAX = 64 * 1024
_HTTP_LABELS_EVERY_S = 1.0
_HEAD_MAX = 2**53 - 1  # the gateway counts in float64, which holds every integer up to this one
_HTTP_AFTER_ALL = 2**53 - 1  # the largest id that a request may name
_RAW_FRAMES_TYPE = "application/vnd.cs-physics.frames"
_STRONGLY_ORDERED = frozenset(("x86_64", "amd64", "i386", "i486", "i586", "i686", "x86"))

StartPosition = Union[str, int, tuple[int, int]]
EventHandler = Callable[["RingEvent"], None]

_log = logging.getLogger("consumer")


class ConsumerError(Exception):
    """A ring or gateway cannot be read. The text is one line: what failed, where, and what to do next."""


class RingMissingError(ConsumerError):
    """No file exists at the ring's path (yet)."""


class GatewayUnreachableError(ConsumerError):
    """The gateway does not respond over HTTP, or responds that it cannot serve now; a later try may succeed.

    ``retry_after_s``: how many seconds the gateway asks to wait, 0 to 300; 0 if it names no time.
    """

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class MixedModelsWarning(UserWarning):
    """A batch has vectors of more than one embedding model, and distances across models mean nothing."""


class RingEvent(NamedTuple):
    """Something that happened to the ring, or between it and this reader.

    ``kind`` is one of:

    - ``restarted``: the gateway has restarted on the same ring; frame ids go on
    - ``replaced``: another file is at the path now, and the reader follows that one
    - ``journal_changed``: the ring now has the frames of another journal, whose ids start over
    - ``closed``: the gateway was shut down
    - ``stalled``: no heartbeat for 5 s, whatever the wall clock does
    - ``resumed``: the heartbeat is back
    - ``lost``: ``lost`` frames were overwritten before the reader could read them
    - ``damaged``: the reader left out ``lost`` frames that stayed unreadable (wrong sequence, id or checksum)
    - ``unreachable``: the gateway does not respond over HTTP; the reader tries again until it does
    - ``reachable``: the gateway responds again
    """

    kind: str
    message: str
    lost: int = 0


def default_path() -> str:
    """The ring's path: ``CS_PHYSICS_PATH`` if it is set, else the gateway's default on this system."""
    chosen = os.environ.get("CS_PHYSICS_PATH")
    if chosen:
        return chosen
    return "/tmp/cs_physics" if sys.platform == "darwin" else "/dev/shm/cs_physics"


class Labels:
    """The texts of intent, type and model ids, from the file beside the ring.

    An id that is not known yet makes the reader read the file again, but only if the file has changed. A
    reader over HTTP asks the gateway instead, at most once a second.
    """

    def __init__(self, ring_path: str) -> None:
        self.path = Path(ring_path + ".json")
        self._intents: dict[int, str] = {}
        self._types: dict[int, str] = {}
        self._models: dict[int, str] = {}
        self._seen: tuple[int, int, int] | None = None

    def intent(self, intent_id: int) -> str | None:
        """The intent's label; None if the event has no intent, or the label is not known."""
        return None if intent_id < 0 else self._find(self._intents, intent_id)

    def type(self, type_id: int) -> str | None:
        """The event type's label; ``UnknownEvent`` for -1; None if the label is not known."""
        return UNKNOWN_EVENT if type_id < 0 else self._find(self._types, type_id)

    def model(self, model_id: int) -> str | None:
        """The embedder's full name; None for 0, which means no vector, or if the name is not known."""
        return None if model_id == 0 else self._find(self._models, model_id)

    def _of(self, frames: npt.NDArray[np.void] | np.void) -> _KnownLabels:
        """The labels of these frames alone."""
        known = _KnownLabels(self.path)
        for name, texts, look_up in (
            ("intent_id", known._intents, self.intent),
            ("type_id", known._types, self.type),
            ("model_id", known._models, self.model),
        ):
            for key in np.unique(frames[name]).tolist():
                text = look_up(key)
                if text is not None:
                    texts[key] = text
        return known

    def _find(self, known: dict[int, str], key: int) -> str | None:
        label = known.get(key)
        if label is None and self._refresh():
            label = known.get(key)
        return label

    def _refresh(self) -> bool:
        content = self._changed()
        if not isinstance(content, dict):
            return False
        self._intents.update(_texts_by_id(content.get("intents")))
        self._types.update(_texts_by_id(content.get("types")))
        self._models.update(_texts_by_id(content.get("models")))
        return True

    def _changed(self) -> object:
        """The file's content if it has changed since the last read; None if it has not, or cannot be read."""
        try:
            status = self.path.stat()
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen == self._seen or not stat.S_ISREG(status.st_mode):
                return None
            # O_NONBLOCK: a named pipe that has just replaced the file must not make the reader hang.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                content: object = json.loads(file.read(_LABELS_MAX_BYTES))
            # If the file was replaced after the stat, the next unknown id reads it once more.
            self._seen = seen
            return content
        except (OSError, ValueError, RecursionError):
            # Labels are a convenience: reading frames does not need them.
            return None


class _KnownLabels(Labels):
    """Labels that are complete: those of frames that were sent to another process, or saved."""

    def __init__(self, path: Path) -> None:
        super().__init__("")
        self.path = path

    def _changed(self) -> object:
        return None


def _texts_by_id(section: object) -> dict[int, str]:
    """Texts by id, from ``{"ID": "label"}`` or ``{"ID": {"name": "label"}}``; skips malformed entries."""
    texts: dict[int, str] = {}
    if isinstance(section, dict):
        for key, value in section.items():
            text = value.get("name") if isinstance(value, dict) else value
            if isinstance(text, str) and key.isdecimal() and len(key) <= 10:
                texts[int(key)] = text
    return texts


class Frame(_FrameFields):
    """A copy of one frame: its fields are attributes, and properties look up its labels.

    Numbers are Python's int and float; ``semantic`` is (1024,) float32 and ``spin`` (4,) float32.
    ``flags`` says what is known: without ``FLAG_SENTIMENT`` a sentiment of 0 means unknown, not neutral.
    """

    __slots__ = ("_labels", "_row")

    def __init__(self, row: np.void, labels: Labels | None = None) -> None:
        self._row = row
        self._labels = labels

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            if name.startswith("_"):
                raise AttributeError(name)
            try:
                value = self._row[name]
            except ValueError:
                raise AttributeError(f"a frame has no field {name!r}") from None
            return value if isinstance(value, np.ndarray) else value.item()

    def __getitem__(self, name: str) -> Any:
        """The field as a numpy value: ``frame["sentiment"]`` is a ``np.float32``."""
        return self._row[name]

    @property
    def intent_label(self) -> str | None:
        """The intent's label; None if the event has no intent, or the label is not known."""
        return None if self._labels is None else self._labels.intent(self.intent_id)

    @property
    def type_label(self) -> str | None:
        """The event type's label; ``UnknownEvent`` for an event without a type; None if it is not known."""
        return None if self._labels is None else self._labels.type(self.type_id)

    @property
    def model_name(self) -> str | None:
        """The embedder's full name; None if the frame has no vector, or the name is not known."""
        return None if self._labels is None else self._labels.model(self.model_id)

    def to_dict(self) -> dict[str, Any]:
        """The fields and labels as JSON types, like an element of ``/api/frames``.

        64-bit numbers are decimal strings, because many JSON readers round them.
        """
        values: dict[str, Any] = {}
        for name in _JSON_FIELDS:
            value = self._row[name].tolist()
            values[name] = str(value) if name in _WIDE_FIELDS else value
        values["intent_label"] = self.intent_label
        values["type_label"] = self.type_label
        return values

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process can read neither this reader's file of labels nor its gateway.
        return Frame, (self._row, None if self._labels is None else self._labels._of(self._row))

    def __copy__(self) -> Frame:
        return Frame(self._row, self._labels)

    def __deepcopy__(self, memo: dict[int, Any]) -> Frame:
        return Frame(self._row.copy(), self._labels)

    def __repr__(self) -> str:
        return f"Frame(frame_id={self.frame_id}, event_seq={self.event_seq}, type={self.type_label!r})"


_TensorTable = dict[str, tuple[tuple[int, ...], str]]

# The tensors of a batch, by name: the shape of one frame's part, and the type.
_TENSORS: _TensorTable = {
    "semantic": ((SEMANTIC_DIM_MAX,), "<f4"),
    "kinetics": ((len(KINETICS_COLUMNS),), "<f4"),
    "timestamp_us": ((), "<i8"),
    "event_seq": ((), "<i8"),
    "intent_id": ((), "<i8"),
    "flags": ((), "<i4"),
}
_DATASET_TENSORS: _TensorTable = {**_TENSORS, "frame_id": ((), "<i8"), "model_id": ((), "<i8")}


def _torch() -> Any:
    try:
        import torch
    except ImportError as missing:
        raise ConsumerError(
            "consumer: torch is not installed; run: python3 -m pip install torch "
            "(or, on Debian: apt install python3-torch)"
        ) from missing
    return torch


@contextlib.contextmanager
def _device_errors(device: str) -> Iterator[None]:
    """Turns torch's error about a device that it cannot use into a one-line ConsumerError."""
    try:
        yield
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConsumerError(f"consumer: torch cannot use the device {device!r}: {reason}") from error


_JSON_FIELDS = FRAME_DTYPE.names or ()
_WIDE_FIELDS = frozenset(
    name for name in _JSON_FIELDS if FRAME_DTYPE[name] in (np.dtype("<u8"), np.dtype("<i8"))
)


class Frames(_FrameColumns, np.ndarray[Any, np.dtype[np.void]]):
    """n frames in ascending order of ``frame_id``, without gaps: a structured array of ``FRAME_DTYPE``.

    A column by its name, ``frames["sentiment"]`` or ``frames.sentiment``, is a plain array: (n,), but
    ``semantic`` is (n, 1024) float32 and ``spin`` (n, 4) float32. The one exception is ``frames.flags``,
    which means what it means on every numpy array; the frames' flags are ``frames["flags"]``. One element
    is a :class:`Frame`, a slice is again Frames.
    """

    lost: int
    """How many frames just before the first one were overwritten before this call could read them."""

    _labels: Labels | None

    def __new__(cls, rows: npt.ArrayLike, *, lost: int = 0, labels: Labels | None = None) -> Frames:
        """Frames over `rows`, (n,) of ``FRAME_DTYPE``, without a copy."""
        frames: Frames = np.asarray(rows, dtype=FRAME_DTYPE).view(cls)
        frames.lost = lost
        frames._labels = labels
        return frames

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview, *, labels: Labels | None = None) -> Frames:
        """Frames from n x 4,224 bytes, as ``/api/frames`` sends them. The result is a writable copy.

        :raises ConsumerError: if the length is not a multiple of 4,224 bytes.
        """
        if len(data) % FRAME_BYTES:
            raise ConsumerError(
                f"consumer: {len(data)} bytes are not a whole number of frames of {FRAME_BYTES}"
            )
        return cls(np.frombuffer(bytearray(data), dtype=FRAME_DTYPE), labels=labels)

    def __array_finalize__(self, source: npt.NDArray[Any] | None) -> None:
        self.lost = 0
        self._labels = source._labels if isinstance(source, Frames) else None

    @classmethod
    def _over(cls, rows: npt.NDArray[np.void], labels: Labels | None) -> Frames:
        """What ``Frames(rows, labels=labels)`` returns for an array of ``FRAME_DTYPE``, in half the time."""
        frames: Frames = rows.view(cls)
        frames._labels = labels
        return frames

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self.dtype != FRAME_DTYPE:
            return super().__reduce_ex__(protocol)
        rows = self.view(np.ndarray)
        return _frames_of, (rows, self.lost, None if self._labels is None else self._labels._of(rows))

    def copy(self, order: Any = "C") -> Frames:
        """A copy with memory of its own, the labels and ``lost``."""
        copied: Frames = super().copy(order)
        copied.lost = self.lost
        return copied

    def __copy__(self) -> Frames:
        return self.copy("K")

    def __deepcopy__(self, memo: Any) -> Frames:
        return self.copy("K")

    def __getitem__(self, key: Any) -> Any:
        value = self.view(np.ndarray)[key]
        if isinstance(value, np.void) and value.dtype == FRAME_DTYPE:
            return Frame(value, self._labels)
        if isinstance(value, np.ndarray) and value.dtype == FRAME_DTYPE:
            return Frames(value, labels=self._labels)
        return value

    def __iter__(self) -> Iterator[Frame]:  # type: ignore[override, unused-ignore]
        for row in self.view(np.ndarray):
            yield Frame(row, self._labels)

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            if name in FRAME_DTYPE.fields:
                return self.view(np.ndarray)[name]
            raise AttributeError(f"Frames have no attribute {name!r}")

    @property
    def intent_label(self) -> npt.NDArray[np.object_]:
        """(n,) of str or None."""
        return self._label_column("intent_id", Labels.intent)

    @property
    def type_label(self) -> npt.NDArray[np.object_]:
        """(n,) of str or None; ``UnknownEvent`` for an event sent without a type."""
        return self._label_column("type_id", Labels.type)

    def _label_column(
        self, name: str, look_up: Callable[[Labels, int], str | None]
    ) -> npt.NDArray[np.object_]:
        column = np.empty(len(self), dtype=np.object_)
        if self._labels is not None:
            ids, where = np.unique(self[name], return_inverse=True)
            labels = np.empty(len(ids), dtype=np.object_)
            labels[:] = [look_up(self._labels, int(one)) for one in ids]
            column[:] = labels[where.reshape(-1)]
        return column

    @property
    def model_ids(self) -> tuple[int, ...]:
        """The distinct model ids of the vectors, ascending; frames without a vector (0) do not count."""
        return tuple(int(one) for one in np.unique(self["model_id"]) if one)

    @property
    def mixed_models(self) -> bool:
        """Whether the vectors are of more than one model; distances across models mean nothing."""
        column = self["model_id"]
        # Nearly every batch has one model, which this comparison sees without sorting.
        return bool((column != column[:1]).any()) and len(self.model_ids) > 1

    def _mixture(self) -> str | None:
        """One line that names the models if there is more than one; else None."""
        if not self.mixed_models:
            return None
        look_up = self._labels.model if self._labels is not None else (lambda _: None)
        names = [look_up(one) or f"id {one}" for one in self.model_ids]
        return (
            f"frames {self['frame_id'][0]} to {self['frame_id'][-1]} have vectors of {len(names)} models: "
            f"{', '.join(names)}; compare vectors of one model only (model_id)"
        )

    def _warn_of_mixture(self, stacklevel: int) -> None:
        mixture = self._mixture()
        if mixture is not None:
            warnings.warn(f"consumer: {mixture}", MixedModelsWarning, stacklevel=stacklevel + 1)

    def kinetics(self) -> npt.NDArray[np.float32]:
        """(n, 17) float32, the columns of ``KINETICS_COLUMNS``.

        ``age_s`` is the time in seconds from the frame's ``timestamp_us`` to that of the newest frame of this
        batch: 0 for the newest, and negative if a sender's clock is ahead. float32 rounds ids above 2**24;
        the column ``intent_id`` of the frames has the exact id.
        """
        table = np.empty((len(self), len(KINETICS_COLUMNS)), dtype=np.float32)
        self._fill_kinetics(table)
        return table

    def _fill_kinetics(self, table: npt.NDArray[np.float32]) -> None:
        for index, name in enumerate(KINETICS_COLUMNS):
            if name == "age_s":
                time_us = self["timestamp_us"].astype(np.float64)
                table[:, index] = (time_us[-1:] - time_us) / 1e6
            elif name.startswith("spin_"):
                table[:, index] = self["spin"][:, "wxyz".index(name[-1])]
            else:
                table[:, index] = self[name]

    def tensors(self, device: str | None = None) -> dict[str, torch.Tensor]:
        """The frames as torch tensors on `device`; None means the CPU. CUDA copies go through pinned memory.

        ``semantic`` (n, 1024) float32, ``kinetics`` (n, 17) float32, ``timestamp_us``, ``event_seq`` and
        ``intent_id`` (n,) int64, ``flags`` (n,) int32. A batch with vectors of several models raises a
        :class:`MixedModelsWarning`. For a tensor without a copy: ``torch.from_dlpack(frames.semantic)``.

        :raises ConsumerError: if torch is not installed, or cannot use the device.
        """
        self._warn_of_mixture(stacklevel=2)
        return self._tensors(_TENSORS, device)

    def _tensors(self, wanted: _TensorTable, device: str | None) -> dict[str, torch.Tensor]:
        torch = _torch()
        columns = {name: np.empty((len(self), *shape), dtype) for name, (shape, dtype) in wanted.items()}
        self._fill(columns)
        tensors = {name: torch.from_numpy(column) for name, column in columns.items()}
        if device is None:
            return tensors
        with _device_errors(device):
            if torch.device(device).type == "cuda":
                tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
            return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}

    def _fill(self, columns: dict[str, npt.NDArray[Any]]) -> None:
        """Writes the columns, by the names of the tensors, into existing arrays."""
        for name, column in columns.items():
            if name == "kinetics":
                self._fill_kinetics(column)
            else:
                column[...] = self[name]

    def __repr__(self) -> str:
        if self.dtype != FRAME_DTYPE or self.ndim != 1:
            return repr(self.view(np.ndarray))
        span = f", {self['frame_id'][0]} to {self['frame_id'][-1]}" if len(self) else ""
        return f"Frames({len(self)}{span}, lost={self.lost})"

    __str__ = __repr__


def _frames_of(rows: npt.NDArray[np.void], lost: int, labels: Labels | None) -> Frames:
    return Frames(rows, lost=lost, labels=labels)


def _unsendable(what: str, instead: str) -> TypeError:
    return TypeError(
        f"consumer: {what} belongs to one process and can be neither copied nor pickled; {instead}"
    )


_Rows = npt.NDArray[np.void]


def _at(name: str) -> int:
    """The offset of a header field in bytes."""
    fields = HEADER_DTYPE.fields
    assert fields is not None
    return fields[name][1]


_HEAD_U64 = _at("head") // 8
_TAIL_U64 = _at("tail") // 8
_EPOCH_U32 = _at("epoch") // 4
_PID_U32 = _at("writer_pid") // 4
_STATE_U32 = _at("state") // 4
_HEARTBEAT_I64 = _at("heartbeat_us") // 8
_STATE_NAMES = {STATE_RUNNING: "running", STATE_CLOSED: "closed", STATE_SUPERSEDED: "superseded"}


def _fmix32(value: int) -> int:
    """The finaliser of MurmurHash3 (32 bits), by Austin Appleby."""
    value ^= value >> 16
    value = value * 0x85EBCA6B & 0xFFFFFFFF
    value ^= value >> 13
    value = value * 0xC2B2AE35 & 0xFFFFFFFF
    return value ^ value >> 16


_CHECKED_WORDS = (FRAME_BYTES - 16 - 8) // 4  # without sequence, frame_id and the checksum itself
_FLAGS_WORD = (4202 - 16) // 4
_REFILLED_BIT = np.uint32(FLAG_REFILLED << 16)  # the flags are the upper half of their word
_CHECKSUM_FACTORS = tuple(
    np.array([_fmix32(2 * k + odd) | 1 for k in range(_CHECKED_WORDS)], dtype=np.uint32) for odd in (1, 2)
)


def _checksums(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """The checksum of each frame, as docs/FRAME.md defines it: (n, 4224) bytes to (n,) uint64."""
    words = frames.view("<u4")
    sums = np.empty(len(words), dtype=np.uint64)
    for at in range(0, len(words), 64):  # the temporaries of 64 frames fit the cache
        content = words[at : at + 64, 4 : 4 + _CHECKED_WORDS]
        mixed = content >> np.uint32(16)
        mixed ^= content
        # A frame that the gateway refilled after a restart keeps its checksum.
        flags = content[:, _FLAGS_WORD] & ~_REFILLED_BIT
        mixed[:, _FLAGS_WORD] = flags ^ (flags >> np.uint32(16))
        low, high = (np.einsum("ij,j->i", mixed, factors) for factors in _CHECKSUM_FACTORS)
        sums[at : at + 64] = high.astype(np.uint64) << np.uint64(32) | low
    # 0 in a frame means that it has no checksum.
    sums[sums == 0] = 1
    return sums


def _intact(frames: npt.NDArray[np.uint8], low: int) -> npt.NDArray[np.bool_]:
    """Whether each frame has its id, counted from `low`, and a fitting checksum or none: (n,) bool."""
    rows = frames.view("<u8")
    intact: npt.NDArray[np.bool_] = rows[:, 1] == np.arange(low, low + len(rows), dtype=np.uint64)
    stored = rows[:, -1]
    if stored.any():
        intact &= (stored == 0) | (stored == _checksums(frames))
    return intact


def _every(valid: npt.NDArray[np.bool_]) -> bool:
    """``valid.all()``, in a tenth of the time."""
    return np.count_nonzero(valid) == len(valid)


class _Buffers:
    """Memory for copies, used again as soon as nothing refers to it any more.

    The kernel gives fresh memory of this size page by page, which takes a good part of the time of a copy.
    """

    def __init__(self) -> None:
        self._arrays: deque[npt.NDArray[np.uint8]] = deque()
        # The count of a buffer that only one variable refers to, plus whatever this interpreter adds.
        lone = np.empty(0, dtype=np.uint8)
        self._unshared = sys.getrefcount(lone) if hasattr(sys, "getrefcount") else -1

    def take(self, count: int) -> npt.NDArray[np.uint8]:
        """(count, 4224) bytes that nothing else refers to."""
        if count < _REUSED_FRAMES_MIN or self._unshared < 0:
            return np.empty((count, FRAME_BYTES), dtype=np.uint8)
        for _ in range(len(self._arrays)):
            # While a buffer is out of the queue, no other thread can find it.
            try:
                array = self._arrays.popleft()
            except IndexError:
                break
            # A much larger one does not fit: a small batch that the caller keeps would keep all of it.
            fits = count <= len(array) <= 2 * count
            taken = array[:count] if fits and sys.getrefcount(array) == self._unshared else None
            self._arrays.append(array)
            if taken is not None:
                return taken
        made = np.empty((count, FRAME_BYTES), dtype=np.uint8)
        taken = made[:]
        if made.nbytes <= _REUSED_BYTES_MAX:
            self._arrays.append(made)
            # The oldest are forgotten, not freed: arrays over them stay valid.
            while len(self._arrays) > _REUSED_BUFFERS_MAX or self._kept_bytes() > _REUSED_BYTES_MAX:
                with contextlib.suppress(IndexError):
                    self._arrays.popleft()
        return taken

    def _kept_bytes(self) -> int:
        return sum(array.nbytes for array in tuple(self._arrays))


class _Ring:
    """One mapped ring file: its counters, and validated copies of its frames.

    It has no close(): the mapping ends when the last array over it is freed, so that no view can dangle.
    """

    def __init__(self, path: str, descriptor: int, verify: bool) -> None:
        status = os.fstat(descriptor)
        self.path = path
        self.verify = verify
        self.inode = (status.st_dev, status.st_ino)
        self.capacity = _check_header(path, descriptor, status)
        try:
            mapping = mmap.mmap(
                descriptor, HEADER_BYTES + self.capacity * FRAME_BYTES, access=mmap.ACCESS_READ
            )
        except (OSError, OverflowError, ValueError) as error:
            raise ConsumerError(f"consumer: cannot map {path}: {error}") from error
        everything = memoryview(mapping)
        header = everything[:HEADER_BYTES]
        # Indexing a cast memoryview is one aligned load, so a counter is never read in halves.
        self._memory = everything
        self._u64 = everything.cast("Q")
        self._i64 = header.cast("q")
        self._u32 = header.cast("I")
        self.rows: _Rows = np.frombuffer(mapping, dtype=FRAME_DTYPE, count=self.capacity, offset=HEADER_BYTES)
        self._sequences: npt.NDArray[np.uint64] = self.rows["sequence"]
        # The same memory as bytes, because numpy copies a structured array field by field.
        self._bytes: npt.NDArray[np.uint8] = np.frombuffer(
            mapping, dtype=np.uint8, count=self.capacity * FRAME_BYTES, offset=HEADER_BYTES
        ).reshape(self.capacity, FRAME_BYTES)
        self._buffers = _Buffers()
        self.check()
        self._bell = _Bell.over(path, self.inode)
        self._beat_us = self.heartbeat_us
        self._beat_seen = time.monotonic()

    @classmethod
    def open(cls, path: str, verify: bool | None = None) -> _Ring:
        """Maps the ring at `path`. `verify`: whether to check checksums; None: on all processors but x86.

        :raises RingMissingError: if no file exists there.
        :raises ConsumerError: if the file is not a ring of this version, or may not be read.
        """
        if sys.byteorder != "little":
            raise ConsumerError("consumer: only a little-endian machine can map a ring, and this one is not")
        try:
            # O_NONBLOCK: a named pipe at the path must not make the reader hang.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise RingMissingError(
                f"consumer: no ring at {path}; start the gateway, "
                "or say where its ring is (--path, CS_PHYSICS_PATH)"
            ) from error
        except PermissionError as error:
            raise ConsumerError(
                f"consumer: may not read {path}; run as the gateway's user, "
                "or start the gateway with another --ring-mode"
            ) from error
        except (OSError, ValueError) as error:
            raise ConsumerError(f"consumer: cannot open {path!r}: {_reason(error)}") from error
        try:
            if verify is None:
                verify = platform.machine().lower() not in _STRONGLY_ORDERED
            return cls(path, descriptor, verify)
        finally:
            os.close(descriptor)

    # Counters

    @property
    def head(self) -> int:
        return self._u64[_HEAD_U64]

    @property
    def tail(self) -> int:
        return self._u64[_TAIL_U64]

    @property
    def epoch(self) -> int:
        return self._u32[_EPOCH_U32]

    @property
    def state(self) -> int:
        return self._u32[_STATE_U32]

    @property
    def writer_pid(self) -> int:
        return self._u32[_PID_U32]

    @property
    def heartbeat_us(self) -> int:
        return self._i64[_HEARTBEAT_I64]

    def still_s(self) -> float:
        """How long the heartbeat has not changed, as far as this process has seen."""
        beat_us = self.heartbeat_us
        now = time.monotonic()
        if beat_us != self._beat_us:
            self._beat_us, self._beat_seen = beat_us, now
        return now - self._beat_seen

    @property
    def heartbeat_age_s(self) -> float:
        """By the wall clock, unless that has stepped: then by what this process has seen."""
        wall_s = time.time() - self.heartbeat_us / 1e6
        if -_AHEAD_S <= wall_s <= STALLED_AFTER_S or self.state != STATE_RUNNING:
            return max(wall_s, 0.0)
        still_s = self.still_s()
        return max(still_s, wall_s) if still_s > _STILL_S else still_s

    def _is_doubtful(self) -> bool:
        wall_s = time.time() - self.heartbeat_us / 1e6
        old = max(wall_s, self.still_s()) > STALLED_AFTER_S
        return self.state == STATE_RUNNING and (old or wall_s < -_AHEAD_S)

    def is_stalled(self) -> bool:
        """Whether the writer says that it runs, and its heartbeat is older than 5 s and stands still."""
        return self._is_doubtful() and self.still_s() > _STILL_S

    def settle(self) -> None:
        """Waits until it is clear whether the writer is stalled.

        It takes up to 1.5 s, and only if the heartbeat does not fit the wall clock: that may have stepped.
        """
        while self._is_doubtful() and self.still_s() <= _STILL_S:
            time.sleep(_SETTLE_EVERY_S)

    def check(self) -> None:
        """Checks whether head and tail can be those of a ring.

        :raises ConsumerError: if they cannot.
        """
        for _ in range(_ATTEMPTS):
            head, tail = self.head, self.tail
            if 1 <= tail <= head <= _HEAD_MAX and head - tail <= self.capacity:
                return
            # A writer that laps the ring between the two loads leaves them apart, and moves on.
            if self.head == head:
                break
        raise ConsumerError(
            f"consumer: {self.path} is damaged: its head {head} and its tail {tail} do not fit its "
            f"{self.capacity} frames; remove it: a gateway that runs makes another within a second"
        )

    def oldest(self) -> int:
        """The frame_id of the oldest frame that is readable, given a sane header."""
        return max(self.tail, self.head - self.capacity, 0)

    # Reading

    def whole(self, low: int, high: int) -> npt.NDArray[np.bool_]:
        """Whether each of the frames low to high - 1 is whole in its slot at this moment: (high - low,) bool.

        `high` - `low` is at most the capacity.
        """
        whole = np.empty(high - low, dtype=np.bool_)
        for start, end, slot, lap in self._segments(low, high):
            expected = np.uint64(2 * (lap + 1))
            np.equal(self._sequences[slot : slot + end - start], expected, out=whole[start - low : end - low])
        return whole

    def _segments(self, low: int, high: int) -> Iterator[tuple[int, int, int, int]]:
        """The frames low to high - 1 as runs of neighbouring slots: first id, end id, first slot, lap."""
        while low < high:
            lap, slot = divmod(low, self.capacity)
            end = min(high, low + self.capacity - slot)
            yield low, end, slot, lap
            low = end

    def copy(self, low: int, high: int) -> tuple[_Rows, npt.NDArray[np.bool_]]:
        """A copy of the frames low to high - 1, and which of its frames are valid: (high - low,) bool.

        The writer raises the tail and stores the odd sequence before it changes a frame, and stores the even
        sequence after. So a frame was not touched if its sequence was right before and after the copy and it
        is not below the tail. This holds on processors that show loads and stores in order; on others id and
        checksum must fit as well.
        """
        copied = self._buffers.take(high - low)
        lap, slot = divmod(low, self.capacity)
        if slot + high - low <= self.capacity:
            # The usual case avoids the loops below, which take as long as copying 30 frames.
            expected = np.uint64(2 * (lap + 1))
            sequences = self._sequences[slot : slot + high - low]
            valid = sequences == expected
            np.copyto(copied, self._bytes[slot : slot + high - low])
            valid &= sequences == expected
        else:
            valid = self.whole(low, high)
            for start, end, slot, _ in self._segments(low, high):
                copied[start - low : end - low] = self._bytes[slot : slot + end - start]
            valid &= self.whole(low, high)
        gone = self._u64[_TAIL_U64] - low
        if gone > 0:
            valid[:gone] = False
        if self.verify:
            valid &= _intact(copied, low)
        return np.ndarray(high - low, FRAME_DTYPE, copied), valid

    def _copy_few(self, low: int, high: int) -> _Rows | None:
        """What :meth:`copy` does, for few frames, if all of them are valid and neighbours; else None.

        Each operation of numpy takes longer than to copy one frame, so the sequences are compared here.
        """
        count = high - low
        lap, slot = divmod(low, self.capacity)
        if count >= _FEW_FRAMES or slot + count > self.capacity:
            return None
        words = self._u64
        at = HEADER_BYTES + slot * FRAME_BYTES
        end = at + count * FRAME_BYTES
        sequence = 2 * (lap + 1)
        places = range(at >> 3, end >> 3, FRAME_BYTES >> 3)
        for place in places:
            if words[place] != sequence:
                return None
        copied = bytearray(self._memory[at:end])
        for place in places:
            if words[place] != sequence:
                return None
        if words[_TAIL_U64] > low:
            return None
        if self.verify:
            frames = np.frombuffer(copied, dtype=np.uint8).reshape(count, FRAME_BYTES)
            if not _every(_intact(frames, low)):
                return None
        return np.ndarray(count, FRAME_DTYPE, copied)

    def intact(self, low: int, high: int) -> bool:
        """Whether the ids and checksums of the frames low to high - 1 fit, read in place."""
        return all(
            _intact(self._bytes[slot : slot + end - start], start).all()
            for start, end, slot, _ in self._segments(low, high)
        )

    def copy_newest(self, count: int) -> _Rows:
        """Copies of at most `count` newest frames, oldest first, without those overwritten during the copy.

        Frames that stay damaged at the end are left out. Empty if the ring is, or if a writer at full speed
        overwrites even the newest frame on every attempt.
        """
        words = self._u64
        for attempt in range(_ATTEMPTS):
            head = words[_HEAD_U64]
            # If the writer overwrote all of them, ask for half as many: it is too fast for this count.
            low = max(words[_TAIL_U64], head - min(max(count >> attempt, 1), self.capacity), 0)
            if low >= head or count <= 0:
                break
            few = self._copy_few(low, head)
            if few is not None:
                return few
            rows, valid = self.copy(low, head)
            if _every(valid):
                return rows
            after_last_invalid = len(valid) - int(np.argmin(valid[::-1]))
            if after_last_invalid < len(valid):
                return rows[after_last_invalid:]
        else:
            # The newest frame stays damaged: return the run before it.
            head = words[_HEAD_U64]
            low = max(words[_TAIL_U64], head - min(count, self.capacity), 0)
            rows, valid = self.copy(low, max(head, low))
            if valid.any():
                end = len(valid) - int(np.argmax(valid[::-1]))
                invalid = np.flatnonzero(~valid[:end])
                return rows[int(invalid[-1]) + 1 if len(invalid) else 0 : end]
        return np.empty(0, dtype=FRAME_DTYPE)

    def copy_latest(self) -> np.void | None:
        """A copy of the newest frame, the quick way; None if :meth:`copy_newest` would be empty."""
        words = self._u64
        for _ in range(_ATTEMPTS):
            frame_id = words[_HEAD_U64] - 1
            if frame_id < words[_TAIL_U64]:
                break
            lap, slot = divmod(frame_id, self.capacity)
            at = HEADER_BYTES + slot * FRAME_BYTES
            sequence = 2 * (lap + 1)
            if words[at >> 3] != sequence:
                continue
            # Copied as bytes, because numpy's copy of a structured element takes ten times as long.
            copied = bytearray(self._memory[at : at + FRAME_BYTES])
            if words[at >> 3] != sequence or words[_TAIL_U64] > frame_id:
                continue
            if self.verify and not _intact(
                np.frombuffer(copied, dtype=np.uint8).reshape(1, FRAME_BYTES), frame_id
            ):
                continue
            row: Any = np.ndarray((), FRAME_DTYPE, copied)[()]
            return row  # type: ignore[no-any-return]
        return None

    def copy_from(self, first: int, count: int) -> tuple[int, _Rows, int]:
        """Copies of up to `count` neighbouring frames, from `first` or the oldest that is left after it.

        Returns the frame_id of the first copy, the copies, and how many of the frames before it, from `first`
        on, were damaged; the rest were overwritten. No copies if nothing can be read from `first` on.
        """
        start, wanted = first, count
        attempt = skip = damaged = 0
        while attempt < _ATTEMPTS:
            head = self.head
            low = max(start, self.oldest())
            if low >= head or count <= 0:
                break
            if skip:
                low = min(low + skip, head - 1)
            high = min(low + wanted, head)
            few = self._copy_few(low, high)
            if few is not None:
                return low, few[:count], damaged
            rows, valid = self.copy(low, high)
            if _every(valid):
                return low, rows[:count], damaged
            begin = int(np.argmax(valid)) if valid.any() else len(valid)
            if begin < len(valid) and (begin == 0 or self.tail >= low + begin):
                invalid = np.flatnonzero(~valid[begin:])
                end = begin + int(invalid[0]) if len(invalid) else len(valid)
                return low + begin, rows[begin : min(end, begin + count)], damaged
            attempt += 1
            if self.oldest() > low:
                # The writer is overwriting these: skip as many frames as it wrote during this attempt.
                skip = self.head - head
            elif attempt == _ATTEMPTS:
                # No writer is changing these and they stay damaged: go on behind them.
                start = low + begin
                damaged += begin
                attempt = skip = 0
                wanted = max(count, _ATTEMPTS)
        return first, np.empty(0, dtype=FRAME_DTYPE), 0

    def journal_id(self) -> int | None:
        """The id of the journal whose frames the ring has; None while it has none."""
        newest = self.copy_latest()
        if newest is None:
            # The newest may be damaged; every other frame has the same journal_id.
            _, rows, _ = self.copy_from(self.oldest(), 1)
            newest = rows[0] if len(rows) else None
        return None if newest is None else int(newest["journal_id"])

    # Waiting

    def wait(self, head: int, timeout_s: float) -> None:
        """Returns as soon as the head is not `head`, at the latest after `timeout_s`."""
        start = time.perf_counter()
        while time.perf_counter() - start < min(_SPIN_S, timeout_s):
            if self._u64[_HEAD_U64] != head:
                return
        if self._bell is not None:
            self._bell.set_waiting()
            # The kernel compares the word once more before it sleeps, behind a full barrier. So no frame is
            # missed: if the writer published it before it saw `waiters`, the comparison sees the new head;
            # if it published it later, it wakes us.
            if self._u64[_HEAD_U64] == head:
                self._bell.sleep(head & 0xFFFFFFFF, timeout_s)
            return
        pause = _POLL_MIN_S
        while self._u64[_HEAD_U64] == head:
            left = timeout_s - (time.perf_counter() - start)
            if left <= 0:
                return
            time.sleep(min(pause, left))
            pause = min(pause * 2, _POLL_MAX_S)

    @property
    def wakes(self) -> str:
        """How this reader waits: ``futex``; ``poll`` if the ring is read-only or the system has no futex."""
        return "poll" if self._bell is None else "futex"


def _check_header(path: str, descriptor: int, status: os.stat_result) -> int:
    """The ring's capacity in frames.

    :raises ConsumerError: if the file is not a ring of this version, or is too short to map safely.
    """
    if not stat.S_ISREG(status.st_mode):
        raise ConsumerError(
            f"consumer: {path} is not a regular file, so it is not a ring; remove it or choose another path"
        )
    header = os.pread(descriptor, HEADER_BYTES, 0)
    if len(header) < HEADER_BYTES:
        raise ConsumerError(f"consumer: {path} has {len(header)} bytes, a ring's header has {HEADER_BYTES}")
    magic, version, frame_bytes, capacity = struct.unpack_from("<QIIQ", header)
    if magic != MAGIC:
        raise ConsumerError(f"consumer: {path} is no physics ring (it begins with 0x{magic:016x})")
    if version != VERSION or frame_bytes != FRAME_BYTES:
        raise ConsumerError(
            f"consumer: {path} is a ring of version {version} with frames of {frame_bytes} bytes, but this "
            f"reader knows version {VERSION} with {FRAME_BYTES}; use the consumer.py of that gateway"
        )
    ring_bytes = HEADER_BYTES + capacity * FRAME_BYTES
    if capacity < 1 or status.st_size < ring_bytes:
        raise ConsumerError(
            f"consumer: {path} is damaged: it has {status.st_size} bytes, but its capacity of {capacity} "
            f"frames takes {ring_bytes}; remove it: a gateway that runs makes another within a second"
        )
    return int(capacity)


_SYS_FUTEX = {"x86_64": 202, "aarch64": 98}
_FUTEX_WAIT = 0  # without the PRIVATE flag: the writer is another process


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_int64), ("tv_nsec", ctypes.c_int64))


class _Bell:
    """Sleeps until the writer wakes this reader: a futex on the ring's head, in the writable header page."""

    def __init__(self, header: mmap.mmap, number: int) -> None:
        self._waiters = ctypes.c_uint32.from_buffer(header, _at("waiters"))
        self._head_low = ctypes.c_uint32.from_buffer(header, _at("head"))
        self._number = ctypes.c_long(number)
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        self._syscall.restype = ctypes.c_long

    @classmethod
    def over(cls, path: str, inode: tuple[int, int]) -> _Bell | None:
        """None if this process may only read the ring, or its system has no futex call that is known here."""
        number = _SYS_FUTEX.get(platform.machine())
        if number is None or sys.platform != "linux" or sys.maxsize < 2**32:
            return None
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            status = os.fstat(descriptor)
            if (status.st_dev, status.st_ino) != inode:
                return None  # replaced between the two opens: the reader soon notices and opens the new ring
            return cls(mmap.mmap(descriptor, HEADER_BYTES), number)
        except (OSError, ValueError, AttributeError):
            return None
        finally:
            os.close(descriptor)

    def set_waiting(self) -> None:
        self._waiters.value = 1

    def sleep(self, head_low: int, timeout_s: float) -> None:
        """Sleeps if the low word of head is `head_low`, until a wake, a signal or the time-out."""
        whole_s = math.floor(timeout_s)
        timeout = _Timespec(whole_s, int((timeout_s - whole_s) * 1e9))
        result = self._syscall(
            self._number,
            ctypes.byref(self._head_low),
            ctypes.c_int(_FUTEX_WAIT),
            ctypes.c_uint32(head_low),
            ctypes.byref(timeout),
            None,
            ctypes.c_int(0),
        )
        if result == -1 and ctypes.get_errno() not in (errno.EAGAIN, errno.ETIMEDOUT, errno.EINTR):
            # A sandbox may forbid the call; without this pause the caller would spin.
            time.sleep(min(_POLL_MAX_S, timeout_s))


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


class View:
    """The newest frames in place in the ring, without a copy; see :meth:`PhysicsConsumer.view`."""

    def __init__(self, ring: _Ring, low: int, high: int, labels: Labels) -> None:
        self._ring = ring
        self._low = low
        self._high = high
        self.segments: tuple[Frames, ...] = tuple(
            Frames(ring.rows[slot : slot + end - start], labels=labels)
            for start, end, slot, _ in ring._segments(low, high)
        )
        """The frames, oldest first, as read-only arrays over the ring: two if they wrap around its end."""

    def __len__(self) -> int:
        return self._high - self._low

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """A column of all frames, e.g. ``view["semantic"]`` (n, 1024); a copy only if they wrap around."""
        columns = [segment[name] for segment in self.segments]
        if len(columns) == 1:
            return columns[0]  # type: ignore[no-any-return]
        return np.concatenate(columns) if columns else np.empty(0, dtype=FRAME_DTYPE)[name]

    @property
    def frame_id(self) -> npt.NDArray[np.uint64]:
        """(n,) uint64: the ids of the frames when the view was made. A copy, which stays as it is."""
        return np.arange(self._low, self._high, dtype=np.uint64)

    def valid(self) -> bool:
        """Whether the writer has touched none of the frames since the view was made.

        Call it after you have used the frames. True: what you computed from them is right. False: the writer
        is overwriting at least the oldest of them, so throw the result away.
        """
        ring = self._ring
        # Bytes first, sequence after: a frame that is touched after its bytes fitted has another sequence.
        if ring.verify and not ring.intact(self._low, self._high):
            return False
        return _every(ring.whole(self._low, self._high)) and ring.tail <= self._low

    def __reduce__(self) -> Any:
        raise _unsendable("a View", "send copies of its frames, from read_batch(), instead")

    def __enter__(self) -> View:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.segments = ()
        self._low = self._high

    def __repr__(self) -> str:
        return f"View({len(self)} frames from {self._low})"


# Following: a feed returns the frames of one source, and the follower keeps the place


class _Teller:
    """Hands events to the reader's handler, or to the log if the reader has none."""

    def __init__(self, on_event: EventHandler | None) -> None:
        self._on_event = on_event

    def __call__(self, kind: str, message: str, *, lost: int = 0) -> None:
        if self._on_event is not None:
            self._on_event(RingEvent(kind, message, lost))
        else:
            _log.log(logging.INFO if kind == "lost" else logging.WARNING, "%s: %s", kind, message)


class _Place(NamedTuple):
    """Where a follower is: the next frame, and how many of its frames were lost before that."""

    journal_id: int | None
    """The journal whose frames are read; None until a frame or the gateway has named it."""
    next_frame_id: int
    lost: int


class _Blocks(NamedTuple):
    """Which frames belong to a shard: block (frame_id - 1) // size is that of shard block mod shards."""

    size: int
    shard: int
    shards: int

    def next_own(self, frame_id: int) -> int:
        """The first frame of the shard from `frame_id` on."""
        block, _ = divmod(frame_id - 1, self.size)
        ahead = (self.shard - block) % self.shards
        return frame_id if ahead == 0 else (block + ahead) * self.size + 1

    def end(self, own_id: int) -> int:
        """The end of the run of the shard's frames with `own_id`: the first id of another shard."""
        if self.shards == 1:
            return own_id + 2**40
        return ((own_id - 1) // self.size + 1) * self.size + 1

    def own_between(self, low: int, high: int) -> int:
        """How many of the frames low to high - 1 belong to the shard."""
        return max(self._below(high) - self._below(low), 0)

    def _below(self, frame_id: int) -> int:
        rounds, rest = divmod(frame_id - 1, self.size * self.shards)
        return rounds * self.size + min(max(rest - self.shard * self.size, 0), self.size)


_ALL_FRAMES = _Blocks(1, 0, 1)


class _Found(NamedTuple):
    """What a feed found from the wanted frame on: neighbouring frames of one journal, possibly none."""

    journal_id: int
    first: int
    """The frame_id of the first row; without rows, the frame_id to go on with."""
    rows: _Rows
    damaged: int = 0
    """How many of the frames from the wanted one to `first` are unreadable; the rest are overwritten."""
    anew: bool = False
    """Whether reading begins at `first`, so that no frame before it counts as lost."""


class _Feed(Protocol):
    """One follower's way through a source."""

    def read(self, journal_id: int | None, wanted: int, limit: int, ahead: int) -> _Found | None:
        """At most `limit` frames from `wanted` on, without waiting; None if none exist yet.

        `journal_id`: the journal whose frames are read; None means that it is not known yet.
        `ahead`: how many neighbouring frames from `wanted` on the follower will read, at least `limit`.
        """

    def wait(self, timeout_s: float) -> None:
        """Returns when new frames are likely, at the latest after `timeout_s`."""


class _Follower:
    """The follow loop: reads a shard's frames from a feed, each once and in order.

    It keeps the place, counts lost frames, and waits for new ones.

    :param on_lost: called with the number of this shard's frames that were lost, the frame_id that follows
        them, and how many frames before that one, of any shard, are damaged and not overwritten.
    :param is_closed: whether the reader was closed, which ends the waiting.
    """

    def __init__(
        self,
        feed: _Feed,
        place: _Place,
        blocks: _Blocks,
        on_lost: Callable[[int, int, int], None],
        is_closed: Callable[[], bool] = lambda: False,
    ) -> None:
        self._feed = feed
        self.journal_id, self._next, self.lost = place
        self._blocks = blocks
        self._on_lost = on_lost
        self._is_closed = is_closed

    @property
    def place(self) -> _Place:
        """The place after the frames that ``take`` has returned."""
        return _Place(self.journal_id, self._next, self.lost)

    def take(self, limit: int, until: float) -> _Rows | None:
        """Up to `limit` neighbouring frames, all of ``journal_id``; waits until there are any.

        None: no frame came before `until`, in seconds of ``time.monotonic``, or the reader was closed. An
        empty array: something has changed (frames were lost, or the journal is another); call again at once.
        """
        blocks = self._blocks
        while not self._is_closed():
            wanted = blocks.next_own(self._next)
            ahead = blocks.end(wanted) - wanted
            found = self._feed.read(self.journal_id, wanted, min(limit, ahead), ahead)
            if found is not None:
                return self._advanced(found, wanted)
            left_s = until - time.monotonic()
            if left_s <= 0:
                break
            self._feed.wait(min(left_s, _LOOK_EVERY_S))
        return None

    def _advanced(self, found: _Found, wanted: int) -> _Rows:
        self.journal_id = found.journal_id
        first, rows = found.first, found.rows
        if found.anew:
            self._next = first
        elif first > wanted:
            self._lose(first, found.damaged)
        if len(rows) == 0:
            return rows
        own = self._blocks.next_own(first)
        rows = rows[own - first : self._blocks.end(own) - first]
        if len(rows):
            self._next = own + len(rows)
        return rows

    def _lose(self, first: int, damaged: int) -> None:
        """Counts this shard's frames from the next one to `first` - 1 as lost."""
        count = self._blocks.own_between(self._next, first)
        self._next = first
        self.lost += count
        if count > 0:
            self._on_lost(count, first, damaged)


class _Source(Protocol):
    """Where the frames of a :class:`PhysicsConsumer` come from: a ring or a gateway.

    After ``close`` every other method raises a :class:`ConsumerError`.
    """

    name: str
    """The ring's path or the gateway's address."""
    labels: Labels
    closed: bool

    def latest(self) -> np.void | None:
        """The newest frame; None before the first."""

    def newest(self, count: int) -> _Rows:
        """At most `count` newest frames, oldest first, without gaps."""

    def since(self, first: int, count: int) -> tuple[int, _Rows, int]:
        """See :meth:`_Ring.copy_from`."""

    def view(self, count: int) -> View:
        """The newest `count` frames, in place."""

    def follow(self, start: StartPosition) -> tuple[_Feed, _Place]:
        """A feed, and the place that `start` means in it at this moment."""

    def lag(self, newest_id: int | None) -> int:
        """How many frames were published after `newest_id`; None: how many can be read."""

    def stalled(self) -> bool:
        """Whether the gateway seems to have stopped working."""

    def state(self) -> dict[str, Any]:
        """The gateway's state, by name."""

    def counters(self) -> dict[str, int]:
        """This source's counters since it was made, by name."""

    def close(self) -> None:
        """Ends every wait."""


def _checked_start(start: StartPosition) -> StartPosition:
    """`start` after validation; a frame_id is raised to 1, the first id.

    :raises ValueError: if `start` is not a start position.
    """
    if isinstance(start, str):
        if start not in ("latest", "oldest"):
            raise ValueError(f'start must be "latest", "oldest", a frame_id or a position, got {start!r}')
        return start
    if isinstance(start, tuple):
        return start
    if start < 0:
        raise ValueError(f"start must not be a negative frame_id, got {start}")
    return max(start, 1)


# The ring at a path


class _RingSource:
    """The ring at a path, whichever file that is: notices restart, replacement, shutdown and stall.

    :raises RingMissingError: if no file exists at the path.
    :raises ConsumerError: if the file is not a ring of this version, or may not be read.
    """

    def __init__(self, path: str, tell: _Teller, verify: bool | None = None) -> None:
        self.name = path
        self.labels = Labels(path)
        self.closed = False
        self.restarts = 0
        self.replacements = 0
        self._tell = tell
        self._verify = verify
        self._stranger_since: float | None = None
        self.ring = _Ring.open(path, verify)
        self._epoch = self.ring.epoch
        self._state = self.ring.state
        self._stalled = False
        self._next_look = time.monotonic() + _LOOK_EVERY_S

    # Reading

    def latest(self) -> np.void | None:
        # Written out, because this read is so short that a call of _look would be measurable.
        if self.closed:
            raise _closed(self.name)
        return self.observe().copy_latest()

    def newest(self, count: int) -> _Rows:
        return self._look().copy_newest(count)

    def since(self, first: int, count: int) -> tuple[int, _Rows, int]:
        return self._look().copy_from(first, count)

    def view(self, count: int) -> View:
        ring = self._look()
        head = ring.head
        low = max(ring.oldest(), head - count)
        if low < head:
            whole = ring.whole(low, head)
            if not _every(whole):
                low = head - int(np.argmin(whole[::-1]))
        return View(ring, min(low, head), head, self.labels)

    def follow(self, start: StartPosition) -> tuple[_Feed, _Place]:
        ring = self._look()
        feed = _RingFeed(self.observe, self._tell, ring)
        if isinstance(start, tuple):
            return feed, _Place(start[0], start[1] + 1, 0)
        if isinstance(start, str):
            start = ring.head if start == "latest" else ring.oldest()
        return feed, _Place(ring.journal_id(), start, 0)

    # State

    def lag(self, newest_id: int | None) -> int:
        ring = self.ring
        first_unread = ring.oldest() if newest_id is None else newest_id + 1
        return max(ring.head - first_unread, 0)

    def stalled(self) -> bool:
        ring = self._look()
        ring.settle()
        return ring.is_stalled()

    def state(self) -> dict[str, Any]:
        ring = self._look()
        ring.check()
        ring.settle()
        head = ring.head
        oldest = ring.oldest()
        return {
            "path": self.name,
            "version": VERSION,
            "frame_size": FRAME_BYTES,
            "capacity": ring.capacity,
            "head": head,
            "tail": ring.tail,
            "frames": max(head - oldest, 0),
            "epoch": ring.epoch,
            "writer_pid": ring.writer_pid,
            "state": _STATE_NAMES.get(ring.state, str(ring.state)),
            "heartbeat_age_s": round(ring.heartbeat_age_s, 3),
            "stalled": ring.is_stalled(),
            "journal_id": ring.journal_id(),
            "wait": ring.wakes,
        }

    def counters(self) -> dict[str, int]:
        return {"restarts": self.restarts, "replacements": self.replacements}

    def close(self) -> None:
        self.closed = True

    def __str__(self) -> str:
        return f"{self.name!r}, capacity={self.ring.capacity}, head={self.ring.head}"

    # Changes of the ring

    def _look(self) -> _Ring:
        """The ring to read, for the methods that users call. Raises if the reader is closed."""
        if self.closed:
            raise _closed(self.name)
        return self.observe()

    def observe(self) -> _Ring:
        """The ring to read. Notices restart, replacement and stall; checks the path four times a second."""
        ring = self.ring
        words = ring._u32
        if words[_EPOCH_U32] != self._epoch:
            starts = (ring.epoch - self._epoch) & 0xFFFFFFFF
            self._epoch = ring.epoch
            self.restarts += starts
            self._tell("restarted", f"the gateway has restarted (epoch {ring.epoch}); frame ids go on")
        now = time.monotonic()
        if now < self._next_look and words[_STATE_U32] != STATE_SUPERSEDED:
            return ring
        self._next_look = now + _LOOK_EVERY_S
        self._replace_where_needed(now)
        self._report_state()
        return self.ring

    def _replace_where_needed(self, now: float) -> None:
        ring = self.ring
        try:
            status = Path(self.name).stat()
        except OSError:
            return  # removed: this mapping stays whole, and the gateway makes a new file within a second
        if (status.st_dev, status.st_ino) == ring.inode:
            self._stranger_since = None
            return
        try:
            successor = _Ring.open(self.name, self._verify)
        except RingMissingError:
            return
        except ConsumerError:
            self._stranger_since = self._stranger_since or now
            if now - self._stranger_since < _STRANGER_PATIENCE_S:
                return
            raise
        self._stranger_since = None
        self.ring = successor
        self._stalled = False
        self._state = successor.state
        self.replacements += 1
        # If its file is removed, a gateway makes another, of epoch 1, without a restart.
        if successor.epoch > self._epoch:
            self.restarts += successor.epoch - self._epoch
        elif successor.writer_pid != ring.writer_pid:
            self.restarts += 1
        self._epoch = successor.epoch
        self._tell(
            "replaced",
            f"another ring is at {self.name} (capacity {successor.capacity}, epoch {successor.epoch}); "
            "going on there",
        )

    def _report_state(self) -> None:
        ring = self.ring
        state = ring.state
        if state != self._state:
            self._state = state
            if state == STATE_CLOSED:
                self._tell("closed", "the gateway was shut down; waiting for it to come back")
        stalled = ring.is_stalled()
        if stalled != self._stalled:
            self._stalled = stalled
            if stalled:
                self._tell(
                    "stalled",
                    f"no heartbeat for {ring.heartbeat_age_s:.0f} s: the gateway stands still or was killed",
                )
            elif state == STATE_RUNNING:
                self._tell("resumed", "the gateway's heartbeat is back")


def _closed(name: str) -> ConsumerError:
    return ConsumerError(f"consumer: the reader of {name} is closed")


class _LateRing:
    """The ring at a path that may have no file yet, or for a while a file that is not a ring.

    :param optional: whether the frames come from elsewhere meanwhile. If not, a missing ring is reported as
        an event, and a file that is not a ring is an error.
    """

    def __init__(self, path: str, tell: _Teller, *, optional: bool) -> None:
        self._path = path
        self._tell = tell
        self._optional = optional
        self._source: _RingSource | None = None
        self._next_attach = -math.inf
        self._missing = False

    def observe(self) -> _Ring | None:
        """The ring to read now; None while the path has none.

        :raises ConsumerError: if the ring is not optional and the file at the path is not one.
        """
        try:
            if self._source is not None:
                return self._source.observe()
            return self._attach()
        except ConsumerError:
            if not self._optional:
                raise
            self._source = None
            self._next_attach = time.monotonic() + _LOOK_EVERY_S
            return None

    def _attach(self) -> _Ring | None:
        now = time.monotonic()
        if now < self._next_attach:
            return None
        self._next_attach = now + _LOOK_EVERY_S
        try:
            self._source = _RingSource(self._path, self._tell)
        except RingMissingError as error:
            if not self._optional and not self._missing:
                self._missing = True
                self._tell("unreachable", f"{_without_prefix(error)}; waiting for the ring")
            return None
        if self._missing:
            self._missing = False
            self._tell("reachable", f"a ring is now at {self._path}")
        return self._source.ring


_NO_ROWS: _Rows = np.empty(0, dtype=FRAME_DTYPE)


class _RingFeed:
    """One follower's way through the files at a ring's path: it reads each to its end before the next.

    :param observe: returns the ring at the path now; None while the path has none.
    :param ring: the file to begin with, in which the follower's place is known; None: the first that
        `observe` returns.
    :param sole: whether the ring is the only source, so that it decides which journal is read. If not, the
        feed finds nothing in a ring of another journal, nor in one that no longer has the wanted frame.
    """

    def __init__(
        self,
        observe: Callable[[], _Ring | None],
        tell: _Teller,
        ring: _Ring | None = None,
        *,
        sole: bool = True,
    ) -> None:
        self._observe = observe
        self._tell = tell
        self._sole = sole
        self._ring = ring
        self._head = 0  # of the ring, just before the last read
        self._is_given = ring is not None
        self._succeeds_given = False
        self.journal_id: int | None = None
        """The journal of the file that is read; None while the file has no frames."""

    def read(self, journal_id: int | None, wanted: int, limit: int, ahead: int) -> _Found | None:
        while True:
            current = self._observe()
            if self._ring is None:
                self._enter(current)
            ring = self._ring
            if ring is None:
                return None
            self._head = ring.head
            found = self._read_from(ring, journal_id, wanted, limit)
            if found is not None or ring is current or ring.head != self._head:
                return found
            # The gateway has left this file, and this feed has read it to its end.
            self._enter(current)

    def wait(self, timeout_s: float) -> None:
        if self._ring is None:
            time.sleep(timeout_s)
        else:
            self._ring.wait(self._head, timeout_s)

    def expects(self, journal_id: int | None, wanted: int) -> bool:
        """Whether a live gateway will publish frame `wanted` in the ring of the last read."""
        ring = self._ring
        return (
            ring is not None
            and self.journal_id is not None
            and self.journal_id == journal_id
            and wanted >= self._head
            and ring.state == STATE_RUNNING
            and not ring.is_stalled()
        )

    def _enter(self, ring: _Ring | None) -> None:
        self._succeeds_given |= self._is_given
        self._is_given = False
        self._ring = ring
        self.journal_id = None

    def _read_from(self, ring: _Ring, journal_id: int | None, wanted: int, limit: int) -> _Found | None:
        if self.journal_id is None:
            self.journal_id = ring.journal_id()
            if self.journal_id is None:
                return None
        # In the given ring the wanted frame_id counts, whichever journal its first frame is from.
        if journal_id != self.journal_id and not (journal_id is None and self._is_given):
            return self._begun(ring, self.journal_id, journal_id, wanted) if self._sole else None
        if not self._sole and wanted < ring.oldest():
            return None
        first, rows, damaged = ring.copy_from(wanted, limit)
        if len(rows) == 0 or (first > wanted and not self._sole):
            return None
        return _Found(self.journal_id, first, rows, damaged)

    def _begun(self, ring: _Ring, journal_id: int, before: int | None, wanted: int) -> _Found:
        """Where to go on in a ring whose frames are those of another journal, `journal_id`."""
        oldest = ring.oldest()
        if before is not None:
            self._tell(
                "journal_changed",
                f"the ring now has the frames of journal {journal_id:08x} (before: {before:08x}); "
                f"reading them from the oldest, {oldest}",
            )
        elif not self._succeeds_given or oldest <= wanted <= ring.head:
            return _Found(journal_id, wanted, _NO_ROWS)
        # The follower has seen no frame of the ring before this one either, so every frame is new to it.
        return _Found(journal_id, oldest, _NO_ROWS, anew=True)


# Over HTTP


class _Page(NamedTuple):
    """One response of /api/frames: neighbouring frames, the id of the next new frame, and their journal."""

    rows: _Rows
    head: int
    journal_id: int


class _Strange(Exception):
    """A response that no gateway sends; the text says with what it responds."""


class _Wire:
    """A connection on which every wait ends at one deadline, and which reads a bounded number of bytes.

    http.client asks the socket again for each header line and each chunk. A time-out of the socket alone
    would begin anew each time, so a response that drips would never end.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._file: socket.SocketIO | None = None
        self._until = 0.0
        self._bytes_left = 0

    def allow(self, until: float, bytes_max: int) -> None:
        """Allows `bytes_max` more bytes, until `until` in seconds of ``time.monotonic``."""
        self._until = until
        self._bytes_left = bytes_max

    def arm(self) -> None:
        """Call it before each wait.

        :raises TimeoutError: if the deadline has passed.
        """
        left_s = self._until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out: the response goes on, but does not end in time")
        self._socket.settimeout(min(left_s, _HTTP_TIMEOUT_S))

    def count(self, received: int) -> None:
        self._bytes_left -= received
        if self._bytes_left < 0:
            raise _Strange("endless headers or chunks")

    # What http.client calls

    def sendall(self, data: bytes) -> None:
        self.arm()
        self._socket.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb"
        self._file = self._socket.makefile("rb", buffering=0)
        return io.BufferedReader(_WireReader(self, self._file))

    def close(self) -> None:
        """Closes the connection once the response that is being read has ended."""
        self._socket.close()

    def end(self) -> None:
        """Closes the connection at once."""
        if self._file is not None:
            self._file.close()
        self._socket.close()

    def drop(self) -> None:
        """Closes this process's descriptor of a connection that belongs to its parent, and sends nothing."""
        with contextlib.suppress(OSError):
            os.close(self._socket.detach())


class _WireReader(io.RawIOBase):
    """The reading side of a :class:`_Wire`."""

    def __init__(self, wire: _Wire, file: io.RawIOBase) -> None:
        self._wire = wire
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._wire.arm()
        received = self._file.readinto(buffer)
        self._wire.count(received or 0)
        return received

    def close(self) -> None:
        self._file.close()
        super().close()


def _connect(host: str, port: int, until: float) -> socket.socket:
    """A connection to the first address of `host` that accepts one.

    :raises OSError: if none does before `until`.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError(f"{host!r} is not a host's name") from error
    failure = OSError(f"no address is known for {host!r}")
    for index, (family, kind, protocol, _, address) in enumerate(addresses):
        # An address that does not answer must leave time for the others.
        share_s = (until - time.monotonic()) / (len(addresses) - index)
        connected = socket.socket(family, kind, protocol)
        try:
            connected.settimeout(max(share_s, 1e-3))
            connected.connect(address)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connected
        except OSError as error:
            connected.close()
            failure = error
    raise failure


class _Channel:
    """One connection to the gateway, of one process, and the lock that lets one thread at a time use it."""

    def __init__(self, host: str, port: int, secure: bool) -> None:
        self.lock = threading.Lock()
        self.process = os.getpid()
        self._address = (host, port, secure)
        self._http = http.client.HTTPConnection(host, port)
        self._wire: _Wire | None = None

    def renewed(self) -> _Channel:
        """Another channel, for a process that inherited this one over a fork.

        The connection belongs to the parent, and another thread of the parent may hold the lock.
        """
        if self._wire is not None:
            self._wire.drop()
        return _Channel(*self._address)

    @property
    def is_open(self) -> bool:
        return self._http.sock is not None

    def exchange(
        self, path: str, headers: dict[str, str], bytes_max: int, start: float
    ) -> tuple[http.client.HTTPResponse, bytearray]:
        """The response to one request that began at `start`, and its body of at most `bytes_max` bytes.

        :raises _Strange: if it is longer, or encoded.
        :raises OSError: if there is none in time, or it is cut short; http.client.HTTPException likewise.
        """
        try:
            return self._exchange(path, headers, bytes_max, start)
        except BaseException:
            # Bytes that are still to come must not be taken for the next response, after a Ctrl-C neither.
            self.close()
            raise

    def _exchange(
        self, path: str, headers: dict[str, str], bytes_max: int, start: float
    ) -> tuple[http.client.HTTPResponse, bytearray]:
        begun_until = start + _HTTP_TIMEOUT_S
        if self._http.sock is None or self._wire is None:
            self._wire = self._opened(begun_until)
            wire_like_socket: Any = self._wire
            self._http.sock = wire_like_socket
        wire = self._wire
        wire.allow(begun_until, _HTTP_HEAD_BYTES_MAX)
        self._http.request("GET", path, headers=headers)
        response = self._http.getresponse()
        if response.status != 200:
            bytes_max = _HTTP_PROBLEM_BYTES_MAX
        encoding = response.headers.get("content-encoding", "identity")
        if encoding.strip().lower() != "identity":
            raise _Strange(f"the encoding {_printable(encoding)!r}, which nobody asked for")
        # A body that comes in chunks has more bytes on the wire.
        wire.allow(start + _HTTP_DEADLINE_S, 2 * bytes_max + _HTTP_HEAD_BYTES_MAX)
        body = bytearray()
        while piece := response.read1(1024 * 1024):
            body += piece
            if len(body) > bytes_max:
                raise _Strange(f"more than {bytes_max} bytes")
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
        response.read()  # reads nothing, but frees the connection for the next request
        return response, body

    def _opened(self, until: float) -> _Wire:
        host, port, secure = self._address
        connected = _connect(host, port, until)
        if not secure:
            return _Wire(connected)
        import ssl

        try:
            # The handshake as a whole ends within the socket's time-out.
            connected.settimeout(max(until - time.monotonic(), 1e-3))
            return _Wire(ssl.create_default_context().wrap_socket(connected, server_hostname=host))
        except BaseException:
            connected.close()
            raise

    def close(self) -> None:
        self._http.close()
        if self._wire is not None:
            self._wire.end()
        self._wire = None


class _Gateway:
    """The gateway's HTTP interface. Each process has one connection of its own, which stays open.

    :raises ConsumerError: if `url` is not a gateway's address, or a header cannot carry `token`.
    """

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url.rstrip("/")
        try:
            parts = urllib.parse.urlsplit(self.url)
            host, port = parts.hostname, parts.port
        except ValueError:
            parts, host, port = urllib.parse.urlsplit(""), None, None
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.username is not None:
            # The part of the address before an @ may be a secret.
            shown = url if "@" not in url else "the url"
            raise ConsumerError(f"consumer: {shown} is not a gateway's address; give it as http://host:9382")
        if token is None:
            token = os.environ.get("GATEWAY_TOKEN") or None
        if token is not None and not (token.isascii() and token.isprintable()):
            raise ConsumerError("consumer: the token has characters that no HTTP header can carry")
        self._has_token = token is not None
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._base = parts.path
        secure = parts.scheme == "https"
        self._channel = _Channel(host, port or (443 if secure else 80), secure)

    def frames(self, after: int, limit: int) -> _Page:
        """At most `limit` neighbouring frames, from the oldest that the gateway has after the id `after`.

        :raises GatewayUnreachableError: if the gateway does not respond now.
        :raises ConsumerError: if it refuses, or responds with something else than these frames.
        """
        path = f"/api/frames?after={after}&limit={limit}"
        headers, body = self._get(path, _RAW_FRAMES_TYPE, limit * FRAME_BYTES)
        if len(body) % FRAME_BYTES:
            raise self._strange(path, f"{len(body)} bytes, not a whole number of frames of {FRAME_BYTES}")
        rows: _Rows = np.frombuffer(body, dtype=FRAME_DTYPE)
        head = self._number(path, headers, "x-frames-head")
        journal_id = self._number(path, headers, "x-journal-id")
        if len(rows):
            first = int(rows["frame_id"][0])
            ids = np.arange(first, first + len(rows), dtype=np.uint64)
            if first <= after or not np.array_equal(rows["frame_id"], ids):
                raise self._strange(path, f"other frames than requested, beginning with {first}")
            if not _every(_intact(np.frombuffer(body, dtype=np.uint8).reshape(-1, FRAME_BYTES), first)):
                raise self._strange(path, "frames whose checksum does not fit")
            if (rows["journal_id"] != journal_id).any():
                raise self._strange(path, f"frames of another journal than its header's, {journal_id:08x}")
        return _Page(rows, head, journal_id)

    def labels(self) -> object:
        """The content of the file beside the ring, as JSON types."""
        _, body = self._get("/api/labels", "application/json", _LABELS_MAX_BYTES)
        content: object = json.loads(body)
        return content

    def close(self) -> None:
        """Closes the connection. If another thread is in the middle of a request, it must call this, too."""
        channel = self._own_channel()
        if channel.lock.acquire(blocking=False):
            try:
                channel.close()
            finally:
                channel.lock.release()

    def _own_channel(self) -> _Channel:
        """This process's channel: a fork must not read the responses that its parent waits for."""
        channel = self._channel
        if channel.process != os.getpid():
            self._channel = channel = channel.renewed()
        return channel

    def _number(self, path: str, headers: http.client.HTTPMessage, name: str) -> int:
        value = headers.get(name, "")
        if not (value.isascii() and value.isdecimal() and len(value) <= 20):
            raise self._strange(path, f"no {name}; is it a gateway, and as new as this reader?")
        return int(value)

    def _strange(self, path: str, what: str) -> ConsumerError:
        return ConsumerError(f"consumer: {self.url}{path} responds with {what}")

    def _get(self, path: str, accept: str, bytes_max: int) -> tuple[http.client.HTTPMessage, bytearray]:
        channel = self._own_channel()
        with channel.lock:
            try:
                response, body = self._exchange(channel, path, accept, bytes_max)
            except _Strange as strange:
                raise self._strange(path, str(strange)) from None
            except (OSError, http.client.HTTPException) as error:
                raise self._unreachable(error) from error
        if response.status != 200:
            raise self._refusal(path, response, body)
        kind = response.headers.get_content_type()
        if kind != accept:
            raise self._strange(path, f"{_printable(kind)}, not {accept}; is it a gateway?")
        return response.headers, body

    def _exchange(
        self, channel: _Channel, path: str, accept: str, bytes_max: int
    ) -> tuple[http.client.HTTPResponse, bytearray]:
        headers = {"Accept": accept, **self._headers}
        start = time.monotonic()
        reused = channel.is_open
        try:
            return channel.exchange(self._base + path, headers, bytes_max, start)
        except (ConnectionError, http.client.BadStatusLine):
            # A server may close an idle connection at any time, which does not mean that the gateway failed.
            if not reused:
                raise
        return channel.exchange(self._base + path, headers, bytes_max, start)

    def _unreachable(self, error: Exception) -> GatewayUnreachableError:
        reason = _reason(error) or type(error).__name__
        return GatewayUnreachableError(
            f"consumer: no response from {self.url}: {_printable(reason)}; start the gateway there, or give "
            "another address (--url), and make the gateway listen on it (its --host)"
        )

    def _refusal(self, path: str, response: http.client.HTTPResponse, body: bytearray) -> ConsumerError:
        status = response.status
        detail = _problem_detail(body)
        if status == 401 or (status == 403 and self._has_token):
            what = "rejects this token" if self._has_token else "requires a token"
            return ConsumerError(
                f"consumer: {self.url} {what}; give the gateway's token (GATEWAY_TOKEN or --token){detail}"
            )
        if status == 403:
            return ConsumerError(
                f"consumer: {self.url} refuses this machine (403); without a token it serves only its own "
                "machine: start it with a token (GATEWAY_TOKEN or --token-file) and give the same token "
                f"here{detail}"
            )
        if status == 429 or status >= 500:
            after = response.headers.get("retry-after", "")
            seconds = float(after) if after.isascii() and after.isdecimal() and len(after) < 10 else 0.0
            return GatewayUnreachableError(
                f"consumer: {self.url} cannot serve now ({status}); try again later{detail}",
                min(seconds, _HTTP_RETRY_AFTER_MAX_S),
            )
        return ConsumerError(
            f"consumer: {self.url}{path} responds with {status}; is it a gateway, and as new as this reader?"
            f"{detail}"
        )


def _problem_detail(body: bytearray) -> str:
    """The detail of a problem document, in brackets; empty if `body` is not one."""
    try:
        problem = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    detail = problem.get("detail") if isinstance(problem, dict) else None
    return f" ({_printable(detail[:200])})" if isinstance(detail, str) and detail else ""


class _RemoteLabels(Labels):
    """Labels from ``/api/labels``, requested at most once a second."""

    def __init__(self, url: str, fetch: Callable[[], object]) -> None:
        super().__init__(url)
        self._fetch = fetch
        self._next_fetch = -math.inf

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the gateway, whose token must not be in a file.
        self._refresh()
        texts = {name: getattr(self, name) for name in ("_intents", "_types", "_models")}
        return _KnownLabels, (self.path,), texts

    def _changed(self) -> object:
        now = time.monotonic()
        if now < self._next_fetch:
            return None
        self._next_fetch = now + _HTTP_LABELS_EVERY_S
        try:
            return self._fetch()
        except (ConsumerError, ValueError, RecursionError):
            # If the gateway is down, wait longer: each label must not cost a time-out.
            self._next_fetch = time.monotonic() + 10 * _HTTP_LABELS_EVERY_S
            return None


class _Backoff:
    """The pause before the next request: longer after each failure, at least as long as the gateway asks."""

    def __init__(self) -> None:
        self._pause_s = _HTTP_RETRY_MIN_S
        self.failing = False

    def failed(self, error: GatewayUnreachableError) -> float:
        """The pause in seconds, after `error`."""
        pause_s = max(self._pause_s, error.retry_after_s)
        self._pause_s = min(2 * self._pause_s, _HTTP_RETRY_MAX_S)
        self.failing = True
        return pause_s

    def worked(self) -> None:
        self._pause_s = _HTTP_RETRY_MIN_S
        self.failing = False


class _HttpSource:
    """A gateway over HTTP: notices when it becomes unreachable or reachable, and when its journal changes."""

    def __init__(self, gateway: _Gateway, tell: _Teller) -> None:
        self.name = gateway.url
        self.labels: Labels = _RemoteLabels(gateway.url, self._fetch_labels)
        self.closed = False
        self.backoff = _Backoff()
        self._gateway = gateway
        self._tell = tell
        self._head = 1
        self._journal_id: int | None = None

    @classmethod
    def connect(cls, url: str, token: str | None, tell: _Teller) -> _HttpSource:
        """The source at `url`, after a first request.

        :raises GatewayUnreachableError: if nothing responds there.
        :raises ConsumerError: if the gateway refuses, or something else than a gateway responds.
        """
        source = cls(_Gateway(url, token), tell)
        try:
            page = source._gateway.frames(_HTTP_AFTER_ALL, 1)
        except ConsumerError:
            source.close()
            raise
        source._head, source._journal_id = page.head, page.journal_id
        return source

    def ask(self, after: int, limit: int, expected: int | None = None) -> _Page:
        """:meth:`_Gateway.frames`, which also reports events.

        `expected`: the journal that the caller expects; it counts until the gateway has named its own.
        """
        try:
            page = self._gateway.frames(after, limit)
        except GatewayUnreachableError as error:
            if not self.backoff.failing:
                self._tell("unreachable", f"{_without_prefix(error)}; trying again until it responds")
            raise
        finally:
            if self.closed:
                self._gateway.close()
        if self.backoff.failing:
            self._tell("reachable", f"{self.name} responds again")
        self.backoff.worked()
        self._tell_of_journal(expected if self._journal_id is None else self._journal_id, page.journal_id)
        self._head, self._journal_id = page.head, page.journal_id
        return page

    def _tell_of_journal(self, before: int | None, now: int | None) -> None:
        if None not in (before, now) and before != now:
            self._tell(
                "journal_changed", f"{self.name} has the frames of journal {now:08x} (before: {before:08x})"
            )

    def _fetch_labels(self) -> object:
        self._check_open()
        return self._gateway.labels()

    def _check_open(self) -> None:
        if self.closed:
            raise _closed(self.name)

    # Reading

    def latest(self) -> np.void | None:
        rows = self.newest(1)
        newest: np.void | None = rows[-1] if len(rows) else None
        return newest

    def newest(self, count: int) -> _Rows:
        self._check_open()
        head = self.ask(_HTTP_AFTER_ALL, 1).head
        return self._run(max(head - 1 - count, 0), count)

    def since(self, first: int, count: int) -> tuple[int, _Rows, int]:
        self._check_open()
        rows = self._run(first - 1, count)
        return int(rows["frame_id"][0]) if len(rows) else first, rows, 0

    def _run(self, after: int, count: int) -> _Rows:
        """Up to `count` neighbouring frames after `after`, in as many requests as that takes."""
        pages: list[_Rows] = []
        journal: int | None = None
        while count > 0:
            page = self.ask(after, min(count, _HTTP_PAGE_FRAMES))
            if len(page.rows) == 0 or journal not in (None, page.journal_id):
                break
            if pages and int(page.rows["frame_id"][0]) != after + 1:
                break  # the gateway no longer has the next frame, and a batch has no gaps
            journal = page.journal_id
            pages.append(page.rows)
            count -= len(page.rows)
            after = int(page.rows["frame_id"][-1])
            if after + 1 >= page.head:
                break
        if len(pages) == 1:
            return pages[0]
        return np.concatenate(pages) if pages else np.empty(0, dtype=FRAME_DTYPE)

    def view(self, count: int) -> View:
        raise ConsumerError(
            f"consumer: no shared memory with {self.name}, so no view; use read_batch({count})"
        )

    def follow(self, start: StartPosition) -> tuple[_Feed, _Place]:
        self._check_open()
        if isinstance(start, tuple):
            self._tell_of_journal(start[0], self._journal_id)
            return _HttpFeed(self), _Place(start[0], start[1] + 1, 0)
        if start == "oldest":
            return _HttpFeed(self, anew=True), _Place(None, 1, 0)
        if start == "latest":
            # The gateway's newest frame as of now; if it does not respond, as of the last response.
            with contextlib.suppress(GatewayUnreachableError):
                self.ask(_HTTP_AFTER_ALL, 1)
            return _HttpFeed(self), _Place(self._journal_id, self._head, 0)
        return _HttpFeed(self), _Place(None, int(start), 0)

    # State

    def lag(self, newest_id: int | None) -> int:
        return max(self._head - 1 - (newest_id or 0), 0)

    def stalled(self) -> bool:
        return self.backoff.failing

    def state(self) -> dict[str, Any]:
        self._check_open()
        page = self.ask(_HTTP_AFTER_ALL, 1)
        return {
            "url": self.name,
            "version": VERSION,
            "frame_size": FRAME_BYTES,
            "head": page.head,
            "journal_id": page.journal_id,
            "wait": "http",
        }

    def counters(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        self.closed = True
        self._gateway.close()

    def __str__(self) -> str:
        return f"url={self.name!r}, head={self._head}"


class _HttpFeed:
    """One follower's way through a gateway's frames: page by page, polling less often while none come.

    :param anew: whether reading begins at the first frame that the gateway has, so that no frame before it
        counts as lost.
    """

    def __init__(self, source: _HttpSource, *, anew: bool = False) -> None:
        self._source = source
        self._anew = anew
        self._next_ask = -math.inf
        self._poll_s = _HTTP_POLL_MIN_S
        self._rows = _NO_ROWS

    @property
    def failing(self) -> bool:
        """Whether the last request failed."""
        return self._source.backoff.failing

    def read(self, journal_id: int | None, wanted: int, limit: int, ahead: int) -> _Found | None:
        rows = self._in_page(journal_id, wanted, limit)
        if journal_id is not None and len(rows):
            return _Found(journal_id, wanted, rows)
        if time.monotonic() < self._next_ask:
            return None
        try:
            page = self._source.ask(wanted - 1, min(_HTTP_PAGE_FRAMES, ahead), journal_id)
            if journal_id not in (None, page.journal_id):
                return self._begun()
        except GatewayUnreachableError as error:
            self._next_ask = time.monotonic() + self._source.backoff.failed(error)
            return None
        if len(page.rows) == 0:
            self._next_ask = time.monotonic() + self._poll_s
            self._poll_s = min(2 * self._poll_s, _HTTP_POLL_MAX_S)
            return _Found(page.journal_id, wanted, page.rows) if journal_id is None else None
        self._poll_s = _HTTP_POLL_MIN_S
        self._rows = page.rows
        anew, self._anew = self._anew, False
        first = int(page.rows["frame_id"][0])
        return _Found(page.journal_id, first, page.rows[:limit], anew=anew)

    def wait(self, timeout_s: float) -> None:
        time.sleep(max(min(self._next_ask - time.monotonic(), timeout_s), 0.0))

    def _in_page(self, journal_id: int | None, wanted: int, limit: int) -> _Rows:
        """The frames from `wanted` on in the last response that had frames."""
        rows = self._rows
        if len(rows) and int(rows["journal_id"][0]) == journal_id:
            at = wanted - int(rows["frame_id"][0])
            if at >= 0:
                return rows[at : at + limit]
        return _NO_ROWS

    def _begun(self) -> _Found:
        """Where to go on after the gateway's journal has changed: at its first frame."""
        oldest = self._source.ask(0, 1)
        first = int(oldest.rows["frame_id"][0]) if len(oldest.rows) else oldest.head
        return _Found(oldest.journal_id, max(first, 1), _NO_ROWS, anew=True)


def _without_prefix(error: ConsumerError) -> str:
    return str(error).split("consumer: ", 1)[-1]


# The reader


class PhysicsConsumer:
    """A reader of the gateway's ring, or, with a `url`, of the same frames over HTTP.

    :param path: the ring's file; None means ``CS_PHYSICS_PATH``, or the system's default if that is not set.
    :param on_event: called with a :class:`RingEvent` for each restart, replacement, stall or loss, from
        inside the read that notices it. Without it the events go to the logger ``consumer``: losses at level
        INFO, the rest at WARNING.
    :param verify_checksums: whether a frame's id and checksum must fit before the reader returns it; None
        means on processors that do not show stores in order, that is all but x86. Frames over HTTP are always
        checked.
    :param url: the gateway's address, such as ``http://host:9382``, to read over HTTP instead of a ring.
        Everything works the same except ``view``, which needs shared memory. The reader polls every 5 ms
        while frames come, and up to every 250 ms while none do. It can read all frames that the gateway still
        has, not only those in its ring.
    :param token: the gateway's bearer token; None means ``GATEWAY_TOKEN`` of the environment.
    :raises RingMissingError: if no file exists at `path`.
    :raises GatewayUnreachableError: if nothing responds at `url`.
    :raises ConsumerError: if the file is not a ring of this version, or may not be read; if the gateway
        refuses the token, or something else than a gateway responds.
    :raises ValueError: for both a `path` and a `url`, or a `token` without a `url`.

    Attributes: ``path``, the ring's file or the gateway's address; ``labels``; ``lost``, how many frames
    ``read_since`` and ``follow`` have missed because they were overwritten or damaged; ``restarts``, how many
    starts of the gateway the reader has seen; ``replacements``, how many files have taken the ring's place.

    A consumer belongs to one thread; only ``close`` may be called from another, and ends ``follow`` within
    a quarter of a second. After a fork both processes may go on reading: over HTTP the child makes a
    connection of its own. A consumer can be neither copied nor pickled; the frames that it returned can, and
    keep their labels.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        on_event: EventHandler | None = None,
        verify_checksums: bool | None = None,
        url: str | None = None,
        token: str | None = None,
    ) -> None:
        tell = _Teller(on_event)
        if url is not None:
            if path is not None:
                raise ValueError("give a path or a url, not both")
            self._source: _Source = _HttpSource.connect(url, token, tell)
        else:
            if token is not None:
                raise ValueError("a token goes with a url; a ring is protected by its file's permissions")
            chosen = default_path() if path is None else os.fspath(path)
            self._source = _RingSource(chosen, tell, verify_checksums)
        self._tell = tell
        self.path = self._source.name
        self.labels = self._source.labels
        self.lost = 0
        self._newest: np.void | tuple[int, int, int] | None = None

    @property
    def restarts(self) -> int:
        """Starts of the gateway since the reader was made; always 0 over HTTP, which does not show them."""
        return self._source.counters().get("restarts", 0)

    @property
    def replacements(self) -> int:
        """Files that took the ring's place since the reader was made; always 0 over HTTP."""
        return self._source.counters().get("replacements", 0)

    # Reading without waiting

    def read_latest(self) -> Frame | None:
        """The newest frame; None before the first."""
        row = self._source.latest()
        if row is None:
            return None
        self._newest = row
        return Frame(row, self.labels)

    def read_batch(self, n: int) -> Frames:
        """The newest `n` frames, oldest first: a validated copy, without gaps.

        It has fewer frames if the ring has fewer, or if the oldest of them were overwritten during the copy.
        A batch is a snapshot, so nothing counts as lost.

        :raises ValueError: if `n` is negative.
        """
        rows = self._source.newest(_checked_count(n))
        self._handed_out(rows)
        return Frames._over(rows, self.labels)

    def read_since(self, frame_id: int, n: int = 1000) -> Frames:
        """Up to `n` frames after `frame_id`, in order and without gaps: a validated copy. Does not wait.

        ``lost`` of the result is the exact number of frames between `frame_id` and the first one returned:
        they were overwritten, or stayed damaged. To go on, pass the last ``frame_id`` of the result. If the
        result is empty nothing is lost: pass the same `frame_id` again. 0 reads from the oldest frame.

        :raises ValueError: if `n` or `frame_id` is negative.
        """
        if frame_id < 0:
            raise ValueError(f"frame_id must not be negative, got {frame_id}")
        first, rows, damaged = self._source.since(frame_id + 1, _checked_count(n))
        lost = first - (frame_id + 1)
        self._lose(lost, first, damaged)
        self._handed_out(rows)
        frames = Frames._over(rows, self.labels)
        frames.lost = lost
        return frames

    def view(self, n: int) -> View:
        """The newest `n` frames in place in the ring: no copy, the fastest way to compute over many.

        The writer may overwrite them at any time, the oldest first: compute, then call ``valid()``, and throw
        the result away if it returns False. Use it with ``with``, and copy what you want to keep. It has
        fewer frames if the ring has fewer whole ones.

        :raises ConsumerError: over HTTP.
        :raises ValueError: if `n` is negative.
        """
        return self._source.view(_checked_count(n))

    # Following

    def follow(self, start: StartPosition = "latest", *, timeout_s: float | None = None) -> Iterator[Frame]:
        """Yields each frame once, in order, and waits for the next one at little cost.

        :param start: ``"latest"``: frames published from now on; ``"oldest"``: everything the ring still has;
            a frame_id: that frame first; a ``position`` (journal_id, frame_id): the frames after it, or
            everything the ring has if it belongs to another journal.
        :param timeout_s: ends when no frame has come for this long; None waits for ever.
        :raises ConsumerError: if a file that is not a ring has taken the ring's place for more than 5 s.
        :raises ValueError: if `start` is none of these.

        It continues across restarts of the gateway and replacements of the ring, and reports them to
        ``on_event``: it reads the old ring to its end, then the new one from the same frame_id, or from its
        oldest frame if the new ring belongs to another journal. Frames that were overwritten before the
        reader could read them add to ``lost``.
        """
        feed, place = self._source.follow(_checked_start(start))
        follower = _Follower(feed, place, _ALL_FRAMES, self._lose, lambda: self._source.closed)
        return self._frames(follower, timeout_s)

    def _frames(self, follower: _Follower, timeout_s: float | None) -> Iterator[Frame]:
        source, labels = self._source, self.labels
        until = _deadline(timeout_s)
        while (rows := follower.take(_FOLLOW_BATCH, until)) is not None:
            if len(rows) == 0:
                continue
            journal_id, next_id, _ = follower.place
            assert journal_id is not None
            ids = range(next_id - len(rows), next_id)
            for frame_id, time_us, row in zip(ids, rows["timestamp_us"].tolist(), rows):
                if source.closed:
                    return
                self._newest = (journal_id, frame_id, time_us)
                yield Frame(row, labels)
            until = _deadline(timeout_s)

    # State

    @property
    def position(self) -> tuple[int, int] | None:
        """(journal_id, frame_id) of the newest frame returned: save it, go on with ``follow(position)``."""
        newest = self._handed()
        return None if newest is None else newest[:2]

    @property
    def age_ms(self) -> float | None:
        """The time since ``timestamp_us`` of the newest frame returned, in ms of this machine's clock.

        Negative if the sender's clock is ahead; None before the first frame.
        """
        newest = self._handed()
        return None if newest is None else time.time() * 1e3 - newest[2] / 1e3

    def _handed(self) -> tuple[int, int, int] | None:
        """journal_id, frame_id and timestamp_us of the newest frame returned.

        Extracted here and not in ``read_latest``, where they would take a quarter of its time.
        """
        newest = self._newest
        if isinstance(newest, np.void):
            newest = (int(newest["journal_id"]), int(newest["frame_id"]), int(newest["timestamp_us"]))
            self._newest = newest
        return newest

    @property
    def lag(self) -> int:
        """Frames published after the newest one returned; before the first, all that can be read."""
        newest = self._handed()
        return self._source.lag(None if newest is None else newest[1])

    @property
    def stalled(self) -> bool:
        """Whether the ring says that its gateway runs, but the heartbeat is more than 5 s old."""
        return self._source.stalled()

    def stats(self) -> dict[str, Any]:
        """The gateway's state and this reader's counters, by name; a name ends with its unit."""
        return {
            **self._source.state(),
            "lost": self.lost,
            "lag": self.lag,
            "age_ms": _rounded(self.age_ms),
            **self._source.counters(),
        }

    def close(self) -> None:
        """Ends ``follow``. Frames and views that were returned stay valid. May be called twice."""
        self._source.close()

    def __reduce__(self) -> Any:
        raise _unsendable("a PhysicsConsumer", "make one in each process")

    def __enter__(self) -> PhysicsConsumer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"PhysicsConsumer({self._source})"

    def _lose(self, count: int, first: int, damaged: int = 0) -> None:
        """Counts the `count` frames before `first` as lost: `damaged` unreadable, the rest overwritten."""
        self.lost += count
        if count > damaged:
            self._tell(
                "lost",
                f"{count - damaged} frames before {first} were overwritten before they could be read",
                lost=count - damaged,
            )
        if damaged > 0:
            self._tell(
                "damaged",
                f"{damaged} frames before {first} have a wrong sequence, id or checksum in the ring; "
                'left out (see them: "one_file_gateway ring verify")',
                lost=damaged,
            )

    def _handed_out(self, rows: _Rows) -> None:
        if len(rows):
            # Its numbers and not its row, because a row would keep the whole batch in memory.
            memory: Any = rows
            frame_id, time_us, journal_id = _POSITION.unpack_from(memory, (len(rows) - 1) * FRAME_BYTES)
            self._newest = (journal_id, frame_id, time_us)


def _frame_at(name: str) -> int:
    """The offset of a frame's field in bytes."""
    fields = FRAME_DTYPE.fields
    assert fields is not None
    return fields[name][1]


# frame_id, timestamp_us and journal_id of a frame
_POSITION = struct.Struct(
    f"<{_frame_at('frame_id')}xQ{_frame_at('timestamp_us') - _frame_at('frame_id') - 8}xq"
    f"{_frame_at('journal_id') - _frame_at('timestamp_us') - 8}xI"
)


def _deadline(timeout_s: float | None) -> float:
    """The instant `timeout_s` from now, in seconds of ``time.monotonic``; infinity for None."""
    return math.inf if timeout_s is None else time.monotonic() + timeout_s


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _checked_count(n: int) -> int:
    if n < 0:
        raise ValueError(f"the number of frames must not be negative, got {n}")
    return n


# The dataset


class _JoinedFeed:
    """Ring and gateway as one feed: a frame that both have comes from the ring.

    Frames that the ring has overwritten come from the gateway, and so do all frames while no ring of their
    journal is at the path.
    """

    def __init__(self, ring: _RingFeed, http: _HttpFeed) -> None:
        self._ring = ring
        self._http = http
        self._awaited: _Feed = http

    def read(self, journal_id: int | None, wanted: int, limit: int, ahead: int) -> _Found | None:
        self._awaited = self._ring
        found = self._ring.read(journal_id, wanted, limit, ahead)
        if found is not None or self._ring.expects(journal_id, wanted):
            return found
        if journal_id is None and self._http.failing and self._ring.journal_id is not None:
            # The gateway cannot name the journal now, so the ring does.
            return _Found(self._ring.journal_id, wanted, _NO_ROWS)
        # A ring that no process writes to does not mean that no gateway runs: its new ring may be about to
        # appear here, or be on another machine.
        self._awaited = self._http
        return self._http.read(journal_id, wanted, limit, ahead)

    def wait(self, timeout_s: float) -> None:
        self._awaited.wait(timeout_s)


class _Stream(_Follower):
    """One shard's frames in order: from the ring, or from the gateway if the ring does not have them.

    Without a gateway, overwritten frames are lost and counted.
    """

    def __init__(
        self,
        path: str,
        gateway: _Gateway | None,
        blocks: _Blocks,
        place: _Place,
        on_event: EventHandler | None,
    ) -> None:
        self._tell = _Teller(on_event)
        late = _LateRing(path, self._tell, optional=gateway is not None)
        ring = _RingFeed(late.observe, self._tell, sole=gateway is None)
        self._gateway = None if gateway is None else _HttpSource(gateway, self._tell)
        feed = ring if self._gateway is None else _JoinedFeed(ring, _HttpFeed(self._gateway))
        super().__init__(feed, place, blocks, self._tell_of_loss)
        self.labels = Labels(path) if self._gateway is None else self._gateway.labels

    def close(self) -> None:
        if self._gateway is not None:
            self._gateway.close()

    def _tell_of_loss(self, count: int, first: int, damaged: int) -> None:
        kind = "damaged" if damaged >= count else "lost"
        why = "damaged in the ring" if kind == "damaged" else "overwritten before they could be read"
        self._tell(kind, f"{count} frames before {first} were {why}", lost=count)


def _batches(
    stream: _Follower, batch_size: int, timeout_s: float | None, max_wait_s: float | None
) -> Iterator[tuple[_Rows, _Place]]:
    """Batches of a stream's frames, each with the place after it. A batch is valid until the next is taken.

    A batch has frames of one journal. It is smaller than `batch_size` if its first frame has waited for
    `max_wait_s`, if a frame of another journal follows, and at the end.
    """
    batch = np.empty(batch_size, dtype=FRAME_DTYPE)
    filled = 0
    place = stream.place
    quiet_since = filling_since = time.monotonic()
    while True:
        until = math.inf if timeout_s is None else quiet_since + timeout_s
        if max_wait_s is not None and filled:
            until = min(until, filling_since + max_wait_s)
        rows = stream.take(batch_size - filled, until)
        now = time.monotonic()
        if filled and stream.journal_id != place.journal_id:
            yield batch[:filled], place
            filled = 0
        place = stream.place
        if rows is not None and len(rows) == batch_size:
            # The usual case: the whole batch came in one piece, so it needs no copy.
            quiet_since = now
            yield rows, place
            continue
        if rows is not None and len(rows):
            if filled == 0:
                filling_since = now
            batch[filled : filled + len(rows)] = rows
            filled += len(rows)
            quiet_since = now
        ended = rows is None and timeout_s is not None and now - quiet_since >= timeout_s
        waited = max_wait_s is not None and now - filling_since >= max_wait_s
        if filled == batch_size or (filled and (waited or ended)):
            yield batch[:filled], place
            filled = 0
        if ended:
            return


class _Sink:
    """Makes tensors of batches: fresh ones, or, if `buffers` > 0, in that many sets of buffers in turn."""

    def __init__(self, batch_size: int, buffers: int, device: str | None) -> None:
        torch = self._torch = _torch()
        self._device = device
        self._cuda = False
        if device is not None:
            with _device_errors(device):
                self._cuda = torch.device(device).type == "cuda"
        self._sets: list[dict[str, Any]] = []
        self._copied: list[Any] = [None] * buffers
        self._turn = 0
        types = {"<f4": torch.float32, "<i8": torch.int64, "<i4": torch.int32}
        with _device_errors(device or "cpu"):
            for _ in range(buffers):
                self._sets.append(
                    {
                        name: torch.empty((batch_size, *shape), dtype=types[dtype], pin_memory=self._cuda)
                        for name, (shape, dtype) in _DATASET_TENSORS.items()
                    }
                )

    def tensors(self, frames: Frames) -> dict[str, torch.Tensor]:
        if not self._sets:
            return frames._tensors(_DATASET_TENSORS, self._device)
        turn = self._turn
        self._turn = (turn + 1) % len(self._sets)
        if self._copied[turn] is not None:
            # Until this returns, the copy to the device may still read the buffer.
            self._copied[turn].synchronize()
        tensors = {name: tensor[: len(frames)] for name, tensor in self._sets[turn].items()}
        frames._fill({name: tensor.numpy() for name, tensor in tensors.items()})
        if self._device is None:
            return tensors
        with _device_errors(self._device):
            moved = {name: tensor.to(self._device, non_blocking=True) for name, tensor in tensors.items()}
            if self._cuda:
                self._copied[turn] = self._torch.cuda.Event()
                self._copied[turn].record(self._torch.cuda.current_stream(self._device))
        return moved


# bound: workers of a DataLoader that share a `PhysicsDataset` | `ValueError`
_WORKERS_MAX = 1024
_STATE_VERSION = 1


class _Dataset:
    """All of ``PhysicsDataset`` except its base class, which would need torch.

    A resumable, endless ``IterableDataset`` of whole batches of the gateway's frames:

        dataset = PhysicsDataset(batch_size=64, start="oldest", url="http://localhost:9382")
        for batch in torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=2):
            batch["semantic"], batch["kinetics"]

    A batch of n frames is a dict of tensors: those of :meth:`Frames.tensors`, which are ``semantic``
    (n, 1024) float32, ``kinetics`` (n, 17) float32, ``timestamp_us``, ``event_seq`` and ``intent_id`` (n,)
    int64 and ``flags`` (n,) int32; and ``frame_id`` and ``model_id`` (n,) int64. Its frames are in ascending
    order, of one journal, and all of one shard. A batch that mixes models raises a
    :class:`MixedModelsWarning`.

    Shards: the dataset deals frames out by their ids, in blocks of `batch_size`, to all workers of all ranks,
    so each frame comes exactly once, wherever each of them began. If ``torch.distributed`` is initialised
    when the dataset is made, the ranks are its ranks (every rank must make the dataset: they agree on where
    "latest" is); else `shard` counts.

    :param batch_size: frames in a batch, and in a block; 1 or more.
    :param start: ``"latest"``, ``"oldest"``, a frame_id, or a saved ``PhysicsConsumer.position``, as for
        :meth:`PhysicsConsumer.follow`, but decided once for all workers, when the dataset is made. With a
        `url`, ``"oldest"`` is the oldest frame that the gateway has, not only its ring.
    :param path: the ring's file; None means ``CS_PHYSICS_PATH``, or the system's default if that is not set.
    :param url: the gateway's address. With it nothing is lost: frames that the ring has overwritten come from
        there, and so do all frames if no ring of that gateway is on this machine.
    :param token: the gateway's bearer token; None means ``GATEWAY_TOKEN`` of the environment.
    :param shard: (index, count), 0 <= index < count: this process's part without ``torch.distributed``.
    :param timeout_s: ends when no frame has come for this long; None waits for ever.
    :param max_wait_s: a batch that is not full is returned when its first frame has waited for this long;
        None: only at the end.
    :param device: where the tensors go; None leaves them on the CPU. For ``num_workers=0``.
    :param buffers: 0: each batch has tensors of its own. n: the dataset makes n sets of buffers once, in
        pinned memory for a CUDA device, and uses them in turn, so a batch is valid until n more were taken.
        Workers of a DataLoader ignore it and make fresh tensors, because they send them to another process.
    :param on_event: called with each :class:`RingEvent`, in the process that reads; it must be picklable
        if workers are spawned.
    :raises RingMissingError: if `start` needs a ring, and there is neither a ring nor a `url`.
    :raises ConsumerError: if neither ring nor gateway can be read, or torch is missing or lacks the device.
    :raises ValueError: if an argument is out of its range, or two of them contradict each other.

    An iteration goes on after the last batch that this object has returned. Workers have objects of their
    own: with ``persistent_workers=True`` they go on, without it they begin at the start again.
    """

    def __init__(
        self,
        batch_size: int = 64,
        start: StartPosition = "latest",
        *,
        path: str | os.PathLike[str] | None = None,
        url: str | None = None,
        token: str | None = None,
        shard: tuple[int, int] | None = None,
        timeout_s: float | None = None,
        max_wait_s: float | None = None,
        device: str | None = None,
        buffers: int = 0,
        on_event: EventHandler | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
        if buffers < 0:
            raise ValueError(f"buffers must not be negative, got {buffers}")
        if shard is not None and not 0 <= shard[0] < shard[1]:
            raise ValueError(f"shard is (index, count) with 0 <= index < count, got {shard!r}")
        if token is not None and url is None:
            raise ValueError("a token goes with a url; a ring is protected by its file's permissions")
        start = _checked_start(start)
        torch = _torch()
        self.batch_size = batch_size
        self.path = default_path() if path is None else os.fspath(path)
        self.url = url
        self.device = device
        self.buffers = buffers
        self.timeout_s = timeout_s
        self.max_wait_s = max_wait_s
        self._token = token
        self._on_event = on_event
        distributed = torch.distributed if torch.distributed.is_available() else None
        if distributed is not None and distributed.is_initialized():
            self._rank = (int(distributed.get_rank()), int(distributed.get_world_size()))
            if shard not in (None, self._rank):
                raise ValueError(
                    f"shard={shard!r} contradicts torch.distributed, {self._rank!r}; leave shard out"
                )
        else:
            distributed = None
            self._rank = shard or (0, 1)
        if isinstance(start, tuple):
            self._place = _Place(start[0], start[1] + 1, 0)
        elif isinstance(start, str):
            self._place = _agreed(distributed, lambda: _located(str(start), self.path, self._made_gateway()))
        else:
            self._place = _Place(None, start, 0)
        self._loaded: tuple[int, int] | None = None
        # How many workers read, and how many frames each has lost: in shared memory, for the main process.
        self._workers = torch.zeros(1 + _WORKERS_MAX, dtype=torch.int64).share_memory_()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # A copy has counters of its own, which its workers must share with it.
        self._workers.share_memory_()

    def _made_gateway(self) -> _Gateway | None:
        return None if self.url is None else _Gateway(self.url, self._token)

    def _shard(self) -> tuple[int, int]:
        """(index, count) of this process, or of this worker of it."""
        rank, world = self._rank
        worker = _torch().utils.data.get_worker_info()
        if worker is None:
            return rank, world
        return rank * worker.num_workers + worker.id, world * worker.num_workers

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """The batches of this shard: all frames except those of other ranks and workers."""
        worker = _torch().utils.data.get_worker_info()
        if worker is None:
            self._workers[0] = 0
        elif worker.num_workers > _WORKERS_MAX:
            raise ValueError(
                f"a PhysicsDataset serves at most {_WORKERS_MAX} workers, not {worker.num_workers}"
            )
        else:
            self._workers[0] = worker.num_workers
            self._workers[1 + worker.id] = self._place.lost
        return self._iterate(None if worker is None else int(worker.id))

    def _iterate(self, worker: int | None) -> Iterator[dict[str, torch.Tensor]]:
        shard = self._shard()
        if self._loaded is not None:
            self._check_shard(self._loaded, shard)
        sink = _Sink(self.batch_size, self.buffers if worker is None else 0, self.device)
        blocks = _Blocks(self.batch_size, *shard)
        stream = _Stream(self.path, self._made_gateway(), blocks, self._place, self._on_event)
        try:
            for rows, place in _batches(stream, self.batch_size, self.timeout_s, self.max_wait_s):
                frames = Frames(rows, labels=stream.labels)
                frames._warn_of_mixture(stacklevel=2)
                batch = sink.tensors(frames)
                self._place = place
                if worker is not None:
                    self._workers[1 + worker] = place.lost
                yield batch
            # Every frame was returned; this place also counts the frames lost after the last one.
            self._place = stream.place
            if worker is not None:
                self._workers[1 + worker] = stream.lost
        finally:
            stream.close()

    @property
    def lost(self) -> int:
        """The exact number of frames that were lost before they could be read, up to the last batch returned.

        In the main process of a DataLoader: the sum over its workers, up to the last batch each has read.
        """
        workers = int(self._workers[0]) if self._in_main() else 0
        return int(self._workers[1 : 1 + workers].sum()) if workers else self._place.lost

    def _in_main(self) -> bool:
        return _torch().utils.data.get_worker_info() is None

    def state_dict(self) -> dict[str, Any]:
        """Where this shard is after the last batch returned, in plain JSON types.

        In a worker of a DataLoader it is the worker's state (torchdata's StatefulDataLoader calls it there).

        :raises ConsumerError: in the main process of a DataLoader whose workers read, because only they know
            how far they are.
        """
        if self._in_main() and int(self._workers[0]) > 0:
            raise ConsumerError(
                "consumer: the workers of a DataLoader read this dataset, and the main process does not know "
                "how far they are; use torchdata's StatefulDataLoader and its state_dict(), or num_workers=0"
            )
        shard, shards = self._shard()
        return {
            "version": _STATE_VERSION,
            "journal_id": self._place.journal_id,
            "next_frame_id": self._place.next_frame_id,
            "batch_size": self.batch_size,
            "shard": shard,
            "shards": shards,
            "lost": self._place.lost,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The next iteration goes on after the batches that the saved state counts.

        :raises ValueError: if `state_dict` is not a state, or that of another batch_size, shard or number of
            shards, whose frames are others.
        """
        if state_dict.get("version") != _STATE_VERSION:
            raise ValueError(
                f"the state is of version {state_dict.get('version')!r}, this consumer.py knows version "
                f"{_STATE_VERSION}; load it with the consumer.py that saved it"
            )
        numbers = ("next_frame_id", "batch_size", "shard", "shards", "lost")
        journal_id = state_dict.get("journal_id")
        if not all(type(state_dict.get(name)) is int for name in numbers) or type(journal_id) not in (
            int,
            type(None),
        ):
            raise ValueError(f"this is not what state_dict() returns: {state_dict!r}")
        if state_dict["batch_size"] != self.batch_size:
            raise ValueError(
                f"the state was saved with batch_size={state_dict['batch_size']}, this dataset has "
                f"{self.batch_size}: its shards have other frames; make the dataset with that batch_size"
            )
        saved = (state_dict["shard"], state_dict["shards"])
        self._check_shard(saved, self._shard())
        self._loaded = saved
        self._place = _Place(journal_id, max(state_dict["next_frame_id"], 1), state_dict["lost"])
        if self._in_main():
            self._workers[0] = 0

    @staticmethod
    def _check_shard(saved: tuple[int, int], now: tuple[int, int]) -> None:
        if saved != now:
            raise ValueError(
                f"the state is that of shard {saved[0]} of {saved[1]}, this is shard {now[0]} of {now[1]}, "
                "which has other frames; go on with as many ranks and workers as before, or, to change "
                'their number, begin at start=(journal_id, the smallest "next_frame_id" of all shards - 1): '
                "frames after it that some shards had already read come again"
            )


def _agreed(distributed: Any, locate: Callable[[], _Place]) -> _Place:
    """The result of `locate`; if there are several ranks, its result in rank 0, in all of them."""
    if distributed is None:
        return locate()
    box: list[Any] = [None]
    failure: ConsumerError | None = None
    if distributed.get_rank() == 0:
        try:
            box = [tuple(locate())]
        except ConsumerError as error:
            # The other ranks wait for the broadcast, and must not wait for ever.
            box, failure = [str(error)], error
    distributed.broadcast_object_list(box, src=0)
    if isinstance(box[0], str):
        raise failure or ConsumerError(f"{box[0]} (on rank 0)")
    return _Place(*box[0])


def _located(start: str, path: str, gateway: _Gateway | None) -> _Place:
    """The place that "latest" or "oldest" means at this moment."""
    missing: ConsumerError | None = None
    ring: _Ring | None = None
    page: _Page | None = None
    try:
        ring = _Ring.open(path)
    except ConsumerError as error:
        if gateway is None:
            raise
        missing = error
    if gateway is not None:
        try:
            page = gateway.frames(0, 1) if start == "oldest" else gateway.frames(_HTTP_AFTER_ALL, 1)
        except GatewayUnreachableError as error:
            if ring is None:
                raise GatewayUnreachableError(f"{error}; and no ring can be read: {missing}") from error
        finally:
            gateway.close()
    if page is not None:
        if start == "oldest":
            first = int(page.rows["frame_id"][0]) if len(page.rows) else page.head
            return _Place(page.journal_id, first, 0)
        # The gateway counts a frame when it decides it, before the ring has it. "latest" means published.
        published = ring is not None and ring.journal_id() == page.journal_id
        head = ring.head if ring is not None and published else page.head
        return _Place(page.journal_id, head, 0)
    assert ring is not None
    return _Place(ring.journal_id(), max(ring.head if start == "latest" else ring.oldest(), 1), 0)


if TYPE_CHECKING:

    class PhysicsDataset(_Dataset, torch.utils.data.IterableDataset):  # type: ignore[misc, type-arg, unused-ignore]
        """See :class:`_Dataset`."""

else:

    def __getattr__(name):
        """Makes ``PhysicsDataset`` on first use, so that importing this module does not import torch."""
        if name != "PhysicsDataset":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            base = _torch().utils.data.IterableDataset
        except ConsumerError as missing:
            raise ImportError(str(missing)) from missing
        made = type(name, (_Dataset, base), {"__module__": __name__, "__doc__": _Dataset.__doc__})
        return globals().setdefault(name, made)


# Command line


def _printable(text: str) -> str:
    """`text` without control characters: senders choose labels, which must not control the terminal."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )


def _json(value: dict[str, Any]) -> str:
    """`value` as JSON in one line, with an escape for each character that could control the terminal."""
    text = json.dumps(value, ensure_ascii=False)
    return (
        text
        if text.isprintable()
        else "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text)
    )


def _label(text: str | None, number: int) -> str:
    return _printable(text) if text is not None else "-" if number < 0 else f"id:{number}"


def _line(frame: Frame) -> str:
    """One frame as one line of text for people."""
    flags = frame.flags
    moment = datetime(1970, 1, 1, tzinfo=timezone.utc)
    # A sender's timestamp may be out of range; the JSON output has the number itself.
    with contextlib.suppress(OverflowError, ValueError, OSError):
        moment = datetime.fromtimestamp(frame.timestamp_us / 1e6, tz=timezone.utc).astimezone()
    sentiment = f"{frame.sentiment:+.2f}" if flags & FLAG_SENTIMENT else "?"
    conversation = f"{frame.conversation_hash:016x}" if flags & FLAG_CONVERSATION else "-"
    if not flags & FLAG_CONVERSATION:
        pace = "dt -"
    elif flags & FLAG_FIRST:
        pace = f"dt first  {frame.velocity:g}/min"
    else:
        # The format allows any finite logarithm, but exp() overflows above 709.
        pace = f"dt {math.exp(min(frame.delta_time, 700.0)):.3g}s  {frame.velocity:g}/min"
    vector = (
        " ".join(f"{value:+.3f}" for value in frame.semantic[:4]) if flags & FLAG_SEMANTIC else "no vector"
    )
    return (
        f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03d}  #{frame.frame_id}  "
        f"{_label(frame.type_label, frame.type_id)}/{_label(frame.intent_label, frame.intent_id)}  "
        f"sentiment {sentiment}  conversation {conversation}  {pace}  [{vector}]"
    )


def _print_frame(frame: Frame, as_json: bool) -> None:
    print(_json(frame.to_dict()) if as_json else _line(frame), flush=True)


def _run_follow(consumer: PhysicsConsumer, start: StartPosition, as_json: bool) -> None:
    for frame in consumer.follow(start):
        _print_frame(frame, as_json)


def _newest(consumer: PhysicsConsumer, n: int) -> Frames:
    readable = consumer.lag
    frames = consumer.read_batch(n)
    if len(frames) == 0 and readable > 0 and "capacity" in consumer.stats():
        raise ConsumerError(
            f"consumer: {consumer.path} has {readable} frames by its header, but the newest are not whole; "
            'see what is wrong with them: "one_file_gateway ring verify"'
        )
    if len(frames) == 0:
        print(f"consumer: {consumer.path} has no frames yet", file=sys.stderr)
    return frames


def _run_batch(frames: Frames, as_json: bool) -> None:
    for frame in frames:
        _print_frame(frame, as_json)


def _run_stats(consumer: PhysicsConsumer, as_json: bool) -> None:
    # age_ms needs a frame that was read.
    consumer.read_latest()
    stats = consumer.stats()
    if as_json:
        print(json.dumps(stats))
        return
    for name, value in stats.items():
        print(f"{name:16} {value}")


def _run_pytorch(frames: Frames, device: str | None, as_json: bool) -> None:
    mixture = frames._mixture()
    if mixture is not None:
        print(f"consumer: {_printable(mixture)}", file=sys.stderr)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MixedModelsWarning)
        tensors = frames.tensors(device)
    if as_json:
        shapes = {
            name: {"shape": list(tensor.shape), "dtype": str(tensor.dtype), "device": str(tensor.device)}
            for name, tensor in tensors.items()
        }
        print(json.dumps({"frames": len(frames), "tensors": shapes}))
        return
    print(
        f"{len(frames)} frames" + (f", {frames.frame_id[0]} to {frames.frame_id[-1]}" if len(frames) else "")
    )
    for name, tensor in tensors.items():
        print(f"{name:13} {tuple(tensor.shape)!s:12} {tensor.dtype!s:14} {tensor.device}")
    if len(frames):
        newest = frames[-1]
        print(f"sample: frame {newest.frame_id}, event {newest.event_seq}, flags {newest.flags:#x}")
        print(
            "  semantic   "
            + " ".join(f"{value:+.4f}" for value in tensors["semantic"][-1, :8].tolist())
            + " …"
        )
        for name, value in zip(KINETICS_COLUMNS, tensors["kinetics"][-1].tolist()):
            print(f"  {name:13} {value:.6g}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="consumer.py",
        description="Reads frames of the One-File Event Gateway from shared memory, or over HTTP.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--follow", action="store_true", help="print each new frame until Ctrl-C (the default)"
    )
    parser.add_argument("--batch", type=_count, metavar="N", help="print the newest N frames, oldest first")
    parser.add_argument(
        "--pytorch", action="store_true", help="show the newest frames as tensors (50, or --batch N)"
    )
    parser.add_argument("--stats", action="store_true", help="show the ring's header and state")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object per line, 64-bit fields as strings"
    )
    parser.add_argument(
        "--path", metavar="PATH", help=f"the ring's file (default: CS_PHYSICS_PATH; now {default_path()})"
    )
    parser.add_argument(
        "--url", metavar="URL", help="read over HTTP from the gateway at URL, e.g. http://host:9382"
    )
    parser.add_argument(
        "--token", metavar="TOKEN", help="the gateway's bearer token (default: GATEWAY_TOKEN)"
    )
    parser.add_argument(
        "--from",
        dest="start",
        type=_start,
        default="latest",
        metavar="WHERE",
        help="where --follow begins: latest (default), oldest, or a frame_id",
    )
    parser.add_argument(
        "--device", metavar="DEVICE", help="where --pytorch puts its tensors, e.g. cpu, cuda, cuda:1, mps"
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of frames, 1 or more")
    return int(text)


def _start(text: str) -> StartPosition:
    if text in ("latest", "oldest"):
        return text
    if text.isdecimal() and text.isascii():
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not latest, oldest or a frame_id")


def _checked(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    once = [name for name in ("batch", "pytorch", "stats") if getattr(arguments, name)]
    if arguments.follow and once:
        parser.error(f"--follow does not go with --{once[0]}")
    if arguments.stats and len(once) > 1:
        parser.error(f"--stats does not go with --{once[0]}")
    if arguments.device is not None and not arguments.pytorch:
        parser.error("--device goes with --pytorch")
    if arguments.path is not None and arguments.url is not None:
        parser.error("--path does not go with --url")
    if arguments.token is not None and arguments.url is None:
        parser.error("--token goes with --url")
    if arguments.start != "latest" and once:
        parser.error(f"--from does not go with --{once[0]}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, or 1 if frames cannot be read. Usage errors exit with 2."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    _checked(parser, arguments)
    for stream in (sys.stdout, sys.stderr):
        # A terminal without UTF-8 shows an escape instead of ending the program.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")

    def tell(event: RingEvent) -> None:
        print(f"consumer: {event.kind}: {event.message}", file=sys.stderr, flush=True)

    try:
        with PhysicsConsumer(
            arguments.path, on_event=tell, url=arguments.url, token=arguments.token
        ) as consumer:
            if arguments.stats:
                _run_stats(consumer, arguments.json)
            elif arguments.pytorch:
                _run_pytorch(_newest(consumer, arguments.batch or 50), arguments.device, arguments.json)
            elif arguments.batch:
                _run_batch(_newest(consumer, arguments.batch), arguments.json)
            else:
                _run_follow(consumer, arguments.start, arguments.json)
            sys.stdout.flush()
    except ConsumerError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        # The reader of our output has closed it; keep the interpreter from failing on it once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
