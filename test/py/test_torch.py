"""Tensors, with the installed torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ring_writer import RingWriter

from consumer import ConsumerError, Frames, MixedModelsWarning, PhysicsConsumer

CONSUMER = str(Path(__file__).resolve().parents[2] / "consumer.py")

SHAPES = {
    "semantic": ((50, 1024), "torch.float32"),
    "kinetics": ((50, 17), "torch.float32"),
    "timestamp_us": ((50,), "torch.int64"),
    "event_seq": ((50,), "torch.int64"),
    "intent_id": ((50,), "torch.int64"),
    "flags": ((50,), "torch.int32"),
}


@pytest.fixture
def ring(ring_path: Path) -> Path:
    with RingWriter(ring_path, capacity=64) as writer:
        writer.publish(100)
    return ring_path


@pytest.fixture(scope="module", autouse=True)
def _torch() -> None:
    pytest.importorskip("torch")


def test_tensors_have_the_documented_shapes_types_and_values(ring: Path) -> None:
    with PhysicsConsumer(ring) as consumer:
        frames = consumer.read_batch(50)
    tensors = frames.tensors()
    assert {name: (tuple(one.shape), str(one.dtype)) for name, one in tensors.items()} == SHAPES
    assert np.array_equal(tensors["semantic"].numpy(), frames["semantic"])
    assert np.array_equal(tensors["kinetics"].numpy(), frames.kinetics())
    assert tensors["event_seq"].tolist() == list(range(56, 106))
    assert tensors["intent_id"].tolist() == [-1] * 50
    assert tensors["flags"].tolist() == [15] * 50
    assert tensors["timestamp_us"].tolist() == frames["timestamp_us"].tolist()


def test_tensors_have_their_own_memory(ring: Path) -> None:
    with PhysicsConsumer(ring) as consumer:
        frames = consumer.read_batch(5)
    tensors = frames.tensors("cpu")
    tensors["semantic"].zero_()
    assert frames["semantic"][0, 0] == 96.0
    assert tensors["semantic"].is_contiguous()


def test_a_batch_has_fewer_frames_if_the_ring_has_fewer(ring_path: Path) -> None:
    with RingWriter(ring_path, capacity=64) as writer, PhysicsConsumer(ring_path) as consumer:
        assert tuple(consumer.read_batch(50).tensors()["semantic"].shape) == (0, 1024)
        writer.publish(3)
        assert tuple(consumer.read_batch(50).tensors()["kinetics"].shape) == (3, 17)


def test_owned_batches_are_exported_without_a_copy(ring: Path) -> None:
    import torch

    with PhysicsConsumer(ring) as consumer:
        frames = consumer.read_batch(5)
        latest = consumer.read_latest()
        with consumer.view(5) as view, pytest.raises(BufferError):
            torch.from_dlpack(view["semantic"])
    assert latest is not None
    for array in (frames.semantic, Frames.from_bytes(frames.tobytes()).semantic, latest.semantic):
        tensor = torch.from_dlpack(array)
        assert tuple(tensor.shape) == array.shape
        assert tensor.data_ptr() == array.__array_interface__["data"][0]
        tensor.zero_()
        assert not array.any()
    assert frames["frame_id"].tolist() == [96, 97, 98, 99, 100]


def test_tensors_of_several_models_warn_and_name_them(writer: RingWriter) -> None:
    writer.labels({"models": {"31": {"name": "bge-m3", "dim": 1024}}})
    for model_id in (31, 8, 0):
        writer.publish_fields(model_id=model_id)
    with PhysicsConsumer(writer.path) as consumer:
        frames = consumer.read_batch(3)
        with pytest.warns(MixedModelsWarning, match=r"frames 1 to 3 .* 2 models: id 8, bge-m3;") as caught:
            frames.tensors()
        assert caught[0].filename == __file__
        frames[1:].tensors()
    result = subprocess.run(
        [sys.executable, "-W", "error", CONSUMER, "--pytorch", "--path", str(writer.path)],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert result.returncode == 0
    (line,) = result.stderr.splitlines()
    assert "2 models: id 8, bge-m3" in line


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_a_device_that_torch_does_not_have_is_named(ring: Path, device: str) -> None:
    with PhysicsConsumer(ring) as consumer, pytest.raises(ConsumerError, match=device):
        consumer.read_batch(5).tensors(device)


def test_the_command_line_shows_shapes_types_device_and_a_sample(ring: Path) -> None:
    result = subprocess.run(
        [sys.executable, CONSUMER, "--pytorch", "--batch", "50", "--device", "cpu", "--path", str(ring)],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["50", "frames,", "51", "to", "100"]
    for name, (shape, dtype) in SHAPES.items():
        assert [name, *str(shape).split(), dtype, "cpu"] in lines
    assert "sample: frame 100, event 105" in result.stdout
