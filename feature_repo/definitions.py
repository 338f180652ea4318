"""What Feast knows: the product, its feature views, and the feature services that consumers ask for.

Every view carries `version` and `deleted`: the guarded online store orders writes by the one and hides rows by the
other. Views are plain `FeatureView`s with `online=True` said aloud (a `BatchFeatureView` is offline by default and
then nothing is ever materialised, silently) and without a TTL (Feast would not apply it online).

Sources are folders of append-only Parquet parts, `<home>/history/<view>/*.parquet`, with absolute paths, because
Feast's DuckDB store resolves relative ones against the working directory.
"""

from __future__ import annotations

import hashlib
import re
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from feast import Entity, FeatureService, FeatureView, Field, FileSource, Project, ValueType
from feast.types import Array, Bool, Float32, Int64, String

from feature_repo.errors import InvalidFeatureError
from feature_repo.rows import EMBEDDING_DIM, MAX_IMAGES, TEXT_FIELDS

PROJECT: Final = "sagelift"
OWNER: Final = "catalogue"
JOIN_KEY: Final = "product_id"
EVENT_TIME: Final = "event_timestamp"
CREATED_TIME: Final = "created_timestamp"
VERSION: Final = "version"
DELETED: Final = "deleted"

TEXT_VIEW: Final = "product_text"
IMAGES_VIEW: Final = "product_images"
OFFER_VIEW: Final = "product_offer"
PRODUCT_VIEWS: Final = (TEXT_VIEW, IMAGES_VIEW, OFFER_VIEW)
EMBEDDING_PREFIX: Final = "product_embedding_"

# Lower case only: the names become SQLite tables and folders, and both may fold case.
_MODEL_VERSION = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")

product = Entity(
    name="product",
    join_keys=[JOIN_KEY],
    value_type=ValueType.STRING,
    description="A product of the catalogue, by the id that the shop gave it.",
    owner=OWNER,
)

_GUARD = [
    Field(name=VERSION, dtype=Int64, description="Version of the product's last change; the newest wins."),
    Field(name=DELETED, dtype=Bool, description="True for a tombstone: deleted at this version."),
]


def embedding_view_name(model_version: str) -> str:
    """Name of the view that holds one model version's embeddings.

    Raises:
        InvalidFeatureError: the model version cannot be part of a view's, a table's and a folder's name.
    """
    if not _MODEL_VERSION.fullmatch(model_version):
        raise InvalidFeatureError(
            f"Model version {model_version!r} cannot name a feature view: use 1 to 64 lower-case letters, digits, "
            "'_', '.' and '-', the first a letter or a digit."
        )
    return EMBEDDING_PREFIX + model_version


def product_views(home: Path) -> list[FeatureView]:
    """The views of what the catalogue says: text, images, offer. `home` is the absolute folder of the store."""
    return [
        _view(
            home,
            TEXT_VIEW,
            "Text attributes of a product; '' where the catalogue says nothing.",
            [Field(name=name, dtype=String) for name in TEXT_FIELDS],
        ),
        _view(
            home,
            IMAGES_VIEW,
            f"Up to {MAX_IMAGES} images of a product: addresses, content hashes and {EMBEDDING_DIM}-d visual vectors.",
            [
                Field(name="urls", dtype=Array(String), description="In the catalogue's order."),
                Field(
                    name="hashes",
                    dtype=Array(String),
                    description="Content hash of each image, '' where it could not be read.",
                ),
                Field(
                    name="vectors",
                    dtype=Array(Array(Float32)),
                    description="One visual vector for each image that could be read.",
                ),
                Field(name="visual_version", dtype=String, description="Version of the visual encoder."),
            ],
        ),
        _view(
            home,
            OFFER_VIEW,
            "Price and availability of a product.",
            [
                Field(name="amount_minor", dtype=Int64, description="Price in the currency's minor unit."),
                Field(name="currency", dtype=String, description="ISO 4217 code."),
                Field(name="availability", dtype=String, description="As Google Merchant Center names it."),
            ],
        ),
    ]


