"""PhysicsDataset with the installed torch: tensors, workers, ranks and resuming."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gateway_stub import GatewayStub
from ring_writer import RingWriter

torch = pytest.importorskip("torch")

import consumer as module  # noqa: E402
from consumer import (  # noqa: E402
    ConsumerError,
    Frames,
    GatewayUnreachableError,
    MixedModelsWarning,
    PhysicsConsumer,
    PhysicsDataset,
    RingMissingError,
)

SHAPES = {
    "semantic": ((8, 1024), torch.float32),
    "kinetics": ((8, 17), torch.float32),
    "timestamp_us": ((8,), torch.int64),
    "event_seq": ((8,), torch.int64),
    "intent_id": ((8,), torch.int64),
    "flags": ((8,), torch.int32),
    "frame_id": ((8,), torch.int64),
    "model_id": ((8,), torch.int64),
}


@pytest.fixture(scope="module", autouse=True)
def _quick_end_of_workers() -> Iterator[None]:
    """Shortens the 5 s that torch 1.13 waits for each worker that raised."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
        yield


@pytest.fixture
def ring(ring_path: Path) -> Iterator[RingWriter]:
    with RingWriter(ring_path, capacity=128) as writer:
        writer.publish(100)
        yield writer


def made(ring: RingWriter, **options: Any) -> PhysicsDataset:
    return PhysicsDataset(
        **{"batch_size": 8, "start": "oldest", "path": ring.path, "timeout_s": 0.0, **options}
    )


def ids(batches: Any) -> list[list[int]]:
    return [batch["frame_id"].tolist() for batch in batches]


def flat(batches: Any) -> list[int]:
    return [one for batch in ids(batches) for one in batch]


def test_batches_have_the_documented_tensors_with_the_values_of_the_frames(ring: RingWriter) -> None:
    batches = list(made(ring))
    first = batches[0]
    assert {name: (tuple(one.shape), one.dtype) for name, one in first.items()} == SHAPES
    assert ids(batches) == [list(range(low, min(low + 8, 101))) for low in range(1, 101, 8)]
    with PhysicsConsumer(ring.path) as consumer:
        frames = consumer.read_since(0, 8)
    for name, tensor in frames.tensors().items():
        assert torch.equal(first[name], tensor), name
    assert first["model_id"].tolist() == [3] * 8


def test_each_batch_has_its_own_memory(ring: RingWriter) -> None:
    batches = list(made(ring))
    assert len({batch["semantic"].data_ptr() for batch in batches}) == 13
    assert [batch["semantic"][0, 0].item() for batch in batches] == list(range(1, 101, 8))


@pytest.mark.parametrize("device", [None, "cpu"])
def test_buffers_are_used_in_turn_and_stay_valid_until_their_next_turn(
    ring: RingWriter, device: str | None
) -> None:
    held: list[Any] = []
    pointers = set()
    for batch in made(ring, buffers=3, device=device):
        pointers.add(batch["semantic"].data_ptr())
        held = [*held, batch][-3:]
        for one in held:
            assert torch.equal(one["semantic"][:, 0].long(), one["frame_id"])
            assert torch.equal(one["event_seq"], one["frame_id"] + 5)
    assert len(pointers) == 3
    assert len(held[-1]["frame_id"]) == 4
    assert {name: one.dtype for name, one in held[0].items()} == {
        n: dtype for n, (_, dtype) in SHAPES.items()
    }


def test_a_device_that_torch_does_not_have_is_named(ring: RingWriter) -> None:
    for buffers in (0, 2):
        with pytest.raises(ConsumerError, match="cuda:99"):
            next(iter(made(ring, device="cuda:99", buffers=buffers)))


def test_a_batch_of_several_models_warns(writer: RingWriter) -> None:
    writer.labels({"models": {"31": {"name": "bge-m3", "dim": 1024}}})
    for model_id in (31, 8):
        writer.publish_fields(model_id=model_id)
    with pytest.warns(MixedModelsWarning, match="2 models: id 8, bge-m3"):
        list(made(writer))


