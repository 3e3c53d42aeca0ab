"""The same bytes on both sides: src/frame.ts wrote test/golden/frames.bin, and frames.json has its values."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ring_writer import RingWriter

from consumer import FRAME_BYTES, FRAME_DTYPE, HEADER_BYTES, HEADER_DTYPE, MAGIC, Frames, PhysicsConsumer


@pytest.fixture
def table(golden: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((golden / "frames.json").read_text(encoding="utf-8"))
    return content


@pytest.fixture
def frames(golden: Path) -> Frames:
    return Frames.from_bytes((golden / "frames.bin").read_bytes())


def test_every_value_is_read_as_the_gateway_wrote_it(table: dict[str, Any], frames: Frames) -> None:
    assert table["frame_bytes"] == FRAME_BYTES
    assert len(frames) == len(table["frames"]) > 0
    for frame, expected in zip(frames, table["frames"]):
        assert expected.keys() == set(FRAME_DTYPE.names or ())
        for name, value in expected.items():
            if name == "semantic":
                padded = np.array(value + [0.0] * (1024 - len(value)), dtype=np.float64)
                assert np.array_equal(frame.semantic.astype(np.float64), padded)
            elif name == "spin":
                assert frame.spin.tolist() == value
            else:
                assert getattr(frame, name) == (int(value) if isinstance(value, str) else value), name


def test_encoding_the_values_again_gives_the_same_bytes(table: dict[str, Any], golden: Path) -> None:
    rows = np.zeros(len(table["frames"]), dtype=FRAME_DTYPE)
    for row, values in zip(rows, table["frames"]):
        for name, value in values.items():
            if name == "semantic":
                row["semantic"][: len(value)] = value
            else:
                row[name] = int(value) if isinstance(value, str) else value
    assert rows.tobytes() == (golden / "frames.bin").read_bytes()


def test_the_sequence_is_that_of_the_frames_ring(table: dict[str, Any], frames: Frames) -> None:
    expected = [2 * (int(one) // table["capacity"] + 1) for one in frames["frame_id"]]
    assert frames["sequence"].tolist() == expected


def test_the_ids_are_the_hashes_that_the_format_defines(table: dict[str, Any], frames: Frames) -> None:
    texts = {name: hashlib.sha256(text.encode()).digest() for name, text in table["texts"].items()}
    frame = frames[0]
    assert frame.conversation_hash == struct.unpack_from("<Q", texts["conversation_hash"])[0]
    assert frame.intent_id == struct.unpack_from("<I", texts["intent_id"])[0] & 0x7FFFFFFF
    assert frame.type_id == struct.unpack_from("<I", texts["type_id"])[0] & 0x7FFFFFFF
    assert frame.model_id == struct.unpack_from("<I", texts["model_id"])[0]


def test_golden_frames_in_a_ring_are_read(table: dict[str, Any], golden: Path, ring_path: Path) -> None:
    content = (golden / "frames.bin").read_bytes()
    for index, values in enumerate(table["frames"]):
        frame_bytes = content[index * FRAME_BYTES : (index + 1) * FRAME_BYTES]
        frame_id = int(values["frame_id"])
        with RingWriter(ring_path, capacity=table["capacity"], head=frame_id) as writer:
            writer.publish(payload=frame_bytes[8:])
            with PhysicsConsumer(ring_path) as consumer:
                batch = consumer.read_batch(5)
        assert batch.tobytes() == frame_bytes


def test_the_header_is_that_of_the_byte_table(writer: RingWriter) -> None:
    writer.publish(20)
    header = np.frombuffer(writer.path.read_bytes()[:HEADER_BYTES], dtype=HEADER_DTYPE)[0]
    assert header["magic"] == MAGIC
    assert MAGIC.to_bytes(8, "big") == b"PHYSICS\0"
    assert [int(header[name]) for name in ("version", "frame_size", "capacity", "head", "tail")] == [
        1,
        4224,
        16,
        21,
        5,
    ]
    assert [int(header[name]) for name in ("epoch", "waiters", "state")] == [1, 0, 1]


def test_the_document_has_every_field_at_its_offset(repository: Path) -> None:
    document = (repository / "docs" / "FRAME.md").read_text(encoding="utf-8")
    for dtype in (HEADER_DTYPE, FRAME_DTYPE):
        assert dtype.fields is not None
        for name, field in dtype.fields.items():
            assert f"| {field[1]} | {name} | " in document
