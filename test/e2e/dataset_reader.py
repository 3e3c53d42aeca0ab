"""A training process as test/e2e/dataset.test.ts kills it: PATH URL LOG.

Writes one line to LOG for each batch, with the dataset's state after it, as a training loop does when it
saves a checkpoint. A new start resumes from the last whole line.
"""

from __future__ import annotations

import json
import os
import sys

from consumer import PhysicsDataset, RingEvent


def _tell(event: RingEvent) -> None:
    print(event.kind, event.message, file=sys.stderr, flush=True)


def _main(path: str, url: str, log: str) -> None:
    descriptor = os.open(log, os.O_RDWR | os.O_CREAT, 0o600)
    with open(descriptor, "rb", closefd=False) as file:
        lines = file.read().split(b"\n")
    # What a kill has cut off was never handed out.
    os.ftruncate(descriptor, sum(len(line) + 1 for line in lines[:-1]))
    os.lseek(descriptor, 0, os.SEEK_END)
    dataset = PhysicsDataset(16, "oldest", path=path, url=url, max_wait_s=0.05, on_event=_tell)
    if len(lines) > 1:
        dataset.load_state_dict(json.loads(lines[-2])["state"])
    for batch in dataset:
        row = {
            "ids": batch["frame_id"].tolist(),
            "seqs": batch["event_seq"].tolist(),
            "first": batch["semantic"][:, 0].tolist(),
            "state": dataset.state_dict(),
            "lost": dataset.lost,
        }
        os.write(descriptor, json.dumps(row).encode() + b"\n")


_main(*sys.argv[1:])
