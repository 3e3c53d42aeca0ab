"""The follow loop and its feeds, each by itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from gateway_stub import GatewayStub
from ring_writer import RingWriter
from test_remote import closed_port

import consumer as module
from consumer import (
    _ALL_FRAMES,
    FRAME_DTYPE,
    ConsumerError,
    RingEvent,
    _Blocks,
    _Follower,
    _Found,
    _Gateway,
    _HttpFeed,
    _HttpSource,
    _JoinedFeed,
    _LateRing,
    _Place,
    _RingFeed,
    _RingSource,
    _Rows,
    _Teller,
)

BEGINNING = _Place(7, 1, 0)


class Clock:
    """Replaces the reader's ``time``. It advances if the test says so, and while the reader sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    time = staticmethod(time.time)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 6))
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def rows_of(first: int, count: int, journal_id: int = 7) -> _Rows:
    rows = np.zeros(count, dtype=FRAME_DTYPE)
    rows["frame_id"] = np.arange(first, first + count)
    rows["journal_id"] = journal_id
    return rows


def found(first: int, count: int, journal_id: int = 7, *, damaged: int = 0, anew: bool = False) -> _Found:
    return _Found(journal_id, first, rows_of(first, count, journal_id), damaged, anew)


class ScriptedFeed:
    """Returns the given results, one for each read, and then None."""

    def __init__(self, *results: _Found | None, clock: Clock | None = None) -> None:
        self.results = list(results)
        self.clock = clock
        self.reads: list[tuple[int | None, int, int, int]] = []
        self.waits: list[float] = []

    def read(self, journal_id: int | None, wanted: int, limit: int, ahead: int) -> _Found | None:
        self.reads.append((journal_id, wanted, limit, ahead))
        return self.results.pop(0) if self.results else None

    def wait(self, timeout_s: float) -> None:
        self.waits.append(round(timeout_s, 6))
        if self.clock is not None:
            self.clock.now += timeout_s


class Losses:
    def __init__(self) -> None:
        self.calls: list[tuple[int, int, int]] = []

    def __call__(self, count: int, first: int, damaged: int) -> None:
        self.calls.append((count, first, damaged))


def follower(
    feed: ScriptedFeed, place: _Place = BEGINNING, blocks: _Blocks = _ALL_FRAMES
) -> tuple[_Follower, Losses]:
    losses = Losses()
    return _Follower(feed, place, blocks, losses), losses


def taken(one: _Follower, limit: int = 100) -> list[int] | None:
    rows = one.take(limit, 0.0)
    return None if rows is None else [int(frame_id) for frame_id in rows["frame_id"]]


# The loop


def test_a_follower_takes_the_frames_of_the_feed_and_its_place_is_after_them() -> None:
    feed = ScriptedFeed(found(1, 3), found(4, 2))
    one, losses = follower(feed)
    assert (taken(one), one.place) == ([1, 2, 3], _Place(7, 4, 0))
    assert (taken(one, 2), one.place) == ([4, 5], _Place(7, 6, 0))
    assert taken(one) is None
    assert [read[:3] for read in feed.reads] == [(7, 1, 100), (7, 4, 2), (7, 6, 100)]
    assert (losses.calls, one.lost) == ([], 0)


def test_a_follower_waits_in_short_steps_until_its_deadline(clock: Clock) -> None:
    feed = ScriptedFeed(clock=clock)
    one, _ = follower(feed)
    assert one.take(10, clock.now + 0.6) is None
    assert feed.waits == [0.25, 0.25, 0.1]
    # It looks once more when the time is over, and returns the frames that came meanwhile.
    assert len(feed.reads) == 4


def test_a_follower_without_a_deadline_waits_until_a_frame_comes(clock: Clock) -> None:
    feed = ScriptedFeed(*[None] * 50, found(1, 1), clock=clock)
    one, _ = follower(feed)
    rows = one.take(10, float("inf"))
    assert rows is not None
    assert rows["frame_id"].tolist() == [1]
    assert feed.waits == [0.25] * 50


def test_closing_the_reader_ends_the_wait(clock: Clock) -> None:
    feed = ScriptedFeed(clock=clock)
    one = _Follower(feed, _Place(7, 1, 0), _ALL_FRAMES, Losses(), lambda: len(feed.waits) == 3)
    assert one.take(10, float("inf")) is None
    assert len(feed.waits) == 3


