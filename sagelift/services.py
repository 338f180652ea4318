"""Make clients and stores from the settings: the only place that passes addresses to the packages.

For an empty address, the address of the local stack is read from its state folder. Each part is opened
at its first use, and all are closed together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from sagelift.errors import SageliftError
from sagelift.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from experiments.privacy import Tokens
    from experiments.store import ExperimentStore
    from feature_repo.store import ProductFeatureStore
    from inference.triton.channel import Tls
    from inference.triton.circuit import CircuitBreaker
    from inference.triton.client import TritonClient
    from inference.triton.embedder import ItemEmbedder
    from inference.visual_cache import VisualCache
    from streaming.catalogue.pipeline import CatalogPipeline
    from streaming.dead_letters.writer import FailedRecord
    from streaming.kafka.connection import Connection
    from streaming.kafka.schema_registry.codec import RegistryCodec
    from streaming.vectors.publisher import PublishOffers, PublishVectors

CATALOG_GROUP = "sagelift-catalog"
"""Consumer group of `sagelift stream catalog`."""
EVENTS_GROUP = "sagelift-events"
"""Consumer group of `sagelift stream events`."""


class Services:
    """The clients and stores of one installation, each after those that it needs. A context manager.

    Attributes:
        settings: Settings of the installation.
        breaker: Circuit breaker of the Triton client, for a caller that retries itself. Set it before the
            first use of `triton`.
    """

    def __init__(self, settings: Settings) -> None:
        """Open nothing yet.

        Args:
            settings: Settings of the installation.
        """
        self.settings = settings
        self._open = ExitStack()
        self._embedder: ItemEmbedder | None = None
        self.breaker: CircuitBreaker | None = None

    def __enter__(self) -> Services:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close everything that was opened, in reverse order."""
        self._open.close()

    @cached_property
    def kafka(self) -> Connection:
        """Connection to the settings' Kafka cluster, or to the local stack's broker."""
        from streaming.kafka.codec import JSON
        from streaming.kafka.connection import Connection

        settings = self.settings.kafka
        address = settings.bootstrap_servers or self._local_address("Kafka")
        return Connection(address, settings.client, self.registry_codec or JSON)

    @cached_property
    def registry_codec(self) -> RegistryCodec | None:
        """Codec of the settings' schema registry; None without a registry."""
        settings = self.settings.schema_registry
        if not settings.url:
            return None
        from streaming.kafka.schema_registry.client import SchemaRegistry
        from streaming.kafka.schema_registry.codec import RegistryCodec

        registry = SchemaRegistry(
            settings.url,
            username=settings.username,
            password=settings.password.get_secret_value(),
            ca_file=settings.ca_file,
        )
        return RegistryCodec(self._open.enter_context(registry), settings.format)

    def producer(self) -> Any:
        """A Kafka producer, closed with the services."""
        producer = self.kafka.producer()
        self._open.callback(producer.close, 2)  # the publishers have flushed already
        return producer

    def publishers(self) -> tuple[PublishVectors, PublishOffers]:
        """Publishers of vectors and of offers with the connection's codec, closed with the services."""
        from streaming.vectors.publisher import embedding_publisher, offer_publisher

        producer, codec = self.producer(), self.kafka.codec
        return embedding_publisher(producer, codec), offer_publisher(producer, codec)

    @cached_property
    def triton(self) -> TritonClient:
        """Client of the settings' Triton, or of the local stack's."""
        from inference.triton.channel import open_channel
        from inference.triton.client import TritonClient

        settings = self.settings.triton
        address = settings.url or self._local_address("Triton")
        channel = open_channel(address, self.triton_tls)
        client = TritonClient(address, deadline_s=settings.deadline_s, breaker=self.breaker, channel=channel)
        return self._open.enter_context(client)

    @property
    def triton_tls(self) -> Tls | None:
        """TLS options of the settings' Triton; None without TLS."""
        from inference.triton.channel import Tls

        tls = self.settings.triton
        if not tls.tls:
            return None
        return Tls(tls.tls_ca_file, tls.tls_cert_file, tls.tls_key_file, tls.tls_server_name)

    def prepare_visual_encoder(self) -> None:
        """Make Triton serve this program's visual encoder, and check its answers. Quick if it is served already.

        The local stack loads all models of its repository at its start; another server loads only requested models.

        Raises:
            ArtifactError: The model repository cannot be written.
            ServingError: Triton cannot load the encoder, or answers the probe wrongly: it may use another repository.
        """
        from inference.releases.export import export_visual_encoder
        from inference.releases.repository import VISUAL_ENCODER

        folder = export_visual_encoder(self.settings.model_repository)
        self.triton.load(VISUAL_ENCODER)
        self.triton.probe(folder)

    def open_live_embedder(self) -> ItemEmbedder | None:
        """Return the embedder of the live release, None before the first; create its view in the feature store."""
        from inference.releases.repository import live_version
        from inference.triton.embedder import ItemEmbedder

        if live_version(self.settings.model_repository) is None:
            return None
        if self._embedder is None:
            self._embedder = ItemEmbedder(self.triton, self.settings.model_repository)
        else:
            self._embedder.refresh()
        self.features.ensure_model_version(self._embedder.model_version)
        return self._embedder

    @cached_property
    def features(self) -> ProductFeatureStore:
        """Feature store in the state folder."""
        from feature_repo.store import ProductFeatureStore

        return self._open.enter_context(ProductFeatureStore.open(self.settings.state))

    @cached_property
    def visual_cache(self) -> VisualCache:
        """Cache of image vectors by content hash."""
        from inference.visual import VISUAL_VERSION
        from inference.visual_cache import VisualCache

        cache = VisualCache(self.settings.state / "image_vectors.db", VISUAL_VERSION)
        self._open.callback(cache.close)
        return cache

    @cached_property
    def database(self) -> Engine:
        """Engine of the experiment database.

        Raises:
            SageliftError: The URL is wrong, or its driver is not installed.
        """
        from sqlalchemy import create_engine
        from sqlalchemy.exc import ArgumentError, NoSuchModuleError

        try:
            engine = create_engine(self.settings.database_url)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            raise SageliftError(
                f"the experiment database cannot be used ({type(error).__name__}): set "
                "SAGELIFT_EXPERIMENTS__DATABASE_URL to a SQLAlchemy URL, for PostgreSQL "
                "postgresql+psycopg://user:password@host/name after pip install 'sagelift[postgres]'"
            ) from None
        self._open.callback(engine.dispose)
        return engine

    @cached_property
    def experiments(self) -> ExperimentStore:
        """Experiment store. Its tables are created if they are missing."""
        from experiments.store import ExperimentStore

        self.settings.state.mkdir(parents=True, exist_ok=True)
        store = ExperimentStore(self.database)
        store.create_all()
        return store

    def unit_tokens(self) -> Tokens | None:
        """Unit tokens made from the settings' key; None without a key."""
        from experiments.privacy import SqlNonces, Tokens

        key = self.settings.experiments.token_key.get_secret_value()
        return Tokens(bytes.fromhex(key), SqlNonces(self.experiments.engine)) if key else None

    def create_stores(self) -> None:
        """Create the experiment database and the feature store if they are missing."""
        _ = self.experiments, self.features

    def catalog_pipeline(self, dead_letters: Callable[[Sequence[FailedRecord]], None]) -> CatalogPipeline:
        """Build the pipeline of the catalogue consumer.

        Args:
            dead_letters: Sends dead letters, and returns when the broker has acknowledged them.
        """
        from streaming.catalogue.images.fetch import ImageFetcher
        from streaming.catalogue.images.vectors import CachedImageVectors
        from streaming.catalogue.pipeline import CatalogPipeline

        limits = self.settings.images
        fetcher = self._open.enter_context(
            ImageFetcher(
                max_bytes=limits.max_bytes,
                timeout=limits.timeout_s,
                max_pixels=limits.max_pixels,
                allow_private=limits.allow_private,
                root=self.settings.image_folders,
            )
        )
        images = CachedImageVectors(fetcher.fetch_many, self.triton.encode_images, self.visual_cache)
        vectors, offers = self.publishers()
        return CatalogPipeline(
            self.features, images, self.open_live_embedder, vectors, offers, dead_letters, self.kafka.codec
        )

    def _local_address(self, server: Literal["Kafka", "Triton"]) -> str:
        """Address of a server of the local stack.

        Raises:
            SageliftError: No local stack runs, or the server is still starting.
        """
        from sagelift.stack.status import read_status

        status = read_status(self.settings.state)
        address, variable = {
            "Kafka": (status.kafka_bootstrap, "SAGELIFT_KAFKA__BOOTSTRAP_SERVERS"),
            "Triton": (status.triton_grpc, "SAGELIFT_TRITON__URL"),
        }[server]
        if not status.running:
            raise SageliftError(
                f"no {server} is configured: {variable} is empty, and no local stack runs in {self.settings.state}; "
                "set the variable, or start a local stack with `sagelift up`"
            )
        if not address:
            raise SageliftError(
                f"the local stack in {self.settings.state} is still starting {server}; try again in a few seconds"
            )
        return address
