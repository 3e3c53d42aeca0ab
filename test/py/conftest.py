"""The shared parts of the reader's tests: consumer.py on the path, and a ring that ring_writer.py writes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from ring_writer import RingWriter  # noqa: E402

# Every failure prints how to reproduce it. The machine may be busy, so no test has a deadline.
settings.register_profile("gateway", deadline=None, print_blob=True)
settings.load_profile("gateway")


@pytest.fixture
def ring_path(tmp_path: Path) -> Path:
    return tmp_path / "ring"


@pytest.fixture
def writer(ring_path: Path) -> Iterator[RingWriter]:
    """An empty ring of 16 slots."""
    with RingWriter(ring_path, capacity=16) as writer:
        yield writer


@pytest.fixture
def repository() -> Path:
    return REPOSITORY


@pytest.fixture
def golden() -> Path:
    return REPOSITORY / "test" / "golden"
