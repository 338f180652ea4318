"""The embedding client through a real Triton, against the same model called in this process.

Measures products per second in requests of 256 and 64 products; the goals are at least 0.85 and 0.55 of the floor.

The floor is the bare forward pass over tensors that are ready before the clock starts, grouped like the client's, with
as many threads and the same precision. The client starts from token ids and image vectors: it groups, stacks, checks,
serializes and sends them, Triton queues and computes, and the client reads and checks the answers. The model has full
size, descriptions are real, products have 1 to 20 images (mean 2.9), three requests are in flight, and everything runs
on the same cores.

`embed_*` compare elapsed time. `embed_*_cpu` compare the CPU seconds of this process, the server and its children,
which other programs on the machine disturb less. `embed_min_cosine` is the smallest cosine between both sides' vectors.
`embed_rss_growth` is the growth of this process's memory between an early and a late time of a long run.
"""

from __future__ import annotations

import os

from inference.arrays import Float32Array, Int32Array

# Like the model on Triton (itemsage/model.py), so that the floor sleeps instead of spinning too.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import copy
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import torch

from benchmarks.harness import Row, Say, compared, figure, in_turn
from benchmarks.tokenize import real_products
from inference.inputs import stack_images
from inference.model import ItemSage, ItemSageConfig
from inference.releases.export import export_release
from inference.releases.repository import ITEMSAGE, set_live
from inference.tokenizer import Tokenizer
from inference.triton.batching import group_by_size
from inference.triton.client import TritonClient
from inference.visual import has_bfloat16
from sagelift.stack.components import fetch_all
from sagelift.stack.triton import TritonServer

PRODUCTS = 2_048
RUNS = 15
LONG_RUN_S = 30.0
_CACHE = Path(os.environ.get("SAGELIFT_CACHE_DIR", "~/.cache/sagelift")).expanduser()


class Catalogue(NamedTuple):
    """Products as the client takes them: image vectors of each, token ids `[B, T]`, and field lengths `[B, 12]`."""

    images: list[Float32Array]
    token_ids: Int32Array
    field_lengths: Int32Array


class Served(NamedTuple):
    """A model on Triton, and the same model in this process."""

    triton: TritonServer
    model: ItemSage
    catalogue: Catalogue

    def cpu_clock(self) -> float:
        """Return the CPU seconds of this process, the server and its children."""
        server = psutil.Process(self.triton.pid)
        times = [process.cpu_times() for process in (server, *server.children(recursive=True))]
        return time.process_time() + float(sum(t.user + t.system for t in times))


def rows(say: Say) -> list[Row]:
    """Measure `embed_256`, `embed_64`, both by CPU seconds, `embed_min_cosine` and `embed_rss_growth`."""
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    with serving(say) as served:
        memory = _memory(served, say)  # first, because memory that the floor keeps or frees is not the client's
        return [*_rates(served, 256, 0.85, say), *_rates(served, 64, 0.55, say), _cosine(served), memory]


def as_served(model: ItemSage, say: Say) -> ItemSage:
    """Return the model in the precision of itemsage/model.py: bfloat16 if the hardware has it, else float32."""
    if not has_bfloat16(torch.device("cpu")):
        say("this CPU has no bfloat16: the served model is float32")
        return model
    return copy.deepcopy(model).to(torch.bfloat16)


@contextmanager
def serving(say: Say) -> Iterator[Served]:
    """Serve a full ItemSage with random weights on a real Triton on free ports, in a temporary folder."""
    catalogue, tokenizer = _catalogue(say)
    torch.manual_seed(0)
    model = ItemSage(ItemSageConfig(vocabulary=tokenizer.size)).eval().requires_grad_(False)
    here = as_served(model, say)
    fetch_all(_CACHE, say)
    with tempfile.TemporaryDirectory() as folder:
        repo = Path(folder) / "models"
        export_release(repo, model, tokenizer)
        set_live(repo, "1")
        config = repo / ITEMSAGE / "config.pbtxt"  # fixed, because the floor must have the same precision
        chosen = "fp32" if here is model else "bf16"
        config.write_text(re.sub(r'(key: "compute".*?string_value: )"auto"', rf'\1"{chosen}"', config.read_text()))
        say("starting Triton")
        with TritonServer(Path(folder) / "triton", _CACHE, repo) as triton:
            yield Served(triton, here, catalogue)


