"""The Python half of bench/ring.ts.

ring_reader.py PATH read: measures reads of a full ring without a writer; prints one JSON object per line.
ring_reader.py PATH follow N: prints "ready", then the median ns from publication to arrival of N frames.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from consumer import FRAME_BYTES, HEADER_BYTES, PhysicsConsumer

BATCH = 1000
ROUNDS = 40
IDLE_S = 3.0


def _figure(name: str, value: float, baseline: float | None = None, unit: str = "ns/frame") -> None:
    print(json.dumps({"name": name, "value": value, "unit": unit, "baseline": baseline}), flush=True)


def _in_turns(repeats: int, *actions: Callable[[], object]) -> list[float]:
    """The median ns of one call of each action. The actions take turns, under the same conditions."""
    rounds: list[list[float]] = [[] for _ in actions]
    for _ in range(ROUNDS):
        for action, times in zip(actions, rounds):
            start = time.perf_counter_ns()
            for _ in range(repeats):
                action()
            times.append((time.perf_counter_ns() - start) / repeats)
    return [statistics.median(times) for times in rounds]


def _read(path: str) -> None:
    with PhysicsConsumer(path) as consumer:

        def view() -> None:
            with consumer.view(BATCH) as frames:
                assert len(frames) == BATCH
                frames["semantic"]
                assert frames.valid()

        (viewed,) = _in_turns(200, view)
        _figure("ring/read-batch-view", viewed / BATCH)

        # The baseline copies the same bytes, the newest frames, which are contiguous here.
        slot = (consumer.read_batch(1).frame_id[0] - (BATCH - 1)) % consumer.stats()["capacity"]
        source = np.memmap(
            path, np.uint8, "r", HEADER_BYTES + int(slot) * FRAME_BYTES, (BATCH * FRAME_BYTES,)
        )
        target = np.empty_like(source)
        batch, copied = _in_turns(20, lambda: consumer.read_batch(BATCH), lambda: np.copyto(target, source))
        _figure("ring/read-batch-copy", batch / BATCH, copied / BATCH)

        latest, one = _in_turns(2000, consumer.read_latest, lambda: consumer.read_batch(1))
        _figure("ring/read-latest", latest)
        _figure("ring/read-batch-1", one)

        start = time.process_time()
        for _ in consumer.follow(timeout_s=IDLE_S):
            raise AssertionError("nobody publishes")
        _figure("ring/follow-idle", (time.process_time() - start) / IDLE_S * 100, unit="% of a core")


def _follow(path: str, count: int) -> None:
    late = []
    with PhysicsConsumer(path) as consumer:
        frames = consumer.follow()
        print("ready", flush=True)
        for frame in frames:
            late.append(time.monotonic_ns() - frame.timestamp_us)
            if len(late) == count:
                break
    assert consumer.lost == 0
    print(statistics.median(late), flush=True)


if sys.argv[2] == "read":
    _read(sys.argv[1])
else:
    _follow(sys.argv[1], int(sys.argv[3]))