def test_start_decides_where_reading_begins(ring: RingWriter) -> None:
    latest = made(ring, start="latest")
    ring.publish(3)
    assert flat(latest) == [101, 102, 103]
    assert flat(made(ring, start=99)) == [99, 100, 101, 102, 103]
    assert flat(made(ring, start=(7, 99))) == [100, 101, 102, 103]
    ring.publish(30)
    assert flat(made(ring)) == list(range(6, 134))


def test_with_a_gateway_oldest_is_its_oldest_frame_and_nothing_is_lost(writer: RingWriter) -> None:
    writer.publish(100)
    with GatewayStub(token="secret") as gateway:
        gateway.publish(100)
        gateway.oldest = 3
        dataset = made(writer, url=gateway.url, token="secret")
        assert flat(dataset) == list(range(3, 101))
        assert dataset.lost == 0
        without = made(writer)
        assert flat(without) == list(range(85, 101))
        assert flat(made(writer, start=50)) == list(range(85, 101))
        late = made(writer, start=50)
        list(late)
        assert late.lost == 35


def test_latest_begins_at_the_first_frame_that_the_ring_has_not_published(
    writer: RingWriter, tmp_path: Path
) -> None:
    writer.publish(10)
    with GatewayStub() as gateway:
        gateway.publish(12)
        here = made(writer, start="latest", url=gateway.url)
        elsewhere = made(writer, start="latest", url=gateway.url, path=tmp_path / "none")
        writer.publish(3)
        gateway.publish(1)
        assert flat(here) == [11, 12, 13]
        assert flat(elsewhere) == [13]


def test_a_dataset_without_ring_and_gateway_fails_at_once(tmp_path: Path) -> None:
    with pytest.raises(RingMissingError):
        PhysicsDataset(path=tmp_path / "none")
    with pytest.raises(GatewayUnreachableError, match="and no ring can be read"):
        PhysicsDataset(path=tmp_path / "none", url="http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"buffers": -1}, "buffers"),
        ({"shard": (2, 2)}, "shard"),
        ({"shard": (-1, 2)}, "shard"),
        ({"start": "newest"}, "start"),
        ({"token": "x"}, "token goes with a url"),
    ],
)
def test_an_argument_out_of_range_is_refused(
    ring: RingWriter, options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        made(ring, **options)


# Resuming


def test_an_iteration_goes_on_after_the_last_batch_that_was_returned(ring: RingWriter) -> None:
    dataset = made(ring)
    batches = iter(dataset)
    assert [next(batches)["frame_id"][-1].item() for _ in range(2)] == [8, 16]
    assert dataset.state_dict() == {
        "version": 1,
        "journal_id": 7,
        "next_frame_id": 17,
        "batch_size": 8,
        "shard": 0,
        "shards": 1,
        "lost": 0,
    }
    del batches
    assert flat(dataset) == list(range(17, 101))
    ring.publish(2)
    assert flat(dataset) == [101, 102]


def test_another_process_resumes_from_a_state_saved_as_json(ring: RingWriter) -> None:
    first = made(ring, start=5, shard=(1, 2))
    batches = iter(first)
    seen = next(batches)["frame_id"].tolist() + next(batches)["frame_id"].tolist()
    state = json.loads(json.dumps(first.state_dict()))
    second = made(ring, start="latest", shard=(1, 2))
    second.load_state_dict(state)
    assert second.state_dict() == state
    seen += flat(second)
    assert seen == [one for one in range(5, 101) if (one - 1) // 8 % 2 == 1]


def test_a_kill_between_two_batches_loses_and_repeats_nothing_even_after_frames_were_lost(
    writer: RingWriter,
) -> None:
    writer.publish(20)
    seen: list[int] = []
    state: dict[str, Any] = {}
    for step in range(20):
        dataset = made(writer, start=1, batch_size=3)
        if state:
            dataset.load_state_dict(state)
        batches = iter(dataset)
        for _ in range(step % 3):
            batch = next(batches, None)
            if batch is not None:
                seen += batch["frame_id"].tolist()
        state = dataset.state_dict()
        writer.publish(3 * (step % 4))
    dataset.load_state_dict(state)
    seen += flat(dataset)
    assert seen == sorted(set(seen))
    assert len(seen) + dataset.lost == writer.head - 1
    assert dataset.lost >= 4


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"batch_size": 16}, "make the dataset with that batch_size"),
        ({"shards": 2}, "shard 0 of 2, this is shard 0 of 1"),
        ({"shard": 1, "shards": 2}, "shard 1 of 2"),
        ({"version": 2}, "version 2"),
        ({"next_frame_id": "17"}, "not what state_dict"),
        ({"journal_id": 1.5}, "not what state_dict"),
        ({"lost": None}, "not what state_dict"),
    ],
)
def test_a_state_of_another_dataset_is_refused(
    ring: RingWriter, change: dict[str, Any], expected: str
) -> None:
    dataset = made(ring)
    before = dataset.state_dict()
    with pytest.raises(ValueError, match=expected):
        dataset.load_state_dict({**before, **change})
    assert dataset.state_dict() == before


