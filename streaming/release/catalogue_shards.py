"""Cut the catalogue into shards, and run work on the shards here or in other processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple, TypeVar

from feature_repo.jobs.engine import Batch, Engine, InProcess, PerProcess, batches
from feature_repo.rows import ProductFeatures
from streaming.catalogue.embed import Embedder
from streaming.feature_store import ReembeddingStore
from streaming.vectors.publisher import PublishVectors

SHARD_PRODUCTS = 1024
"""Number of products in a shard."""

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


class EmbeddingContext(NamedTuple):
    """What a process needs to embed products.

    Attributes:
        store: The feature store.
        embedder: The model.
        publish: Publishes the vectors.
    """

    store: ReembeddingStore
    embedder: Embedder
    publish: PublishVectors


class EmbeddingWorkers(NamedTuple):
    """Other processes that embed.

    Attributes:
        engine: Runs work in the processes, such as `feature_repo.jobs.spark.SparkEngine`.
        open_context: Opens a context from a model version. It can be pickled; each process calls it once.
    """

    engine: Engine
    open_context: Callable[[str], EmbeddingContext]


CatalogueShard = Batch[str]
"""A numbered list of product ids."""


def catalogue_shards(store: ReembeddingStore, shard_products: int = SHARD_PRODUCTS) -> Iterator[CatalogueShard]:
    """Yield the live products in the store's order; this reads only their ids."""
    return batches(store.product_ids(), shard_products)


def live_products(store: ReembeddingStore, shard: CatalogueShard) -> list[ProductFeatures]:
    """Read those products of a shard that are still live."""
    return [product for product in store.read_features(shard.items).values() if not product.deleted]


def run_on_shards(
    work: Callable[[EmbeddingContext, _Task], _Result],
    tasks: Iterable[_Task],
    context: EmbeddingContext,
    workers: EmbeddingWorkers | None,
) -> Iterator[_Result]:
    """Yield the results of `work` on each task, each as soon as it is finished, in any order.

    Args:
        work: Does one task in a context. It can be pickled.
        tasks: The tasks. They and the results can be pickled.
        context: The context of this process.
        workers: Other processes, each with its own context; None works in this process.
    """
    if workers is None:
        return InProcess().map(partial(work, context), tasks)
    contexts = PerProcess(partial(workers.open_context, context.embedder.model_version))
    return workers.engine.map(partial(_work_in_worker, contexts, work), tasks)


def _work_in_worker(
    contexts: PerProcess[EmbeddingContext], work: Callable[[EmbeddingContext, _Task], _Result], task: _Task
) -> _Result:
    return work(contexts.get(), task)
