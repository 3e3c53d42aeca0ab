"""The stream under a dataset, without torch: shards, and ring and gateway as one source."""

from __future__ import annotations

import itertools
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gateway_stub import GatewayStub
from hypothesis import given, settings
from hypothesis import strategies as st
from ring_writer import RingWriter
from test_follow import eventually
from test_properties import assert_whole
from test_remote import closed_port

import consumer as module
from consumer import ConsumerError, Frames, RingEvent, _Blocks, _Gateway, _JoinedFeed, _Place, _Stream

ALL = _Blocks(4, 0, 1)
BEGINNING = _Place(7, 1, 0)


def stream(
    path: Path,
    blocks: _Blocks = ALL,
    place: _Place = BEGINNING,
    *,
    url: str | None = None,
    events: list[RingEvent] | None = None,
) -> _Stream:
    gateway = None if url is None else _Gateway(url, None)
    told: list[RingEvent] = [] if events is None else events
    return _Stream(str(path), gateway, blocks, place, told.append)


def drain(one: _Stream, size: int = 4, timeout_s: float = 0.0) -> list[int]:
    """The ids of all frames, in batches of `size`. Checks each frame."""
    ids: list[int] = []
    for rows, _ in module._batches(one, size, timeout_s, None):
        assert 0 < len(rows) <= size
        for row in rows:
            assert_whole(Frames(np.array([row])))
        ids += rows["frame_id"].tolist()
    return ids


def ask_at_once(one: _Stream) -> None:
    """Forgets the pause before the next request."""
    assert isinstance(one._feed, _JoinedFeed)
    one._feed._http._next_ask = 0


def kinds(events: list[RingEvent]) -> list[str]:
    return [event.kind for event in events]


# Shards


@given(
    size=st.integers(1, 7),
    shards=st.integers(1, 5),
    low=st.one_of(st.integers(1, 60), st.integers(2**53, 2**53 + 60)),
    count=st.integers(0, 80),
)
def test_each_frame_belongs_to_one_shard_and_the_arithmetic_agrees(
    size: int, shards: int, low: int, count: int
) -> None:
    owned = []
    for shard in range(shards):
        blocks = _Blocks(size, shard, shards)
        own = [one for one in range(low, low + count) if (one - 1) // size % shards == shard]
        assert blocks.own_between(low, low + count) == len(own)
        walked = []
        at = blocks.next_own(low)
        while at < low + count:
            walked.append(at)
            assert at < blocks.end(at)
            assert (one := blocks.end(at)) - at <= size or shards == 1
            assert one == at + 1 or blocks.next_own(at + 1) == at + 1
            at = blocks.next_own(at + 1)
        assert walked == own
        owned += own
    assert sorted(owned) == list(range(low, low + count))


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayStub]:
    with GatewayStub() as stub:
        yield stub


steps = st.lists(
    st.tuples(
        st.integers(0, 30),  # frames published
        st.integers(0, 4),  # which shard reads
        st.integers(0, 4),  # batches it takes
        st.booleans(),  # and is killed and resumed afterwards
    ),
    max_size=12,
)