# Workers


def loader(dataset: PhysicsDataset, workers: int, context: str | None = None, **options: Any) -> Any:
    return torch.utils.data.DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=context if workers else None,
        **options,
    )


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than there are cores here
@pytest.mark.parametrize(
    ("workers", "context"), [(0, None), (1, "fork"), (2, "fork"), (3, "fork"), (2, "spawn")]
)
def test_workers_share_the_frames_without_overlap_or_gap(
    ring: RingWriter, workers: int, context: str | None
) -> None:
    # Workers must not use the buffers: a batch may still be in transit when the worker makes the next one.
    dataset = made(ring, start=5, buffers=1 if workers else 0)
    batches = list(loader(dataset, workers, context))
    for batch in batches:
        assert torch.equal(batch["semantic"][:, 7].long(), batch["frame_id"])
        owners = (batch["frame_id"] - 1) // 8 % max(workers, 1)
        assert len(set(owners.tolist())) == 1
    assert sorted(flat(batches)) == list(range(5, 101))


def test_workers_begin_at_the_latest_frame_as_of_when_the_dataset_was_made(ring: RingWriter) -> None:
    dataset = made(ring, start="latest")
    ring.publish(20)
    assert sorted(flat(loader(dataset, 2, "fork"))) == list(range(101, 121))


def test_the_main_process_knows_the_losses_of_workers_but_not_their_places(writer: RingWriter) -> None:
    writer.publish(50)
    dataset = made(writer, start=1)
    assert dataset.state_dict()["next_frame_id"] == 1
    batches = loader(dataset, 2, "fork")
    assert sorted(flat(batches)) == list(range(35, 51))
    assert dataset.lost == 34
    with pytest.raises(ConsumerError, match="StatefulDataLoader"):
        dataset.state_dict()
    assert flat(dataset) == list(range(35, 51))
    assert dataset.state_dict()["next_frame_id"] == 51
    assert dataset.lost == 34


def test_frames_lost_after_the_last_batch_are_counted_at_the_end(ring_path: Path) -> None:
    with RingWriter(ring_path, capacity=8) as writer:
        writer.publish(24)
        idle = made(writer, start=1, shard=(1, 2))
        assert flat(idle) == []
        assert (idle.lost, idle.state_dict()["lost"], idle.state_dict()["next_frame_id"]) == (8, 8, 17)
        dataset = made(writer, start=1)
        assert flat(loader(dataset, 2, "fork")) == list(range(17, 25))
        assert dataset.lost == 16


