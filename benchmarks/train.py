"""Training: the loop against bare steps over prepared tensors, and memory with 65,536 random negatives.

`train_rate`: pairs per second of the whole loop (drawing, frequencies, masks, loading) against the same forward,
backward and optimizer step over batches that were prepared before the clock started, on the same device; the goal is
at least 0.8.

`train_memory`: peak resident memory of a process that trains with 65,536 random negatives, minus the size of these
negatives (their embeddings and the gradient), against one with 1,024; the goal is at most 1.1. Each process is a child
that reads the whole training set from disk. The catalogue has more products than negatives, so most are distinct.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from itertools import cycle
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import Row, Say, compared, in_turn
from inference.inputs import VECTOR_DIM, ProductInput
from inference.tokenizer import Tokenizer
from inference.training.config import TrainConfig
from inference.training.engagements import TASKS, Engagement
from inference.training.loop import Trainer
from inference.training.packed import PackedProducts
from inference.training.pairs import Pairs

STEPS = 8
FEW, MANY = 1_024, 65_536


def rows(say: Say) -> list[Row]:
    """Measure `train_rate` and `train_memory`."""
    return [_rate(say), _memory(say)]


def _training_set(products: int) -> tuple[PackedProducts, Pairs]:
    rng = np.random.default_rng(0)
    words = [f"word{n}" for n in range(2_000)]
    drawn = rng.zipf(1.2, (products, 30)) % len(words)
    images = rng.normal(size=(products, VECTOR_DIM)).astype(np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    catalogue = [
        ProductInput(
            str(row),
            {
                "title": " ".join(words[w] for w in drawn[row, :5]),
                "description": " ".join(words[w] for w in drawn[row, 5:]),
                "brand": words[drawn[row, 0]],
            },
            images[row : row + 1],
        )
        for row in range(products)
    ]
    packed = PackedProducts(catalogue, Tokenizer.fit([p.text for p in catalogue[:2_000]]))
    split = [task.split("/") for task in TASKS]
    log = [
        Engagement("search" if kind == "search" else "image", str(q), str(p), action, 1)
        for kind, action in split
        for q, p in rng.integers(0, products, (1_000, 2)).tolist()
    ]
    return packed, Pairs(log, packed)


def _trainer(packed: PackedProducts, pairs: Pairs, device: torch.device, config: TrainConfig) -> Trainer:
    queries = np.random.default_rng(2).normal(size=(len(pairs.queries), VECTOR_DIM)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    torch.manual_seed(0)
    return Trainer(packed, pairs, queries, config, np.random.default_rng(1), device=device)


# -------------------------------------------------------------------------------------------------------------- rate


def _rate(say: Say) -> Row:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = TrainConfig(steps=10**6, batch=256, random_negatives=256)
    if device.type == "cuda":
        config = TrainConfig(
            steps=10**6, batch=2_048, random_negatives=8_192, width=512, heads=8, feedforward=2_048, head_hidden=2_048,
            encoder_chunk=16_384, precision="bfloat16",
        )  # fmt: skip
    say(f"{STEPS} steps of {config.batch} pairs and {config.random_negatives} random negatives on {device}")
    data = _training_set(5_000)
    loop, bare = _trainer(*data, device, config), _trainer(*data, device, config)
    prepared = cycle([bare.prepare() for _ in range(STEPS)])

    def run_loop() -> None:
        loop.run(lambda done: None, until=len(loop.losses) + STEPS)

    def run_bare() -> None:
        for _ in range(STEPS):
            bare.step(next(prepared))

    seconds = in_turn({"loop": run_loop, "bare": run_bare}, runs=7)
    rate = {name: [STEPS * config.batch / s for s in taken] for name, taken in seconds.items()}
    return compared("train_rate", "pairs/s", rate["loop"], "prepared batches", rate["bare"], at_least=0.8)


# ------------------------------------------------------------------------------------------------------------ memory


def _memory(say: Say) -> Row:
    themselves = 2 * (MANY - FEW) * VECTOR_DIM * 4 / 2**20
    peaks: dict[int, list[float]] = {FEW: [], MANY: []}
    with tempfile.TemporaryDirectory() as folder:
        for part in _training_set(MANY + 10_000):
            part.save(Path(folder))
        for negatives, values in peaks.items():
            say(f"a process that trains with {negatives} random negatives")
            # Freed blocks go back to the system at once; otherwise this would measure the allocator too.
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.train", folder, str(negatives)],
                env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "CUDA_VISIBLE_DEVICES": ""},
                capture_output=True,
                text=True,
                check=True,
            )
            values.append(float(done.stdout))
    many = [peak - themselves for peak in peaks[MANY]]
    say(f"peak resident MiB: {peaks}, the negatives themselves {themselves:.0f}")
    return compared("train_memory", "MiB", many, f"{FEW} negatives", peaks[FEW], at_most=1.1)


def _peak_mib(folder: Path, negatives: int) -> float:
    """Train one step of the paper's encoder; return the peak of this process in MiB."""
    config = TrainConfig(
        steps=1, batch=256, random_negatives=negatives, width=512, heads=8, feedforward=2_048, head_hidden=2_048,
        encoder_chunk=512, loss_chunk=1_024,
    )  # fmt: skip
    packed, pairs = PackedProducts.load(folder), Pairs.load(folder)
    for start in range(0, len(packed), 1_000):  # mapped pages count once they are read, so read all of them
        packed.batch(np.arange(start, min(start + 1_000, len(packed))))
    _trainer(packed, pairs, torch.device("cpu"), config).run(lambda done: None)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    print(_peak_mib(Path(sys.argv[1]), int(sys.argv[2])))
