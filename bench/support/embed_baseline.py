"""Embeds the texts of a file with Python's onnxruntime. This is the baseline of bench/embed.ts.

    python embed_baseline.py MODEL_FOLDER ROUNDS.json BATCH THREADS

ROUNDS.json is a list of lists of texts. Prints the median over the rounds of texts per second. Each batch is
padded to its longest text.
Needs onnxruntime, numpy and tokenizers.
"""

from __future__ import annotations

import json
import pathlib
import statistics
import sys
import time


def feeds_of(np, tokenizer, texts, names):  # type: ignore[no-untyped-def]
    """Builds the padded batch of some texts."""
    encoded = tokenizer.encode_batch(texts)
    ids = np.array([one.ids for one in encoded], np.int64)
    mask = np.array([one.attention_mask for one in encoded], np.int64)
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return {name: value for name, value in feeds.items() if name in names}


def main() -> None:
    """Measures what the command line names."""
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    folder, texts_path, batch, threads = (
        pathlib.Path(sys.argv[1]),
        sys.argv[2],
        int(sys.argv[3]),
        int(sys.argv[4]),
    )
    rounds = json.loads(pathlib.Path(texts_path).read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(512)
    tokenizer.enable_padding()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    graph = str(folder / "onnx" / "model_quantized.onnx")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}
    speeds = []
    session.run(None, feeds_of(np, tokenizer, ["ready"], names))
    for texts in rounds:
        started = time.perf_counter()
        for at in range(0, len(texts), batch):
            feeds = feeds_of(np, tokenizer, texts[at : at + batch], names)
            hidden, mask = session.run(None, feeds)[0], feeds["attention_mask"]
            rows = (hidden * mask[:, :, None]).sum(1)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        speeds.append(len(texts) / (time.perf_counter() - started))
    print(statistics.median(speeds))


if __name__ == "__main__":
    main()