class Stateful(torch.utils.data.IterableDataset):  # type: ignore[misc, type-arg, name-defined, unused-ignore]
    """Works like torchdata's StatefulDataLoader in a worker: loads a state, and sends one with each batch."""

    def __init__(self, dataset: PhysicsDataset, states: dict[int, Any] | None, batches: int) -> None:
        self.dataset = dataset
        self.states = states
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        worker = torch.utils.data.get_worker_info().id
        # The StatefulDataLoader, too, makes the iterator first.
        batches = iter(self.dataset)
        if self.states is not None:
            self.dataset.load_state_dict(self.states[worker])
        for count, batch in enumerate(batches, 1):
            yield worker, batch["frame_id"].tolist(), self.dataset.state_dict()
            if count == self.batches:
                return


def test_each_worker_has_its_own_state(ring: RingWriter) -> None:
    seen: list[int] = []
    states: dict[int, Any] | None = None
    for batches in (1, 2, 1, 1000):
        last: dict[int, Any] = dict(states or {})
        for worker, frame_ids, state in loader(Stateful(made(ring), states, batches), 2, "fork"):
            assert (state["shard"], state["shards"]) == (worker, 2)
            seen += frame_ids
            last[worker] = state
        states = json.loads(json.dumps(last), object_hook=numbered)
    assert sorted(seen) == list(range(1, 101))
    assert states is not None
    with pytest.raises(ValueError, match="shard 1 of 2, this is shard 0 of 2"):
        list(loader(Stateful(made(ring), {0: states[1], 1: states[0]}, 9), 2, "fork"))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_of_torchdata_saves_and_resumes(ring: RingWriter, workers: int) -> None:
    # torchdata declares torch 2 but runs with 1.13 (pip install --no-deps torchdata).
    stateful = pytest.importorskip("torchdata.stateful_dataloader")
    seen: list[int] = []
    state = None
    for batches in (1, 3, 2, 1000):
        loader = stateful.StatefulDataLoader(made(ring), batch_size=None, num_workers=workers)
        if state is not None:
            loader.load_state_dict(state)
        reading = iter(loader)
        for _ in range(batches):
            batch = next(reading, None)
            if batch is None:
                break
            seen += batch["frame_id"].tolist()
        state = loader.state_dict()
        del reading
    assert sorted(seen) == list(range(1, 101))


def numbered(object_: dict[str, Any]) -> dict[Any, Any]:
    return {int(key) if key.isdecimal() else key: value for key, value in object_.items()}


def test_two_workers_refuse_the_state_of_one_process(ring: RingWriter) -> None:
    dataset = made(ring)
    dataset.load_state_dict(dataset.state_dict())
    assert len(flat(loader(dataset, 1, "fork"))) == 100
    with pytest.raises(ValueError, match="shard 0 of 1, this is shard 0 of 2"):
        list(loader(dataset, 2, "fork"))


def test_persistent_workers_go_on_after_an_epoch(ring: RingWriter) -> None:
    batches = loader(made(ring), 2, "fork", persistent_workers=True)
    assert sorted(flat(batches)) == list(range(1, 101))
    ring.publish(20)
    assert sorted(flat(batches)) == list(range(101, 121))


def test_a_batch_that_is_not_full_is_returned_after_max_wait(ring: RingWriter) -> None:
    batches = iter(made(ring, start="latest", timeout_s=30.0, max_wait_s=0.0))
    for frame_id in range(101, 105):
        publisher = threading.Timer(0.01, ring.publish)
        publisher.start()
        assert next(batches)["frame_id"].tolist() == [frame_id]
        publisher.join()


# Ranks


RANK = """
import json, sys
sys.path.insert(0, sys.argv[4])
import torch.distributed as distributed
from consumer import ConsumerError, PhysicsDataset
rank, path, meeting = int(sys.argv[1]), sys.argv[2], sys.argv[3]
distributed.init_process_group("gloo", init_method="file://" + meeting, rank=rank, world_size=2)
try:
    PhysicsDataset(start="latest", path=path + ".none")
except ConsumerError as error:
    print("refused", type(error).__name__)
try:
    PhysicsDataset(start=1, path=path, shard=(0, 2) if rank else (1, 2))
except ValueError as error:
    print("refused", "torch.distributed" in str(error))
# The second rank has no ring at first and relies on the first rank.
dataset = PhysicsDataset(batch_size=8, start="oldest", path=path + ".none" if rank else path, timeout_s=0)
dataset.path = path
print(json.dumps([batch["frame_id"].tolist() for batch in dataset]))
print(json.dumps(dataset.state_dict()))
# Without this, a thread of gloo can outlive the interpreter and abort the process.
distributed.destroy_process_group()
"""