def _catalogue(say: Say) -> tuple[Catalogue, Tokenizer]:
    texts = real_products(say)
    tokenizer = Tokenizer.fit(texts)
    rng = np.random.default_rng(0)
    token_ids, field_lengths = tokenizer.encode([texts[at] for at in rng.integers(0, len(texts), PRODUCTS)])
    counts = np.minimum(rng.geometric(0.35, PRODUCTS), 20)
    images = [rng.normal(size=(count, 256)).astype(np.float32) for count in counts]
    return Catalogue(
        [i / np.linalg.norm(i, axis=1, keepdims=True) for i in images], token_ids, field_lengths
    ), tokenizer


def floor(served: Served, size: int) -> Callable[[], object]:
    """Return the bare forward pass over requests of this size, grouped and stacked in advance."""
    images, token_ids, field_lengths = served.catalogue
    ready = []
    for group in group_by_size(np.array([len(i) for i in images], np.int32), size, field_lengths.sum(1)):
        lengths = field_lengths[group]
        stacked, counts = stack_images([images[row] for row in group])
        ids = token_ids[group, : lengths.sum(1).max()]
        ready.append([torch.from_numpy(array) for array in (stacked.astype(np.float16), counts, ids, lengths)])

    def run() -> object:
        with torch.inference_mode():
            return [served.model(*batch) for batch in ready]

    return run


def _rates(served: Served, size: int, goal: float, say: Say) -> list[Row]:
    say(f"{PRODUCTS} products in requests of {size}")
    measured = []
    bare = floor(served, size)
    with TritonClient(served.triton.grpc, batch=size) as client:
        candidates: dict[str, Callable[[], object]] = {
            "ours": lambda: client.embed(*served.catalogue, version="1"),
            "floor": bare,
        }
        for name, clock, at_least in (
            (f"embed_{size}", time.perf_counter, goal),
            (f"embed_{size}_cpu", served.cpu_clock, None),
        ):
            seconds = in_turn(candidates, runs=RUNS, clock=clock)
            rate = {who: [PRODUCTS / s for s in taken] for who, taken in seconds.items()}
            measured.append(compared(name, "products/s", rate["ours"], "in process", rate["floor"], at_least=at_least))
    return measured


def _cosine(served: Served) -> Row:
    """Compare the vectors, because a fast client with other vectors would be wrong."""
    images, token_ids, field_lengths = served.catalogue
    stacked, counts = stack_images(images[:512])
    with torch.inference_mode():
        here = served.model(*map(torch.from_numpy, (stacked, counts, token_ids[:512], field_lengths[:512]))).numpy()
    with TritonClient(served.triton.grpc) as client:
        there = client.embed(images[:512], token_ids[:512], field_lengths[:512], version="1").vectors
    return figure("embed_min_cosine", "", float((here * there).sum(1).min()), at_least=0.9995)


def _memory(served: Served, say: Say) -> Row:
    say(f"{LONG_RUN_S:.0f} s of requests")
    process = psutil.Process()
    with TritonClient(served.triton.grpc) as client:
        started = time.monotonic()
        early = None
        while (elapsed := time.monotonic() - started) < LONG_RUN_S:
            client.embed(*served.catalogue, version="1")
            if early is None and elapsed > LONG_RUN_S / 6:
                early = process.memory_info().rss
        late = process.memory_info().rss
    return figure("embed_rss_growth", "MB", (late - (early or late)) / 2**20, at_most=8.0)
