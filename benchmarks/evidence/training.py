"""Train and evaluate every variant on every seed's log, in several processes.

Each variant differs from the full model in one thing. All variants of a seed share the log, the vocabularies and the
frozen search encoder. A finished training is one line of the results; later runs skip it.
"""

from __future__ import annotations

import copy
import hashlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from benchmarks.evidence.engagement_log import ceiling, simulate_log
from inference.training.config import TrainConfig
from inference.training.engagements import TASKS
from inference.training.evaluation import evaluate
from inference.training.pairs import Pairs
from sagelift.demo.shoppers import FloatArray, Market

if TYPE_CHECKING:
    pass

from benchmarks.evidence.catalogue import Catalogue
from benchmarks.evidence.results import Trained, append_result, read_results
from benchmarks.evidence.variants import CEILING, FULL, SUM, VARIANTS, EvidenceConfig

NEW_SHARE = 0.25
"""Share of the products that are in no training, as if they were published later."""

_SIMULATOR = 1  # increase it when the same configuration gives another log


def ablate(
    catalogues: Sequence[Catalogue],
    config: EvidenceConfig,
    results: Path,
    *,
    jobs: int = 1,
    on_result: Callable[[int, int], None] = lambda done, total: None,
) -> list[Trained]:
    """Train all variants whose results are not in the file yet.

    Args:
        catalogues: The catalogues.
        config: Size of the evidence.
        results: File of results; each finished training is appended.
        jobs: Number of processes that train at the same time, with one thread each.
        on_result: Called with the number of finished trainings and their total.

    Returns:
        All results of this configuration, sorted by catalogue, seed and variant.

    Raises:
        InputError: A catalogue is too small for a log.
        ArtifactError: The file cannot be read or written.
    """
    tasks = {
        _digest(catalogue, config, variant, seed): (number, variant, seed)
        for number, catalogue in enumerate(catalogues)
        for seed in config.seeds
        for variant in (CEILING, SUM, *config.variants)
    }
    done = {t.digest: t for t in read_results(results) if t.digest in tasks}
    on_result(len(done), len(tasks))
    missing = [(digest, *task) for digest, task in tasks.items() if digest not in done]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _start_process, (catalogues, config)) as pool:
        running = [pool.submit(_train_one, *task) for task in missing]
        try:
            for future in as_completed(running):
                trained = future.result()
                append_result(results, trained)
                done[trained.digest] = trained
                on_result(len(done), len(tasks))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [done[digest] for digest in tasks]


def _digest(catalogue: Catalogue, config: EvidenceConfig, variant: str, seed: int) -> str:
    sizes = [config.visits_per_product, config.steps, config.search_steps]
    inputs = [
        _SIMULATOR,
        catalogue.digest,
        variant,
        seed,
        *sizes,
        msgspec.to_builtins(_train_config(config, variant, seed)),
        VARIANTS.get(variant, {}).get("only"),
    ]
    return hashlib.sha256(msgspec.json.encode(inputs)).hexdigest()[:16]


def _train_config(config: EvidenceConfig, variant: str, seed: int, pairs: Pairs | None = None) -> TrainConfig:
    chosen = {name: value for name, value in VARIANTS.get(variant, {}).items() if name != "only"}
    if (only := VARIANTS.get(variant, {}).get("only")) and pairs is not None:
        rows = pairs.training
        engagements = np.bincount(
            pairs.task[rows], pairs.count[rows], len(TASKS)
        )  # the same shares as without a choice
        chosen["tasks"] = {
            task: float(n**0.5) if set(only) & set(task.split("/")) else 0.0
            for task, n in zip(TASKS, engagements, strict=True)
        }
    return TrainConfig(steps=config.steps, search_steps=config.search_steps, seed=seed, **chosen)


def _start_process(catalogues: Sequence[Catalogue], config: EvidenceConfig) -> None:
    """Prepare a process of the pool. Several processes with one thread each are faster than one with several."""
    import torch

    os.nice(5)  # a run takes an hour or more and must not slow other work
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _worlds.clear()
    _inputs[:] = [(catalogue, config) for catalogue in catalogues]


def _end_with_parent() -> None:
    """End this process with its parent; otherwise it would wait for work forever after the parent was killed."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


class _World:
    """What all variants of a seed share: the log, the training set, the search encoder, and two sets of test pairs."""

    def __init__(self, catalogue: Catalogue, config: EvidenceConfig, seed: int) -> None:
        import torch

        from inference.training.dataset import TrainingSet
        from inference.training.evaluation import query_vectors
        from inference.training.packed import PackedProducts
        from inference.training.search import train_search

        self.market = Market(catalogue.shop, 7, catalogue.looks)
        self.log = simulate_log(self.market, config.visits_per_product * len(catalogue.products), seed)
        new = {p.id for p in catalogue.products if _hash_share(p.id) < NEW_SHARE}
        known = [p for p in catalogue.products if p.id not in new]
        full = _train_config(config, FULL, seed)
        # Queries by the image of a new product are left out of the training too.
        self.data = TrainingSet.build(known, [e for e in self.log if e.product_id not in new], full)
        torch.manual_seed(seed)
        search = train_search(self.data, full)
        self.queries = query_vectors(self.data.pairs, self.data.packed, search)
        self.packed = PackedProducts(catalogue.products, self.data.tokenizer)
        whole = Pairs(self.log, self.packed)
        self.judged_queries = query_vectors(whole, self.packed, search)
        self.is_new = np.array([p.id in new for p in catalogue.products])
        self.known_products, self.new_products = copy.copy(whole), copy.copy(whole)
        self.known_products.held_out = whole.held_out & ~self.is_new[whole.product]
        self.new_products.held_out = self.is_new[whole.product]


_inputs: list[tuple[Catalogue, EvidenceConfig]] = []  # of this process, by the number of the catalogue
_worlds: dict[tuple[int, int], _World] = {}  # only the last one, because the variants of a seed follow each other


def _train_one(digest: str, number: int, variant: str, seed: int) -> Trained:
    started = time.monotonic()
    catalogue, config = _inputs[number]
    if (number, seed) not in _worlds:
        _worlds.clear()
        _worlds[number, seed] = _World(catalogue, config, seed)
    world = _worlds[number, seed]
    products, queries = _vectors(world, config, variant, seed)
    return Trained(
        catalogue=catalogue.name,
        digest=digest,
        variant=variant,
        seed=seed,
        products=len(catalogue.products),
        pairs=len(world.known_products.query),
        queries=len(queries),
        known_products=evaluate(products, queries, world.known_products),
        new_products=evaluate(products, queries, world.new_products, among=world.is_new),
        seconds=round(time.monotonic() - started, 1),
    )


def _vectors(world: _World, config: EvidenceConfig, variant: str, seed: int) -> tuple[FloatArray, FloatArray]:
    """Return the vectors of all products and all queries by one variant."""
    import torch

    from inference.training.evaluation import embed_all
    from inference.training.loop import Trainer

    if variant == CEILING:
        return ceiling(world.market, world.log, world.known_products.queries)
    if variant == SUM:
        return world.packed.summed_images(), world.judged_queries
    options = _train_config(config, variant, seed, world.data.pairs)
    torch.manual_seed(seed + 1)
    rng = np.random.default_rng([seed, 1])
    trainer = Trainer(world.data.packed, world.data.pairs, world.queries, options, rng)
    trainer.run(lambda _: None)
    return embed_all(trainer.encoder, world.packed, images=options.images, text=options.text), world.judged_queries


def _hash_share(product_id: str) -> float:
    return int.from_bytes(hashlib.sha256(product_id.encode()).digest()[:8], "big") / 2**64