def test_ranks_agree_on_the_start_and_share_the_frames(
    ring: RingWriter, repository: Path, tmp_path: Path
) -> None:
    ring.publish(50)
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                RANK,
                str(rank),
                str(ring.path),
                str(tmp_path / "meeting"),
                str(repository),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    shares = []
    for rank, process in enumerate(processes):
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        refused, wrong, batches, state = out.splitlines()
        assert refused == ("refused RingMissingError" if rank == 0 else "refused ConsumerError")
        assert wrong == "refused True"
        shares.append([one for batch in json.loads(batches) for one in batch])
        assert (json.loads(state)["shard"], json.loads(state)["shards"]) == (rank, 2)
    assert shares[0] == [one for one in range(23, 151) if (one - 1) // 8 % 2 == 0]
    assert sorted(shares[0] + shares[1]) == list(range(23, 151))


# The class


def test_torch_is_imported_only_when_the_dataset_is_used(repository: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import consumer; assert 'torch' not in sys.modules; "
        "from consumer import *; assert 'torch' not in sys.modules; "
        "from consumer import PhysicsDataset; import torch; "
        "assert issubclass(PhysicsDataset, torch.utils.data.IterableDataset); "
        "assert consumer.PhysicsDataset is PhysicsDataset; print(PhysicsDataset.__module__)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(repository)], capture_output=True, text=True, check=True
    )
    assert result.stdout == "consumer\n"


def test_a_dataset_can_be_pickled_and_has_a_docstring(ring: RingWriter) -> None:
    dataset = pickle.loads(pickle.dumps(made(ring)))
    assert type(dataset) is PhysicsDataset
    assert len(flat(dataset)) == 100
    assert "batch_size" in (PhysicsDataset.__doc__ or "")
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = getattr(module, "Nonsense")  # noqa: B009


def test_a_copied_dataset_shares_its_counters_with_its_own_workers(writer: RingWriter) -> None:
    writer.publish(8)
    dataset = PhysicsDataset(batch_size=8, start="oldest", path=writer.path, timeout_s=0.5)
    for copied in (copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))):
        assert copied._workers.is_shared()
        assert [batch["frame_id"].tolist() for batch in copied] == [list(range(1, 9))]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_over_http_with_connections_of_their_own(writer: RingWriter, context: str) -> None:
    with GatewayStub(token="secret") as gateway:
        gateway.publish(64)
        dataset = PhysicsDataset(
            batch_size=8,
            start="oldest",
            path=writer.path.with_name("no ring"),
            url=gateway.url,
            token="secret",
            timeout_s=2,
        )
        loader = torch.utils.data.DataLoader(
            dataset, batch_size=None, num_workers=2, multiprocessing_context=context
        )
        ids = [one for batch in loader for one in batch["frame_id"].tolist()]
        assert sorted(ids) == list(range(1, 65))


def test_without_torch_the_import_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, ring: RingWriter
) -> None:
    monkeypatch.delitem(module.__dict__, "PhysicsDataset")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="pip install torch"):
        _ = module.PhysicsDataset
    with PhysicsConsumer(ring.path) as consumer, pytest.raises(ConsumerError, match="pip install torch"):
        consumer.read_batch(3).tensors()


def test_frames_of_a_batch_may_be_kept_as_arrays(ring: RingWriter) -> None:
    with PhysicsConsumer(ring.path) as consumer:
        frames = consumer.read_batch(4)
    assert isinstance(frames, Frames)
    assert np.array_equal(torch.from_dlpack(frames.kinetics()).numpy(), frames.kinetics())