def embedding_view(home: Path, model_version: str) -> FeatureView:
    """The view of one model version's embeddings: a new model is a new view, so two never meet in one index."""
    return _view(
        home,
        embedding_view_name(model_version),
        f"Product embeddings by model version {model_version}, unit length.",
        [
            Field(
                name="vector",
                dtype=Array(Float32),
                vector_index=True,
                vector_length=EMBEDDING_DIM,
                vector_search_metric="cosine",
            ),
            Field(name="content_hash", dtype=String, description="Hash of the model's inputs."),
            Field(name="model_version", dtype=String),
        ],
        model_version=model_version,
    )


def product_services(views: list[FeatureView]) -> list[FeatureService]:
    """The services over the product views alone; `views` as `product_views` returns them."""
    text, images, _ = views
    return [
        FeatureService(
            name="itemsage_inputs_v1",
            features=[text, images[_payload(images)]],
            description="All that ItemSage reads of a product.",
            owner=OWNER,
            tags={"consumer": "inference"},
        )
    ]


def retrieval_service(offer: FeatureView, embedding: FeatureView) -> FeatureService:
    """What retrieval needs of one model version: the vector, and whether the product can be bought."""
    model_version = embedding.name.removeprefix(EMBEDDING_PREFIX)
    return FeatureService(
        name=f"retrieval_{model_version}",
        features=[embedding, offer[_payload(offer)]],
        description=f"Candidates by embeddings of model version {model_version}, with price and availability.",
        owner=OWNER,
        tags={"consumer": "retrieval", "model_version": model_version},
    )


def feast_objects(home: Path, model_versions: tuple[str, ...]) -> list[Any]:
    """Everything `feast apply` registers, for a store in the absolute folder `home` with these model versions."""
    views = product_views(home)
    objects = [
        Project(
            name=PROJECT,
            description="Product features and embeddings that follow the catalogue.",
            owner=OWNER,
            tags={"definitions": fingerprint(home)},
        ),
        product,
        *views,
        *product_services(views),
    ]
    for model_version in model_versions:
        embedding = embedding_view(home, model_version)
        objects += [embedding, retrieval_service(views[2], embedding)]
    return objects


def fingerprint(home: Path) -> str:
    """Hash of the definitions, kept as a tag of the project: says whether the registry holds these very ones."""
    views = [*product_views(home), embedding_view(home, "any")]
    services = [*product_services(views[:3]), retrieval_service(views[2], views[3])]
    digest = hashlib.sha256(product.to_proto().spec.SerializeToString(deterministic=True))
    for view in views:
        spec = view.to_proto().spec
        spec.batch_source.ClearField("meta")  # holds the time of this call
        digest.update(spec.SerializeToString(deterministic=True))
    for service in services:
        spec = service.to_proto().spec
        for projection in spec.features:
            projection.batch_source.ClearField("meta")
        digest.update(spec.SerializeToString(deterministic=True))
    return digest.hexdigest()[:16]


def history_folder(home: Path, view_name: str) -> Path:
    return home / "history" / view_name


def model_versions_in_history(home: Path) -> tuple[str, ...]:
    """Model versions that have a history below `home`, sorted: what `feast apply` must not forget."""
    found = (path.name for path in (home / "history").glob(f"{EMBEDDING_PREFIX}*") if path.is_dir())
    return tuple(sorted(name.removeprefix(EMBEDDING_PREFIX) for name in found))


def _payload(view: FeatureView) -> list[str]:
    """All features but the guard's: of the views of a service only one may give those, as names must not repeat."""
    return [feature.name for feature in view.features if feature.name not in (VERSION, DELETED)]


def _view(home: Path, name: str, description: str, features: list[Field], **tags: str) -> FeatureView:
    folder = history_folder(home, name)
    return FeatureView(
        name=name,
        entities=[product],
        ttl=timedelta(0),
        online=True,
        schema=[Field(name=JOIN_KEY, dtype=String), *features, *_GUARD],
        source=FileSource(
            name=f"{name}_history",
            path=str(folder / "*.parquet"),
            timestamp_field=EVENT_TIME,
            created_timestamp_column=CREATED_TIME,
            description=f"Append-only Parquet parts of {name}.",
            owner=OWNER,
        ),
        description=description,
        owner=OWNER,
        tags={"order": VERSION, **tags},
    )
