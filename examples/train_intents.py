#!/usr/bin/env python3
"""Learns to tell intents apart, online, from the frames of a running gateway.

    ./one_file_gateway                                     # in one terminal
    python examples/train_intents.py --messages test/fixtures/banking77.csv

It sends the messages of a CSV file (text,category) to the gateway, a tenth of them marked as not for
training, and follows the ring meanwhile: each batch of frames is first predicted, then learned from. So the
first accuracy it prints is honest at every moment (no frame was learned from before it was predicted), and
the last is that of the frames that were never learned from.

The classifier is one linear layer over the embedding: what it reaches says how much the embedding knows.
Batches are kept and replayed, because an online learner that sees each example once forgets it.
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

HELD_BACK = 1  # workflow_node of the messages that are not trained on
CLASSES_MAX = 256
SEND_AT_ONCE = 64
REPLAY_BATCHES = 4


class OnlineClassifier:
    """Softmax regression over embeddings (n, 1024), for classes that turn up as it goes."""

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
        """(n,) int64 of intent ids to (n,) int64 of class numbers; a new id is the next number."""
        known = self.class_of
        numbers = [known.setdefault(one, len(known)) for one in intent_ids.tolist()]
        if len(known) > CLASSES_MAX:
            raise SystemExit(
                f"train_intents: more than {CLASSES_MAX} intents; this example has room for no more"
            )
        return torch.tensor(numbers, device=self.device)

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """(n,) int64: the likeliest of the classes seen so far; class 0 before there is one."""
        with torch.no_grad():
            return self.layer(x)[:, : max(len(self.class_of), 1)].argmax(dim=1)

    def learn(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """One step on what is new, and `replay` steps on batches drawn from all that were seen."""
        self.seen.append((x, y))
        self._step(x, y)
        for _ in range(self.replay):
            drawn = random.choices(self.seen, k=REPLAY_BATCHES)
            self._step(torch.cat([one for one, _ in drawn]), torch.cat([one for _, one in drawn]))

    def _step(self, x: torch.Tensor, y: torch.Tensor) -> None:
        scores = self.layer(x)[:, : len(self.class_of)]
        loss = torch.nn.functional.cross_entropy(scores * 8, y)  # embeddings have length 1: sharpen
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def read_messages(path: Path, limit: int, seed: int) -> list[dict[str, object]]:
    """The events to send: shuffled, since the file is sorted by category."""
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
    """Sends the events as NDJSON, some at a time, and again where the gateway has too much to do."""
    headers = {"content-type": "application/x-ndjson"}
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    for first in range(0, len(events), SEND_AT_ONCE):
        lines = "\n".join(json.dumps(event) for event in events[first : first + SEND_AT_ONCE])
        request = urllib.request.Request(f"{url}/ingest", lines.encode(), headers)
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    answer.read()
                break
            except urllib.error.HTTPError as error:
                if error.code != 503:
                    raise
                time.sleep(float(error.headers.get("retry-after", "1")))


def train(arguments: argparse.Namespace) -> None:
    """Sends, follows, predicts, learns; prints accuracies."""
    torch.manual_seed(arguments.seed)
    random.seed(arguments.seed)
    torch.set_num_threads(1)  # the layer is small: more threads wait for each other, and for the gateway
    events = read_messages(arguments.messages, arguments.limit, arguments.seed)
    # From the next frame on: opened before the first message is sent, so that none is missed.
    dataset = PhysicsDataset(arguments.batch, "latest", path=arguments.path, timeout_s=10.0, max_wait_s=0.5)
    sender = threading.Thread(target=send, args=(arguments.url, arguments.token, events), daemon=True)
    sender.start()

    learner = OnlineClassifier(arguments.device, arguments.replay)
    predicted = right = frames = 0
    held_x: list[torch.Tensor] = []
    held_y: list[torch.Tensor] = []
    for batch in dataset:
        frames += len(batch["frame_id"])
        known = (batch["flags"] & 0b11) == 0b11  # has an embedding, has an intent
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
            "train_intents: no frame with an embedding and an intent came within 10 s; is it the same ring?"
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
    parser.add_argument("--limit", type=int, default=sys.maxsize, help="send so many of its messages (all)")
    parser.add_argument("--url", default="http://127.0.0.1:9382", help="the gateway")
    parser.add_argument("--token", help="its token, where it has one")
    parser.add_argument("--path", help="its ring (CS_PHYSICS_PATH, or where the gateway puts it)")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--replay", type=int, default=2, help="steps over earlier frames for each batch")
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