@settings(max_examples=100)
@given(
    capacity=st.integers(1, 24),
    size=st.integers(1, 6),
    shards=st.integers(1, 4),
    start=st.integers(1, 9),
    steps=steps,
    with_gateway=st.booleans(),
    kept=st.one_of(st.integers(1, 60), st.just(10_000)),
)
def test_every_frame_comes_once_over_all_shards_or_is_counted_as_lost(
    gateway: GatewayStub,
    capacity: int,
    size: int,
    shards: int,
    start: int,
    steps: list[tuple[int, int, int, bool]],
    with_gateway: bool,
    kept: int,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ring")
        gateway.oldest = gateway.head = 1
        with RingWriter(path, capacity) as writer:
            url = gateway.url if with_gateway else None
            places = [_Place(7, start, 0)] * shards
            blocks = [_Blocks(size, shard, shards) for shard in range(shards)]
            running = [stream(path, blocks[one], places[one], url=url) for one in range(shards)]
            taking = [module._batches(one, size, 0.0, None) for one in running]
            seen: list[list[int]] = [[] for _ in range(shards)]

            def resume(shard: int) -> None:
                running[shard].close()
                running[shard] = stream(path, blocks[shard], places[shard], url=url)
                taking[shard] = module._batches(running[shard], size, 0.0, None)

            def read(shard: int, batches: int) -> None:
                for _ in range(batches):
                    batch = next(taking[shard], None)
                    if batch is None:
                        places[shard] = running[shard].place
                        return resume(shard)
                    assert_whole_each(batch[0])
                    seen[shard] += batch[0]["frame_id"].tolist()
                    places[shard] = batch[1]
                return None

            for published, reader, batches, killed in steps:
                writer.publish(published)
                gateway.publish(published)
                gateway.oldest = max(gateway.oldest, gateway.head - kept)
                read(reader % shards, batches)
                if killed:
                    resume(reader % shards)
            for shard in range(shards):
                resume(shard)
                read(shard, 10_000)
                running[shard].close()
            everything = sorted(one for shard in seen for one in shard)
            assert len(set(everything)) == len(everything)
            for shard in range(shards):
                assert seen[shard] == sorted(seen[shard])
                assert all((one - 1) // size % shards == shard for one in seen[shard])
            lost = sum(place.lost for place in places)
            assert len(everything) + lost == max(writer.head - start, 0)
            if with_gateway and gateway.oldest <= start:
                assert lost == 0


def assert_whole_each(rows: np.ndarray) -> None:  # type: ignore[type-arg]
    """Like assert_whole, for frames that are not neighbours."""
    value = (rows["frame_id"] % np.uint64(1_000_003)).astype(np.float32)
    assert (rows["semantic"] == value[:, None]).all()
    assert (rows["spin"] == value[:, None]).all()
    assert np.array_equal(rows["event_seq"], rows["frame_id"] + np.uint64(5))


def test_a_shard_downloads_only_its_own_blocks(tmp_path: Path) -> None:
    with GatewayStub() as gateway:
        gateway.publish(40)
        own = stream(tmp_path / "none", _Blocks(5, 1, 3), url=gateway.url)
        assert drain(own, 5) == [*range(6, 11), *range(21, 26), *range(36, 41)]
        own.close()
        for after, limit in gateway.requests[:-1]:
            assert (after // 5 % 3, limit) == (1, 5)


# Joining


def test_frames_that_the_ring_has_overwritten_come_from_the_gateway(writer: RingWriter) -> None:
    writer.publish(100)
    with GatewayStub() as gateway:
        gateway.publish(100)
        events: list[RingEvent] = []
        one = stream(writer.path, url=gateway.url, events=events)
        assert drain(one) == list(range(1, 101))
        assert (one.lost, events) == (0, [])
        before = len(gateway.requests)
        writer.publish(10)
        gateway.publish(10)
        assert drain(one) == list(range(101, 111))
        assert len(gateway.requests) == before, "frames that the ring has were requested over HTTP"
        one.close()


def test_without_a_gateway_overwritten_frames_are_counted(writer: RingWriter) -> None:
    events: list[RingEvent] = []
    writer.publish(100)
    shards = [stream(writer.path, _Blocks(8, shard, 3), events=events) for shard in range(3)]
    seen = [drain(one) for one in shards]
    assert sorted(itertools.chain(*seen)) == list(range(85, 101))
    assert [one.lost for one in shards] == [len([i for i in range(84) if i // 8 % 3 == n]) for n in range(3)]
    assert kinds(events) == ["lost"] * 3


def test_frames_that_the_gateway_no_longer_has_are_counted_by_their_shard(tmp_path: Path) -> None:
    events: list[RingEvent] = []
    with GatewayStub() as gateway:
        gateway.publish(30)
        gateway.oldest = 14
        shards = [
            stream(tmp_path / "none", _Blocks(4, shard, 3), url=gateway.url, events=events)
            for shard in range(3)
        ]
        seen = [drain(one) for one in shards]
        for one in shards:
            one.close()
    assert sorted(itertools.chain(*seen)) == list(range(14, 31))
    assert [one.lost for one in shards] == [len([i for i in range(13) if i // 4 % 3 == n]) for n in range(3)]
    assert kinds(events) == ["lost"] * 3


def test_a_damaged_frame_comes_from_the_gateway_or_counts_as_lost(writer: RingWriter) -> None:
    writer.publish(10)
    writer.sequence(5, 1)
    writer.sequence(10, 1)
    events: list[RingEvent] = []
    alone = stream(writer.path, events=events)
    assert drain(alone) == [1, 2, 3, 4, 6, 7, 8, 9]
    assert (alone.lost, kinds(events)) == (1, ["damaged"])
    with GatewayStub() as gateway:
        gateway.publish(10)
        one = stream(writer.path, url=gateway.url)
        assert drain(one) == list(range(1, 11))
        assert one.lost == 0
        one.close()


def test_without_a_ring_all_frames_come_over_http_until_a_ring_exists(
    ring_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.0)
    with GatewayStub() as gateway:
        gateway.publish(10)
        one = stream(ring_path, url=gateway.url)
        assert drain(one) == list(range(1, 11))
        with RingWriter(ring_path, capacity=16) as writer:
            writer.publish(20)
            gateway.publish(5)
            # The ring has more frames than the gateway has reported, so they come from the ring.
            assert drain(one) == list(range(11, 21))
        one.close()


@pytest.mark.parametrize("stranger", ["another gateway's ring", "an empty ring", "no ring"])
def test_a_ring_of_another_gateway_is_not_read(ring_path: Path, stranger: str) -> None:
    with GatewayStub() as gateway, RingWriter(ring_path, capacity=16, journal_id=99) as writer:
        gateway.publish(10)
        if stranger == "another gateway's ring":
            writer.publish(30)
        elif stranger == "no ring":
            ring_path.unlink()
            ring_path.write_bytes(b"something else" * 10)
        events: list[RingEvent] = []
        one = stream(ring_path, url=gateway.url, events=events)
        assert drain(one) == list(range(1, 11))
        gateway.publish(2)
        ask_at_once(one)
        assert drain(one) == [11, 12]
        assert (one.journal_id, one.lost, events) == (7, 0, [])
        one.close()
        if stranger == "no ring":
            with pytest.raises(ConsumerError, match="no physics ring"):
                drain(stream(ring_path))


def test_while_the_gateway_is_down_the_ring_is_read_and_the_failure_is_reported_once(
    writer: RingWriter,
) -> None:
    writer.publish(100)
    events: list[RingEvent] = []
    port = closed_port()
    one = stream(writer.path, place=_Place(7, 90, 0), url=f"http://127.0.0.1:{port}", events=events)
    assert drain(one) == list(range(90, 101))
    assert events == []
    writer.publish(30)
    for _ in range(4):
        ask_at_once(one)
        assert drain(one) == []
    assert (one.lost, kinds(events)) == (0, ["unreachable"])
    with GatewayStub(port=port) as gateway:
        gateway.publish(130)
        ask_at_once(one)
        assert drain(one) == list(range(101, 131))
    assert (one.lost, kinds(events)) == (0, ["unreachable", "reachable"])
    one.close()


def test_while_the_gateway_is_down_a_ring_of_an_unknown_journal_is_read_as_its_ring(
    writer: RingWriter,
) -> None:
    writer.publish(100)
    events: list[RingEvent] = []
    one = stream(
        writer.path, place=_Place(None, 90, 0), url=f"http://127.0.0.1:{closed_port()}", events=events
    )
    assert drain(one) == []
    assert drain(one) == list(range(90, 101))
    assert (one.journal_id, kinds(events)) == (7, ["unreachable"])
    one.close()


def test_a_ring_without_a_writer_does_not_hide_the_frames_of_the_gateway(writer: RingWriter) -> None:
    writer.publish(10)
    with GatewayStub() as gateway:
        gateway.publish(15)
        one = stream(writer.path, url=gateway.url)
        assert drain(one) == list(range(1, 11))
        writer.state(2)
        assert drain(one) == list(range(11, 16))
        one.close()


def test_a_replaced_ring_is_read_to_its_end_and_frames_that_the_new_one_lacks_are_fetched(
    writer: RingWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.0)
    writer.publish(20)
    with GatewayStub() as gateway:
        gateway.publish(40)
        for url in (None, gateway.url):
            one = stream(writer.path, place=_Place(7, 8, 0), url=url)
            assert one.take(4, 0) is not None
            with RingWriter(writer.path, capacity=4, head=21) as successor:
                successor.publish(20)
                writer.state(3)
                rest = drain(one)
                if url is None:
                    assert (rest, one.lost) == ([*range(12, 21), *range(37, 41)], 16)
                else:
                    assert (rest, one.lost) == (list(range(12, 41)), 0)
            one.close()
            with RingWriter(writer.path, capacity=16) as again:
                again.publish(20)
            writer.state(1)


@pytest.mark.parametrize("with_gateway", [True, False])
def test_another_journal_begins_a_new_batch_at_its_oldest_frame(
    writer: RingWriter, monkeypatch: pytest.MonkeyPatch, with_gateway: bool
) -> None:
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.0)
    writer.publish(6)
    events: list[RingEvent] = []
    with GatewayStub() as gateway:
        gateway.publish(6)
        one = stream(writer.path, url=gateway.url if with_gateway else None, events=events)
        taking = module._batches(one, 4, 1.0, None)
        assert next(taking)[0]["frame_id"].tolist() == [1, 2, 3, 4]
        successor = RingWriter(writer.path, capacity=16, journal_id=8)
        successor.publish(3)
        gateway.journal_id, gateway.head = 8, 4
        writer.state(3)
        rows, place = next(taking)
        assert (rows["frame_id"].tolist(), place) == ([5, 6], _Place(7, 7, 0))
        rows, place = next(taking)
        assert (rows["journal_id"].tolist(), rows["frame_id"].tolist()) == ([8, 8, 8], [1, 2, 3])
        assert place == _Place(8, 4, 0)
        assert "journal_changed" in kinds(events)
        one.close()


def test_a_saved_place_of_another_journal_begins_at_the_oldest_frame(writer: RingWriter) -> None:
    writer.publish(20)
    events: list[RingEvent] = []
    one = stream(writer.path, place=_Place(99, 18, 3), events=events)
    assert drain(one) == list(range(5, 21))
    assert (one.lost, kinds(events)) == (3, ["journal_changed"])


def test_a_missing_ring_is_awaited_and_reported_once(ring_path: Path) -> None:
    events: list[RingEvent] = []
    one = stream(ring_path, place=_Place(None, 1, 0), events=events)
    seen: list[int] = []
    reader = threading.Thread(target=lambda: seen.extend(drain(one, 2, timeout_s=1.0)), daemon=True)
    reader.start()
    eventually(lambda: kinds(events) == ["unreachable"])
    with RingWriter(ring_path, capacity=16) as writer:
        writer.publish(4)
        reader.join(30)
    assert (seen, kinds(events)) == ([1, 2, 3, 4], ["unreachable", "reachable"])


# Batches


def test_a_batch_that_is_not_full_waits_or_is_returned_after_max_wait(writer: RingWriter) -> None:
    writer.publish(6)
    taking = module._batches(stream(writer.path), 4, None, 0.05)
    assert len(next(taking)[0]) == 4
    start = time.monotonic()
    assert next(taking)[0]["frame_id"].tolist() == [5, 6]
    assert time.monotonic() - start >= 0.05
    patient = module._batches(stream(writer.path), 4, 0.1, None)
    assert [len(rows) for rows, _ in patient] == [4, 2]


def test_the_place_after_a_batch_follows_its_last_frame(writer: RingWriter) -> None:
    writer.publish(100)
    for shards in (1, 2):
        for rows, place in module._batches(stream(writer.path, _Blocks(4, 0, shards)), 3, 0.0, None):
            assert place.next_frame_id == int(rows["frame_id"][-1]) + 1
            assert place.lost == (84 if shards == 1 else 44)