def test_a_gap_counts_as_lost_and_its_damaged_frames_are_reported() -> None:
    one, losses = follower(ScriptedFeed(found(1, 1), found(10, 2, damaged=3)))
    assert [taken(one), taken(one)] == [[1], [10, 11]]
    assert (losses.calls, one.place) == ([(8, 10, 3)], _Place(7, 12, 8))


def test_a_shard_counts_and_returns_only_its_own_frames() -> None:
    # With blocks of 4, the second of three shards has the frames 5 to 8, 17 to 20 and 29 to 32.
    blocks = _Blocks(4, 1, 3)
    feed = ScriptedFeed(found(7, 20), found(10, 4), found(30, 20))
    one, losses = follower(feed, blocks=blocks)
    assert (taken(one), losses.calls.pop()) == ([7, 8], (2, 7, 0))
    # The gap ends in a block of another shard, so this shard has no frame there.
    feed.results[0] = found(21, 4)
    assert (taken(one), losses.calls.pop()) == ([], (4, 21, 0))
    assert (taken(one), losses.calls.pop()) == ([30, 31, 32], (1, 30, 0))
    assert one.place == _Place(7, 33, 7)
    assert [read[1:] for read in feed.reads] == [(5, 4, 4), (17, 4, 4), (29, 4, 4)]


def test_a_feed_that_begins_anew_counts_no_loss() -> None:
    one, losses = follower(ScriptedFeed(found(500, 0, 8, anew=True), found(500, 2, 8)), _Place(7, 40, 5))
    assert (taken(one), one.place) == ([], _Place(8, 500, 5))
    assert (taken(one), one.place) == ([500, 501], _Place(8, 502, 5))
    assert losses.calls == []


def test_a_follower_learns_the_journal_without_moving() -> None:
    one, losses = follower(ScriptedFeed(found(5, 0)), _Place(None, 2, 0), _Blocks(4, 1, 2))
    assert (taken(one), one.place, losses.calls) == ([], _Place(7, 2, 0), [])


# The ring's feed


def ring_feed(path: Path, events: list[RingEvent], *, sole: bool = True) -> _RingFeed:
    tell = _Teller(events.append)
    return _RingFeed(_LateRing(path.as_posix(), tell, optional=not sole).observe, tell, sole=sole)


def first_and_count(result: _Found | None) -> tuple[int, int, int] | None:
    return None if result is None else (result.journal_id, result.first, len(result.rows))


def test_a_ring_that_is_the_only_source_decides_the_journal(writer: RingWriter) -> None:
    writer.publish(40)
    events: list[RingEvent] = []
    feed = ring_feed(writer.path, events)
    learned = feed.read(None, 30, 5, 5)
    assert (first_and_count(learned), learned is not None and learned.anew) == ((7, 30, 0), False)
    assert first_and_count(feed.read(7, 30, 5, 5)) == (7, 30, 5)
    assert first_and_count(feed.read(7, 3, 5, 5)) == (7, 25, 5)
    assert feed.read(7, 41, 5, 5) is None
    assert events == []
    changed = feed.read(9, 30, 5, 5)
    assert (first_and_count(changed), changed is not None and changed.anew) == ((7, 25, 0), True)
    assert [event.kind for event in events] == ["journal_changed"]


def test_a_ring_beside_a_gateway_returns_only_whole_runs_of_the_wanted_journal(
    writer: RingWriter,
) -> None:
    writer.publish(40)
    writer.sequence(35, 1)
    events: list[RingEvent] = []
    feed = ring_feed(writer.path, events, sole=False)
    assert first_and_count(feed.read(7, 30, 100, 100)) == (7, 30, 5)
    # An unknown journal, another journal, an overwritten frame, a damaged frame.
    for journal_id, wanted in ((None, 30), (9, 30), (7, 3), (7, 35)):
        assert feed.read(journal_id, wanted, 100, 100) is None
    assert (feed.journal_id, events) == (7, [])


