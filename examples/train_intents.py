#!/usr/bin/env python3
"""Trains an intent classifier online, on the frames of a running gateway.

    ./one_file_gateway                                     # in one terminal
    python examples/train_intents.py --messages test/fixtures/banking77.csv

The program sends the messages of a CSV file (text,category) to the gateway and follows the ring meanwhile. It
predicts each batch of frames before it learns from it, so the first accuracy that it prints is that of
messages it had not seen. A tenth of the messages is marked as held back. The last accuracy is that of
these, which it never learns from.

The classifier is one linear layer over the embedding, so its accuracy shows how much the embedding contains.
The program keeps batches and replays them, because an online learner forgets an example that it sees once.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from consumer import ConsumerError, PhysicsDataset

HELD_BACK = 1  # workflow_node of the messages that the classifier never learns from
CLASSES_MAX = 256
SEND_AT_ONCE = 64
REPLAY_BATCHES = 4


class OnlineClassifier:
    """Softmax regression over embeddings (n, 1024). Classes are added when their first frame comes."""

    def __init__(self, device: str, replay: int) -> None:
        self.device = device
        self.replay = replay
        self.layer = torch.nn.Linear(1024, CLASSES_MAX).to(device)
        torch.nn.init.zeros_(self.layer.weight)
        torch.nn.init.zeros_(self.layer.bias)
        self.optimizer = torch.optim.Adam(self.layer.parameters(), lr=0.02)
        self.class_of: dict[int, int] = {}
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def classes(self, intent_ids: torch.Tensor) -> torch.Tensor:
        """Maps (n,) int64 of intent ids to (n,) int64 of class numbers; a new id gets the next number."""
        known = self.class_of
        numbers = [known.setdefault(one, len(known)) for one in intent_ids.tolist()]
        if len(known) > CLASSES_MAX:
            raise SystemExit(
                f"train_intents: more than {CLASSES_MAX} intents; raise CLASSES_MAX in this file"
            )
        return torch.tensor(numbers, device=self.device)

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """(n,) int64: the likeliest of the known classes; class 0 while none is known."""
        with torch.no_grad():
            return self.layer(x)[:, : max(len(self.class_of), 1)].argmax(dim=1)

    def learn(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Takes one step on the new batch, and `replay` steps on batches drawn from all earlier ones."""
        self.seen.append((x, y))
        self._step(x, y)
        for _ in range(self.replay):
            drawn = random.choices(self.seen, k=REPLAY_BATCHES)
            self._step(torch.cat([one for one, _ in drawn]), torch.cat([one for _, one in drawn]))

    def _step(self, x: torch.Tensor, y: torch.Tensor) -> None:
        scores = self.layer(x)[:, : len(self.class_of)]
        loss = torch.nn.functional.cross_entropy(
            scores * 8, y
        )  # sharpens the scores, because embeddings have length 1
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def read_messages(path: Path, limit: int, seed: int) -> list[dict[str, object]]:
    """The events to send, shuffled, because the file is sorted by category."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    generator = random.Random(seed)
    generator.shuffle(rows)
    return [
        {
            "type": "UserMessage",
            "message": row["text"],
            "intent": row["category"],
            "workflow_node": HELD_BACK if generator.random() < 0.1 else 0,
        }
        for row in rows[:limit]
    ]


def send(url: str, token: str | None, events: list[dict[str, object]]) -> None:
    """Sends the events as NDJSON in batches, and sends a batch again if the gateway is overloaded."""
    headers = {"content-type": "application/x-ndjson"}
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    for first in range(0, len(events), SEND_AT_ONCE):
        lines = "\n".join(json.dumps(event) for event in events[first : first + SEND_AT_ONCE])
        request = urllib.request.Request(f"{url}/ingest", lines.encode(), headers)
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30) as response:
                    response.read()
                break
            except urllib.error.HTTPError as error:
                if error.code != 503:
                    raise
                time.sleep(float(error.headers.get("retry-after", "1")))


def train(arguments: argparse.Namespace) -> None:
    """Sends the messages, predicts and learns from their frames, and prints accuracies."""
    torch.manual_seed(arguments.seed)
    random.seed(arguments.seed)
    torch.set_num_threads(1)  # the layer is small, so more threads would only wait for one another
    events = read_messages(arguments.messages, arguments.limit, arguments.seed)
    # Made before the first message is sent, so that it begins with that message's frame.
    dataset = PhysicsDataset(arguments.batch, "latest", path=arguments.path, timeout_s=10.0, max_wait_s=0.5)
    sender = threading.Thread(target=send, args=(arguments.url, arguments.token, events), daemon=True)
    sender.start()

    learner = OnlineClassifier(arguments.device, arguments.replay)
    predicted = right = frames = 0
    held_x: list[torch.Tensor] = []
    held_y: list[torch.Tensor] = []
    for batch in dataset:
        frames += len(batch["frame_id"])
        known = (batch["flags"] & 0b11) == 0b11  # both an embedding and an intent
        x = batch["semantic"][known].to(arguments.device)
        y = learner.classes(batch["intent_id"][known])
        held = batch["kinetics"][known][:, 5].to(arguments.device) == HELD_BACK  # workflow_node
        held_x.append(x[held])
        held_y.append(y[held])
        x, y = x[~held], y[~held]
        if len(y):
            right += int((learner.predict(x) == y).sum())
            predicted += len(y)
            learner.learn(x, y)
        if frames // 1000 != (frames - len(batch["frame_id"])) // 1000:
            so_far = right / max(predicted, 1)
            print(f"{frames} frames, {len(learner.class_of)} intents: {so_far:.3f} right so far")
        if frames >= len(events):
            break
    if not predicted:
        raise SystemExit(
            "train_intents: no frame with embedding and intent within 10 s; give the gateway's ring (--path)"
        )
    test_x, test_y = torch.cat(held_x), torch.cat(held_y)
    accuracy = float((learner.predict(test_x) == test_y).float().mean()) if len(test_y) else float("nan")
    print(f"learned from {predicted} frames of {len(learner.class_of)} intents, {dataset.lost} lost")
    print(f"predicted before it was learned: {right / predicted:.3f} right")
    print(f"never learned from ({len(test_y)} frames): {accuracy:.3f} right")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument(
        "--messages", type=Path, required=True, help="CSV file with the columns text and category"
    )
    parser.add_argument(
        "--limit", type=int, default=sys.maxsize, help="the most messages to send (default: all)"
    )
    parser.add_argument("--url", default="http://127.0.0.1:9382", help="the gateway's address")
    parser.add_argument("--token", help="the gateway's token, if it has one")
    parser.add_argument(
        "--path", help="the gateway's ring (default: CS_PHYSICS_PATH, or the system's default)"
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--replay", type=int, default=2, help="steps on earlier frames for each batch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=77)
    try:
        train(parser.parse_args())
    except (ConsumerError, OSError) as error:
        print(f"train_intents: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
