"""Feast's definitions: product and user, their feature views, and the feature services that consumers ask for.

Every view has the features `version` and `deleted`: the guarded online store orders writes by the first and hides rows
by the second. Views are plain `FeatureView`s with an explicit `online=True` (a `BatchFeatureView` is offline by
default, and then nothing is ever materialized, silently) and without a TTL (Feast would not apply it online).

Sources are folders of append-only Parquet parts, `<home>/history/<view>/*.parquet`, with absolute paths, because
Feast's DuckDB store resolves relative ones against the working directory.

Raise `DEFINITIONS_VERSION` with every change of a definition: a program applies its definitions over older ones and
never over newer ones, so that programs of two versions can run side by side during a rollout (`docs/jobs/features.md`).
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import FunctionType
from typing import Final, cast

import feast
from feast import Entity, FeatureService, FeatureView, Field, FileSource, OnDemandFeatureView, Project, ValueType
from feast.types import Array, Bool, Float32, Float64, Int64, String

from feature_repo.derived import derive_offer
from feature_repo.errors import InvalidFeatureError
from feature_repo.recent import MAX_RECENT
from feature_repo.rows import EMBEDDING_DIM, MAX_IMAGES, TEXT_FIELDS

DEFINITIONS_VERSION: Final = 1

PROJECT: Final = "sagelift"
OWNER: Final = "catalogue"
USER_OWNER: Final = "recommendations"
JOIN_KEY: Final = "product_id"
USER_KEY: Final = "user_id"
FOLLOWS: Final = "follows"
"""Tag of a view whose rows follow the row of the same product in the view that the tag names."""
EVENT_TIME: Final = "event_timestamp"
CREATED_TIME: Final = "created_timestamp"
VERSION: Final = "version"
DELETED: Final = "deleted"

TEXT_VIEW: Final = "product_text"
IMAGES_VIEW: Final = "product_images"
OFFER_VIEW: Final = "product_offer"
PRODUCT_VIEWS: Final = (TEXT_VIEW, IMAGES_VIEW, OFFER_VIEW)
USER_VIEW: Final = "user_recent"
FIXED_VIEWS: Final = (*PRODUCT_VIEWS, USER_VIEW)  # the views that do not depend on a model version
DERIVED_VIEW: Final = "product_derived"
EMBEDDING_PREFIX: Final = "product_embedding_"

FeastObject = Project | Entity | FeatureView | OnDemandFeatureView | FeatureService

# Lower case only: the names become tables and folders, and some databases and file systems ignore case.
_MODEL_VERSION = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")

product = Entity(
    name="product",
    join_keys=[JOIN_KEY],
    value_type=ValueType.STRING,
    description="A product of the catalogue, by the id that the shop gave it.",
    owner=OWNER,
    tags={"from": "catalog.updates"},
)
user = Entity(
    name="user",
    join_keys=[USER_KEY],
    value_type=ValueType.STRING,
    description="A shopper, by the unit id that the shop's events carry.",
    owner=USER_OWNER,
    tags={"from": "events", "personal": "yes"},
)

_VERSION_FIELDS = [
    Field(name=VERSION, dtype=Int64, description="Version of the last change; the newest wins."),
    Field(name=DELETED, dtype=Bool, description="True for a tombstone: deleted at this version."),
]


def embedding_view_name(model_version: str) -> str:
    """Return the name of the view that holds one model version's embeddings.

    Raises:
        InvalidFeatureError: The model version cannot be part of the name of a view, a table and a folder.
    """
    if not _MODEL_VERSION.fullmatch(model_version):
        raise InvalidFeatureError(
            f"Model version {model_version!r} cannot name a feature view: use 1 to 64 lower-case letters, digits, "
            "'_', '.' and '-', the first a letter or a digit."
        )
    return EMBEDDING_PREFIX + model_version


def product_views(home: Path) -> list[FeatureView]:
    """Return the views of the catalogue: text, images, offer.

    Args:
        home: The absolute folder of the store.
    """
    return [
        view(
            home,
            TEXT_VIEW,
            "Text attributes of a product; '' where the catalogue says nothing.",
            [Field(name=name, dtype=String) for name in TEXT_FIELDS],
            follows=OFFER_VIEW,
        ),
        view(
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
            follows=OFFER_VIEW,
        ),
        view(
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
    """Return the view of one model version's embeddings: every model has its own view, so that no index mixes two."""
    return view(
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


def user_view(home: Path) -> FeatureView:
    """Return the view of the products that a shopper engaged with lately, from the shop's events."""
    return view(
        home,
        USER_VIEW,
        f"The last {MAX_RECENT} products that a shopper clicked, saved, carted or ordered, the most recent last.",
        [
            Field(name="product_ids", dtype=Array(String), description="Each product once, at its last time."),
            Field(name="event_times", dtype=Array(Int64), description="Microseconds since 1970, UTC, one for each."),
        ],
        entity=user,
        personal="yes",
    )


def view_named(home: Path, name: str) -> FeatureView:
    """Return the view of a name, as this program defines it; a name beside the fixed ones is of a model version."""
    for defined in (*product_views(home), user_view(home)):
        if defined.name == name:
            return defined
    return embedding_view(home, name.removeprefix(EMBEDDING_PREFIX))


def join_key_of(name: str) -> str:
    """Return the column of the entity key in a view's history."""
    return USER_KEY if name == USER_VIEW else JOIN_KEY


def derived_view(images: FeatureView, offer: FeatureView) -> OnDemandFeatureView:
    """Return the on-demand view: what rankers derive from the views of the catalogue."""
    return OnDemandFeatureView(
        name=DERIVED_VIEW,
        sources=[images[["hashes"]], offer[["amount_minor", "availability"]]],
        schema=[  # without descriptions: Feast 0.67 does not find a field again that has one
            Field(name="in_stock", dtype=Bool),
            Field(name="log_amount", dtype=Float64),
            Field(name="image_count", dtype=Int64),
        ],
        udf=cast(FunctionType, derive_offer),
        udf_string=inspect.getsource(derive_offer),
        mode="python",
        description=(
            "Computed on request: in_stock; log_amount, ln(1 + price in minor units), to compare within one currency; "
            "image_count, the number of images that could be read."
        ),
        owner=OWNER,
        tags={"consumer": "ranking"},
    )


def fixed_services(views: list[FeatureView], recent: FeatureView, derived: OnDemandFeatureView) -> list[FeatureService]:
    """Return the services that do not depend on a model version; `views` are those of `product_views`."""
    text, images, offer = views
    return [
        FeatureService(
            name="itemsage_inputs_v1",
            features=[text, images[_payload(images)]],
            description="All that ItemSage reads of a product.",
            owner=OWNER,
            tags={"consumer": "inference"},
        ),
        FeatureService(
            name="ranking_v1",
            features=[
                text[["title", "brand", "google_product_category", "product_type"]],
                offer[_payload(offer)],
                derived,
                recent[_payload(recent)],
            ],
            description="What a ranker reads of a candidate and of the shopper: ask with both ids.",
            owner=USER_OWNER,
            tags={"consumer": "ranking"},
        ),
    ]


def retrieval_service(offer: FeatureView, embedding: FeatureView) -> FeatureService:
    """Return the service of retrieval by one model version: vector, price and availability."""
    model_version = embedding.name.removeprefix(EMBEDDING_PREFIX)
    return FeatureService(
        name=f"retrieval_{model_version}",
        features=[embedding, offer[_payload(offer)]],
        description=f"Candidates by embeddings of model version {model_version}, with price and availability.",
        owner=OWNER,
        tags={"consumer": "retrieval", "model_version": model_version},
    )


def feast_objects(home: Path, model_versions: Sequence[str]) -> list[FeastObject]:
    """Return all that `feast apply` registers for a store in the absolute folder `home` with these model versions."""
    views, recent = product_views(home), user_view(home)
    derived = derived_view(*views[1:])
    objects: list[FeastObject] = [
        Project(
            name=PROJECT,
            description="Product features and embeddings that follow the catalogue; what shoppers engaged with lately.",
            owner=OWNER,
            tags=project_tags(home),
        ),
        product,
        user,
        *views,
        recent,
        derived,
        *fixed_services(views, recent, derived),
    ]
    for model_version in model_versions:
        embedding = embedding_view(home, model_version)
        objects += [embedding, retrieval_service(views[2], embedding)]
    return objects


def project_tags(home: Path) -> dict[str, str]:
    """Return the project's tags; they tell another program whether it may use the registry or must apply its own."""
    return {
        "definitions": fingerprint(home),
        "definitions_version": str(DEFINITIONS_VERSION),
        "feast_version": feast.__version__,
    }


def fingerprint(home: Path) -> str:
    """Return a hash of the definitions, a tag of the project: equal hashes mean equal definitions."""
    views, recent, embedding = product_views(home), user_view(home), embedding_view(home, "any")
    derived = derived_view(*views[1:])
    digest = hashlib.sha256()
    for entity in (product, user):
        digest.update(entity.to_proto().spec.SerializeToString(deterministic=True))
    for each in (*views, recent, embedding):
        spec = each.to_proto().spec
        spec.batch_source.ClearField("meta")  # holds the time of this call
        digest.update(spec.SerializeToString(deterministic=True))
    digest.update(inspect.getsource(derive_offer).encode())  # its pickle differs between processes
    digest.update("".join(map(str, derived.features)).encode())
    for service in (*fixed_services(views, recent, derived), retrieval_service(views[2], embedding)):
        spec = service.to_proto().spec
        for projection in spec.features:
            projection.batch_source.ClearField("meta")
        digest.update(spec.SerializeToString(deterministic=True))
    return digest.hexdigest()[:16]


def history_folder(home: Path, view_name: str) -> Path:
    """Return the folder of a view's history."""
    return home / "history" / view_name


def model_versions_in_history(home: Path) -> tuple[str, ...]:
    """Return the sorted model versions that have a history below `home`: `feast apply` must not drop their views."""
    names = (path.name for path in (home / "history").glob(f"{EMBEDDING_PREFIX}*") if path.is_dir())
    return tuple(sorted(name.removeprefix(EMBEDDING_PREFIX) for name in names))


def _payload(of: FeatureView) -> list[str]:
    """Return the features without `version` and `deleted`: names must not repeat within a service."""
    return [feature.name for feature in of.features if feature.name not in (VERSION, DELETED)]


def view(
    home: Path, name: str, description: str, features: list[Field], *, entity: Entity = product, **tags: str
) -> FeatureView:
    """Return a view over its history.

    Args:
        home: The absolute folder of the store.
        name: The name of the view.
        description: A sentence for people.
        features: The features without `version` and `deleted`.
        entity: Whose features they are.
        **tags: More tags of the view.
    """
    folder = history_folder(home, name)
    return FeatureView(
        name=name,
        entities=[entity],
        ttl=timedelta(0),
        online=True,
        schema=[Field(name=entity.join_key, dtype=String), *features, *_VERSION_FIELDS],
        source=FileSource(
            name=f"{name}_history",
            path=str(folder / "*.parquet"),
            timestamp_field=EVENT_TIME,
            created_timestamp_column=CREATED_TIME,
            description=f"Append-only Parquet parts of {name}.",
            owner=entity.owner,
        ),
        description=description,
        owner=entity.owner,
        tags={"order": VERSION, **tags},
    )
