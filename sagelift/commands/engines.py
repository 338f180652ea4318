"""The engine of jobs over the whole catalogue: this process, or Spark."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import typer

from sagelift.settings import Settings

if TYPE_CHECKING:
    from feature_repo.jobs.spark import SparkEngine
    from sagelift.services import Services
    from streaming.release.catalogue_shards import EmbeddingContext, EmbeddingWorkers


@dataclass(frozen=True)
class EngineOptions:
    """The engine of a job."""

    panel: ClassVar[str] = "Engine"

    engine: Annotated[
        Literal["local", "spark"], typer.Option("--engine", help="Engine: this process, or Spark's executors.")
    ] = "local"
    master: Annotated[
        str | None,
        typer.Option(
            help="Spark's master, such as local[4] or spark://host:7077. Default: that of spark-submit, or local[*]."
        ),
    ] = None


@contextmanager
def spark_engine(options: EngineOptions) -> Iterator[SparkEngine | None]:
    """Open the engine over a Spark session that ends with the block; None for this process.

    Raises:
        typer.BadParameter: A master is given without Spark.
        SparkError: Spark is not installed or cannot be started.
    """
    if options.engine == "local":
        if options.master is not None:
            raise typer.BadParameter("--master is for Spark only; add --engine spark")
        yield None
        return
    from feature_repo.jobs.spark import SparkEngine, spark_session

    with spark_session(options.master) as session:
        yield SparkEngine(session)


@contextmanager
def embedding_workers(services: Services, options: EngineOptions) -> Iterator[EmbeddingWorkers | None]:
    """Open the workers that embed a release's catalogue outside this process; None for this process.

    Raises:
        StoreStateError: The executors cannot reach the online store.
    """
    from streaming.release.catalogue_shards import EmbeddingWorkers

    with spark_engine(options) as spark:
        if spark is None:
            yield None
            return
        spark.check_store(services.features.feast.config)
        yield EmbeddingWorkers(spark, partial(open_context, services.settings))


def open_context(settings: Settings, version: str) -> EmbeddingContext:
    """Open an executor's store, Triton and Kafka from the same settings."""
    from inference.triton.embedder import ItemEmbedder
    from sagelift.services import Services
    from streaming.release.catalogue_shards import EmbeddingContext

    services = Services(settings)  # open as long as the executor's process
    embedder = ItemEmbedder(services.triton, settings.model_repository, version=version)
    publish, _ = services.publishers()
    return EmbeddingContext(services.features, embedder, publish)
