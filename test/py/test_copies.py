"""Frames, labels and readers that are copied, pickled, sent to another process or used after a fork."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import threading
from collections.abc import Iterator
from typing import Any, Callable

import numpy as np
import pytest
from gateway_stub import GatewayStub
from ring_writer import RingWriter

from consumer import FRAME_DTYPE, Frame, Frames, PhysicsConsumer

LABELS = {
    "types": {"6": "Order"},
    "intents": {"5": "Cancel", "8": "of another frame"},
    "models": {"9": {"name": "hashing", "dim": 1024}},
}


@pytest.fixture(params=["ring", "http"])
def consumer(request: pytest.FixtureRequest, writer: RingWriter) -> Iterator[PhysicsConsumer]:
    """A reader of the frames 1 to 3, of which the first has neither a type nor an intent."""
    writer.labels(LABELS)
    writer.publish_fields(type_id=-1, intent_id=-1)
    for _ in range(2):
        writer.publish_fields(type_id=6, intent_id=5, model_id=9)
    if request.param == "ring":
        with PhysicsConsumer(writer.path) as reader:
            yield reader
        return
    with GatewayStub(token="secret") as gateway:
        gateway.labels = LABELS
        for frame_id in (1, 2, 3):
            at = writer.offset(frame_id) + 8
            gateway.payloads[frame_id] = writer.map[at : at + 4216]
        gateway.publish(3)
        with PhysicsConsumer(url=gateway.url, token="secret") as reader:
            yield reader


def labels_of(frames: Frames) -> list[tuple[Any, Any, Any]]:
    return [(frame.type_label, frame.intent_label, frame.model_name) for frame in frames]


EXPECTED = [("UnknownEvent", None, None), ("Order", "Cancel", "hashing"), ("Order", "Cancel", "hashing")]


def _pickled(protocol: int) -> Callable[[Any], Any]:
    return lambda value: pickle.loads(pickle.dumps(value, protocol))


COPIES: dict[str, Callable[[Any], Any]] = {
    **{f"pickle {protocol}": _pickled(protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)},
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_of_frames_keeps_values_labels_and_lost(consumer: PhysicsConsumer, how: str) -> None:
    frames = consumer.read_batch(3)
    frames.lost = 7
    copied = COPIES[how](frames)
    assert (type(copied), copied.dtype, copied.lost) == (Frames, FRAME_DTYPE, 7)
    assert copied.tobytes() == frames.tobytes()
    assert not np.shares_memory(copied, frames)
    if how.startswith("pickle"):
        # Other copies share the labels of the original.
        consumer.close()
    assert labels_of(copied) == EXPECTED
    assert copied[1:].type_label.tolist() == ["Order", "Order"]


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_of_a_frame_keeps_values_and_labels(consumer: PhysicsConsumer, how: str) -> None:
    frame = consumer.read_batch(3)[1]
    copied = COPIES[how](frame)
    assert (type(copied), copied.frame_id) == (Frame, 2)
    assert copied.to_dict() == frame.to_dict()
    assert (copied.type_label, copied.intent_label, copied.model_name) == EXPECTED[1]


def test_pickled_frames_carry_no_token_and_only_their_own_labels(consumer: PhysicsConsumer) -> None:
    pickled = pickle.dumps([consumer.read_batch(3), consumer.read_latest()])
    assert b"Cancel" in pickled
    assert b"secret" not in pickled
    assert b"of another frame" not in pickled


@pytest.mark.parametrize("how", COPIES)
def test_copied_labels_are_those_known(consumer: PhysicsConsumer, how: str) -> None:
    labels = COPIES[how](consumer.labels)
    assert (labels.type(6), labels.intent(8), labels.model(9)) == ("Order", "of another frame", "hashing")
    assert labels.type(77) is None


def test_a_selection_of_fields_and_other_arrays_pickle_as_numpy_does(consumer: PhysicsConsumer) -> None:
    frames = consumer.read_batch(3)
    for array in (frames["sentiment"], frames[["frame_id", "flags"]], frames.semantic, frames == frames):
        assert np.array_equal(pickle.loads(pickle.dumps(array)), array)
    assert pickle.loads(pickle.dumps(frames[:0])).shape == (0,)


@pytest.mark.parametrize("how", COPIES)
def test_a_reader_and_a_view_can_be_neither_copied_nor_pickled(writer: RingWriter, how: str) -> None:
    writer.publish(3)
    with PhysicsConsumer(writer.path) as consumer, consumer.view(2) as view:
        with pytest.raises(
            TypeError, match=r"a PhysicsConsumer belongs to one process.*make one in each process"
        ):
            COPIES[how](consumer)
        with pytest.raises(TypeError, match=r"a View belongs to one process.*read_batch"):
            COPIES[how](view)


def _labels_elsewhere(frames: Frames, frame: Frame) -> tuple[list[tuple[Any, Any, Any]], str | None]:
    return labels_of(frames), frame.type_label


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_frames_that_a_pool_gets_and_returns_keep_their_labels(
    consumer: PhysicsConsumer, method: str
) -> None:
    frames = consumer.read_batch(3)
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.starmap(_labels_elsewhere, [(frames, frames[2])]) == [(EXPECTED, "Order")]
        returned = pool.map(copy.copy, [frames])[0]
    assert labels_of(returned) == EXPECTED


def in_children(count: int, work: Callable[[int], bool]) -> list[int]:
    """The exit codes of forked children: 0 if `work` of the child's number returned True."""
    children = []
    for number in range(count):
        child = os.fork()
        if child == 0:
            code = 3
            try:
                code = 0 if work(number) else 2
            finally:
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_children_and_their_parent_read_with_the_same_reader(consumer: PhysicsConsumer) -> None:
    frames = consumer.read_batch(3)

    def read(number: int) -> bool:
        right = labels_of(consumer.read_batch(3)) == EXPECTED
        return right and consumer.read_since(number)["frame_id"].tolist() == list(range(number + 1, 4))

    assert in_children(4, read) == [0] * 4
    assert consumer.read_batch(3).tobytes() == frames.tobytes()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_each_forked_child_has_a_connection_of_its_own() -> None:
    with GatewayStub() as gateway:
        gateway.publish(10)
        with PhysicsConsumer(url=gateway.url) as consumer:
            assert (len(consumer.read_batch(3)), gateway.connections) == (3, 1)
            assert in_children(3, lambda number: len(consumer.read_since(number, 5)) == 5) == [0] * 3
            assert gateway.connections == 4
            # The children's ends have not closed the parent's connection.
            assert (len(consumer.read_batch(3)), gateway.connections) == (3, 4)

            # A child that closes the reader closes its own side only.
            def close(_: int) -> bool:
                consumer.close()
                return True

            assert in_children(1, close) == [0]
            assert (len(consumer.read_batch(3)), gateway.connections) == (3, 4)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_while_another_thread_waits_for_a_response_does_not_block_the_child() -> None:
    with GatewayStub() as gateway:
        gateway.publish(10)
        waits, goes_on = threading.Event(), threading.Event()

        def hold(body: bytes, headers: dict[str, str]) -> tuple[bytes, dict[str, str]]:
            gateway.change = None
            waits.set()
            goes_on.wait(60)
            return body, headers

        with PhysicsConsumer(url=gateway.url) as consumer:
            gateway.change = hold
            reads: list[Frames] = []
            reader = threading.Thread(target=lambda: reads.append(consumer.read_since(0, 5)))
            reader.start()
            assert waits.wait(60)
            assert in_children(2, lambda number: len(consumer.read_since(number, 3)) == 3) == [0, 0]
            goes_on.set()
            reader.join()
            assert reads[0]["frame_id"].tolist() == [1, 2, 3, 4, 5]


def test_threads_that_share_a_remote_reader_get_their_own_frames() -> None:
    with GatewayStub() as gateway:
        gateway.publish(500)
        with PhysicsConsumer(url=gateway.url) as consumer:
            wrong: list[tuple[int, list[int]]] = []

            def read(number: int) -> None:
                for start in range(100 * number, 100 * number + 50):
                    found = consumer.read_since(start, 5)["frame_id"].tolist()
                    if found != list(range(start + 1, start + 6)):
                        wrong.append((start, found))

            threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert wrong == []