def test_a_frame_is_expected_in_a_ring_that_a_live_gateway_writes(
    writer: RingWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.publish(3)
    feed = ring_feed(writer.path, [], sole=False)
    assert not feed.expects(7, 4)
    feed.read(7, 4, 1, 1)
    assert feed.expects(7, 4)
    assert not feed.expects(7, 3)
    assert not feed.expects(8, 4)
    assert not feed.expects(None, 4)
    writer.heartbeat(age_s=6)
    monkeypatch.setattr(module, "_STILL_S", -1.0)
    assert not feed.expects(7, 4)
    writer.heartbeat()
    writer.state(2)
    assert not feed.expects(7, 4)


def test_a_follower_that_has_seen_no_frame_begins_a_new_ring_at_its_oldest_frame(
    writer: RingWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.0)
    tell = _Teller(lambda _: None)
    source = _RingSource(str(writer.path), tell)
    feed = _RingFeed(source.observe, tell, source.ring)
    writer.publish(3)
    # In the first ring the frame_id counts, whichever journal the frames are from.
    assert feed.read(None, 5, 10, 10) is None
    with RingWriter(writer.path, capacity=4, head=501, journal_id=8) as successor:
        successor.publish(2)
        begun = feed.read(None, 5, 10, 10)
        assert (first_and_count(begun), begun is not None and begun.anew) == ((8, 501, 0), True)
    with RingWriter(writer.path, capacity=4, head=501, journal_id=8) as successor:
        successor.publish(2)
        # A frame that the ring has, or will have next, is not lost: the follower goes on there.
        later = feed.read(None, 503, 10, 10)
        assert (first_and_count(later), later is not None and later.anew) == ((8, 503, 0), False)


def test_a_damaged_end_of_a_ring_does_not_keep_a_follower_from_the_next_ring(
    writer: RingWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.0)
    writer.publish(5)
    writer.sequence(5, 1)
    feed = ring_feed(writer.path, [])
    assert first_and_count(feed.read(7, 1, 10, 10)) == (7, 1, 4)
    with RingWriter(writer.path, capacity=16, head=4) as successor:
        successor.publish(3)
        assert first_and_count(feed.read(7, 5, 10, 10)) == (7, 5, 2)


def test_a_late_ring_is_reported_once_or_not_at_all(ring_path: Path, clock: Clock) -> None:
    events: list[RingEvent] = []
    tell = _Teller(events.append)
    needed = _LateRing(str(ring_path), tell, optional=False)
    optional = _LateRing(str(ring_path), tell, optional=True)
    for _ in range(3):
        assert (needed.observe(), optional.observe()) == (None, None)
        clock.now += 1
    assert [event.kind for event in events] == ["unreachable"]
    ring_path.write_bytes(b"something else" * 10)
    with pytest.raises(ConsumerError, match="no physics ring"):
        needed.observe()
    assert optional.observe() is None
    with RingWriter(ring_path, capacity=4):
        # Both sources look again only after a pause.
        assert (needed.observe(), optional.observe()) == (None, None)
        clock.now += 1
        assert needed.observe() is not None
        assert optional.observe() is not None
    assert [event.kind for event in events] == ["unreachable", "reachable"]


def test_a_ring_source_counts_restarts_and_replacements(writer: RingWriter, clock: Clock) -> None:
    events: list[RingEvent] = []
    source = _RingSource(str(writer.path), _Teller(events.append))
    writer.epoch = 4
    with RingWriter(writer.path, capacity=8, epoch=6) as successor:
        assert source.observe().capacity == 16
        clock.now += 1
        assert source.observe().capacity == 8
        assert source.counters() == {"restarts": 5, "replacements": 1}
        assert [event.kind for event in events] == ["restarted", "replaced"]
        source.close()
        with pytest.raises(ConsumerError, match="closed"):
            source.latest()
        assert source.lag(None) == successor.head - 1


# The gateway's feed


class MakeHttpFeed(Protocol):
    def __call__(self, url: str, events: list[RingEvent], *, anew: bool = False) -> _HttpFeed: ...


@pytest.fixture
def http_feed() -> Iterator[MakeHttpFeed]:
    """Makes feeds and closes their connections."""
    sources: list[_HttpSource] = []

    def make(url: str, events: list[RingEvent], *, anew: bool = False) -> _HttpFeed:
        sources.append(_HttpSource(_Gateway(url, None), _Teller(events.append)))
        return _HttpFeed(sources[-1], anew=anew)

    yield make
    for source in sources:
        source.close()


def test_one_page_serves_many_reads_and_is_as_long_as_the_frames_ahead(
    clock: Clock, http_feed: MakeHttpFeed
) -> None:
    with GatewayStub() as gateway:
        gateway.publish(30)
        feed = http_feed(gateway.url, [])
        assert first_and_count(feed.read(7, 1, 4, 10)) == (7, 1, 4)
        assert first_and_count(feed.read(7, 5, 4, 6)) == (7, 5, 4)
        assert first_and_count(feed.read(7, 9, 4, 2)) == (7, 9, 2)
        assert gateway.requests == [(0, 10)]
        assert first_and_count(feed.read(7, 11, 4, 5)) == (7, 11, 4)
        assert gateway.requests == [(0, 10), (10, 5)]


def test_the_feed_polls_less_and_less_often_while_no_frames_come(
    clock: Clock, http_feed: MakeHttpFeed
) -> None:
    with GatewayStub() as gateway:
        feed = http_feed(gateway.url, [])
        for _ in range(8):
            assert feed.read(7, 1, 4, 10) is None
            before = len(gateway.requests)
            assert feed.read(7, 1, 4, 10) is None
            assert len(gateway.requests) == before
            feed.wait(100)
        assert clock.slept == [0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.25, 0.25]
        gateway.publish()
        assert feed.read(7, 1, 4, 10) is not None
        assert feed.read(7, 2, 4, 10) is None
        feed.wait(100)
        assert clock.slept[-1] == 0.005


def test_the_feed_pauses_after_a_failed_request(clock: Clock, http_feed: MakeHttpFeed) -> None:
    events: list[RingEvent] = []
    feed = http_feed(f"http://127.0.0.1:{closed_port()}", events)
    for _ in range(3):
        assert feed.read(7, 1, 4, 10) is None
        feed.wait(100)
    assert (clock.slept, feed.failing) == ([0.05, 0.1, 0.2], True)
    assert [event.kind for event in events] == ["unreachable"]
    feed.wait(100)
    assert clock.slept[-1] == 0.0


def test_another_journal_begins_at_its_oldest_frame_and_is_reported_once(
    clock: Clock, http_feed: MakeHttpFeed
) -> None:
    events: list[RingEvent] = []
    with GatewayStub(journal_id=8) as gateway:
        gateway.publish(9)
        gateway.oldest = 4
        feed = http_feed(gateway.url, events)
        begun = feed.read(7, 2, 4, 10)
        assert (first_and_count(begun), begun is not None and begun.anew) == ((8, 4, 0), True)
        assert first_and_count(feed.read(8, 4, 4, 10)) == (8, 4, 4)
    assert [event.kind for event in events] == ["journal_changed"]


@pytest.mark.parametrize("anew", [True, False])
def test_only_a_follower_from_the_oldest_frame_begins_anew(
    clock: Clock, anew: bool, http_feed: MakeHttpFeed
) -> None:
    with GatewayStub() as gateway:
        feed = http_feed(gateway.url, [], anew=anew)
        # No frame exists yet, but the journal is known.
        assert first_and_count(feed.read(None, 1, 4, 10)) == (7, 1, 0)
        clock.now += 1
        gateway.publish(9)
        gateway.oldest = 4
        result = feed.read(7, 1, 4, 10)
        assert (first_and_count(result), result is not None and result.anew) == ((7, 4, 4), anew)
        clock.now += 1
        gateway.publish(20)
        gateway.oldest = 15
        later = feed.read(7, 10, 4, 10)
        assert (first_and_count(later), later is not None and later.anew) == ((7, 15, 4), False)


# Both


def test_joined_feeds_wait_for_the_feed_that_has_the_next_frame(
    writer: RingWriter, clock: Clock, http_feed: MakeHttpFeed
) -> None:
    writer.publish(3)
    with GatewayStub() as gateway:
        gateway.publish(5)
        http = http_feed(gateway.url, [])
        feed = _JoinedFeed(ring_feed(writer.path, [], sole=False), http)
        assert first_and_count(feed.read(7, 1, 10, 10)) == (7, 1, 3)
        assert feed.read(7, 4, 10, 10) is None
        assert (feed._awaited, gateway.requests) == (feed._ring, [])
        writer.state(2)
        assert first_and_count(feed.read(7, 4, 10, 10)) == (7, 4, 2)
        assert feed.read(7, 6, 10, 10) is None
        assert (feed._awaited, len(gateway.requests)) == (http, 2)
