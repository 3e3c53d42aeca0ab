"""python consumer.py: its output, its errors and its exit codes."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ring_writer import RingWriter

from consumer import FRAME_DTYPE

CONSUMER = str(Path(__file__).resolve().parents[2] / "consumer.py")
ENVIRONMENT = {**os.environ, "TZ": "UTC", "PYTHONWARNINGS": "error", "PYTHONIOENCODING": "utf-8"}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, CONSUMER, *arguments],
        capture_output=True,
        encoding="utf-8",
        env={**ENVIRONMENT, **environment},
        timeout=60,
        check=False,
    )


@pytest.fixture
def ring(writer: RingWriter) -> RingWriter:
    """Two frames: one with every field set, and one with none."""
    writer.labels({"intents": {"11": "pix"}, "types": {"21": "User\x1b[31mMessage"}})
    writer.publish_fields(
        struct.pack("<4f", 0.5, -0.25, 0.125, 0.0),
        flags=0b1111,
        intent_id=11,
        type_id=21,
        sentiment=-0.5,
        conversation_hash=2**64 - 1,
        delta_time=0.0,
        velocity=3.0,
        timestamp_us=1_700_000_000_123_456,
        event_seq=2**53 + 1,
        semantic_dim=1024,
        model_id=9,
    )
    writer.publish_fields(flags=0, intent_id=-1, type_id=-1, timestamp_us=-(2**62))
    return writer


def test_batch_prints_one_line_for_each_frame(ring: RingWriter) -> None:
    result = run("--batch", "100", "--path", str(ring.path))
    assert (result.returncode, result.stderr) == (0, "")
    known, unknown = result.stdout.splitlines()
    assert known == (
        "22:13:20.123  #1  User\N{REPLACEMENT CHARACTER}[31mMessage/pix  sentiment -0.50  "
        "conversation ffffffffffffffff  dt 1s  3/min  [+0.500 -0.250 +0.125 +0.000]"
    )
    assert unknown == "00:00:00.000  #2  UnknownEvent/-  sentiment ?  conversation -  dt -  [no vector]"


def test_json_has_every_field_and_64_bit_numbers_as_strings(ring: RingWriter) -> None:
    result = run("--batch", "1", "--json", CS_PHYSICS_PATH=str(ring.path))
    (line,) = result.stdout.splitlines()
    assert json.loads(line)["frame_id"] == "2"
    result = run("--batch", "2", "--json", "--path", str(ring.path))
    frame = json.loads(result.stdout.splitlines()[0])
    assert frame.keys() == {*(FRAME_DTYPE.names or ()), "intent_label", "type_label"}
    expected = {
        "sequence": "2",
        "frame_id": "1",
        "timestamp_us": "1700000000123456",
        "conversation_hash": "18446744073709551615",
        "event_seq": "9007199254740993",
        "checksum": "0",
        "sentiment": -0.5,
        "intent_id": 11,
        "flags": 15,
        "spin": [1.0, 0.0, 0.0, 0.0],
        "intent_label": "pix",
        "type_label": "User\x1b[31mMessage",
    }
    assert {name: frame[name] for name in expected} == expected
    assert frame["semantic"] == [0.5, -0.25, 0.125, *[0.0] * 1021]
    assert "\x1b" not in result.stdout


@pytest.fixture
def follower(ring: RingWriter) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, CONSUMER, "--follow", "--from", "oldest", "--path", str(ring.path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", env=ENVIRONMENT
    ) as process:
        yield process
        process.kill()


def test_json_escapes_every_character_that_could_control_the_terminal(writer: RingWriter) -> None:
    label = "a\x1b[2J\x7f\x9b\n\u202e\u2028\U000e0001ção"
    writer.labels({"types": {"21": label}})
    writer.publish_fields(type_id=21)
    (line,) = run("--batch", "1", "--json", "--path", str(writer.path)).stdout.splitlines()
    assert line.isprintable()
    assert "ção" in line
    assert json.loads(line)["type_label"] == label


def test_follow_prints_each_frame_at_once_and_ends_without_an_error_at_sigint(
    ring: RingWriter, follower: subprocess.Popen[str]
) -> None:
    assert follower.stdout is not None
    assert follower.stderr is not None
    assert "#1 " in follower.stdout.readline()
    assert "#2 " in follower.stdout.readline()
    ring.publish()
    assert "#3 " in follower.stdout.readline()
    ring.epoch = 2
    ring.publish()
    assert "#4 " in follower.stdout.readline()
    assert "restarted" in follower.stderr.readline()
    follower.send_signal(signal.SIGINT)
    assert follower.wait(10) == 0
    assert follower.stdout.read() == ""
    assert follower.stderr.read() == ""


def test_a_closed_pipe_ends_the_program_without_an_error(
    ring: RingWriter, follower: subprocess.Popen[str]
) -> None:
    assert follower.stdout is not None
    assert follower.stderr is not None
    assert "#1 " in follower.stdout.readline()
    follower.stdout.close()
    while follower.poll() is None:
        if ring.waiters:
            ring.waiters = 0
            ring.publish()
        time.sleep(0.001)
    assert follower.returncode == 0
    assert follower.stderr.read() == ""


def test_follow_is_the_default_mode(ring: RingWriter) -> None:
    with subprocess.Popen(
        [sys.executable, CONSUMER, "--from", "2", "--json", "--path", str(ring.path)],
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env=ENVIRONMENT,
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["frame_id"] == "2"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def test_stats_prints_the_header_and_the_counters(ring: RingWriter) -> None:
    result = run("--stats", "--path", str(ring.path))
    assert result.returncode == 0
    assert "capacity         16\n" in result.stdout
    assert "state            running\n" in result.stdout
    stats = json.loads(run("--stats", "--json", "--path", str(ring.path)).stdout)
    assert (stats["head"], stats["frames"], stats["path"]) == (3, 2, str(ring.path))
    assert stats["age_ms"] > 2**62 / 1000


@pytest.mark.parametrize("mode", [["--follow"], ["--batch", "5"], ["--pytorch"], ["--stats"], ["--json"]])
def test_a_missing_ring_is_an_error_of_one_line_with_exit_code_1(mode: list[str], tmp_path: Path) -> None:
    result = run(*mode, "--path", str(tmp_path / "none"))
    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert f"no ring at {tmp_path / 'none'}" in result.stderr


def test_a_foreign_file_or_another_version_is_an_error_of_one_line_with_exit_code_1(ring: RingWriter) -> None:
    ring.map[8:12] = struct.pack("<I", 2)
    result = run("--batch", "5", "--path", str(ring.path))
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
    assert "version 2" in result.stderr
    result = run("--batch", "5", "--path", CONSUMER)
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
    assert "no physics ring" in result.stderr


def test_an_empty_ring_is_reported(writer: RingWriter) -> None:
    result = run("--batch", "5", "--path", str(writer.path))
    assert (result.returncode, result.stdout) == (0, "")
    assert "no frames yet" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--batch", "0"],
        ["--batch", "x"],
        ["--from", "newest"],
        ["--from", "-1"],
        ["--follow", "--stats"],
        ["--stats", "--batch", "5"],
        ["--batch", "5", "--from", "oldest"],
        ["--device", "cpu"],
        ["--foll"],
        ["extra"],
    ],
)
def test_a_usage_error_names_the_argument_and_exits_with_2(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert any(one.lstrip("-") in result.stderr.splitlines()[-1] for one in arguments)


def test_a_terminal_without_utf_8_shows_escapes(writer: RingWriter) -> None:
    writer.labels({"types": {"21": "ação"}})
    writer.publish_fields(type_id=21)
    result = run("--batch", "1", "--path", str(writer.path), PYTHONIOENCODING="ascii")
    assert result.returncode == 0
    assert r"a\xe7\xe3o" in result.stdout


def test_the_program_needs_only_numpy(ring: RingWriter, tmp_path: Path) -> None:
    copy = tmp_path / "consumer.py"
    copy.write_bytes(Path(CONSUMER).read_bytes())
    result = subprocess.run(
        [sys.executable, str(copy), "--batch", "1", "--path", str(ring.path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=ENVIRONMENT,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_without_torch_the_error_is_one_line_and_says_how_to_install_it(ring: RingWriter) -> None:
    program = (
        "import runpy, sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, CONSUMER, "--pytorch", "--path", str(ring.path)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "pip install torch" in result.stderr
