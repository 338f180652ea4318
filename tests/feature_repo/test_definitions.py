from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import feast
import pytest
from feast import Entity, FeatureService, FeatureView, OnDemandFeatureView, Project

from feature_repo import definitions, views
from feature_repo.derived import derive_offer
from feature_repo.errors import InvalidFeatureError
from feature_repo.online_row import payload_columns
from feature_repo.rows import TEXT_FIELDS

HOME = Path("/somewhere/feast")


def test_every_view_is_served_online_guarded_described_and_owned() -> None:
    names = []
    for view in definitions.feast_objects(HOME, ("m1", "m2")):
        if isinstance(view, FeatureView):
            names.append(view.name)
            assert view.online
            assert view.ttl == timedelta(0)
            assert {"version", "deleted"} <= {feature.name for feature in view.features}
            assert view.batch_source.path == f"/somewhere/feast/history/{view.name}/*.parquet"
    assert names == [
        "product_text", "product_images", "product_offer", "user_recent",
        "product_embedding_m1", "product_embedding_m2",
    ]  # fmt: skip


def test_everything_has_a_description_an_owner_and_tags() -> None:
    objects = definitions.feast_objects(HOME, ("m1",))
    assert {type(o) for o in objects} == {Project, Entity, FeatureView, OnDemandFeatureView, FeatureService}
    for each in objects:
        assert each.description, each.name
        assert each.owner, each.name
        assert each.tags, each.name


def test_a_view_is_found_by_its_name_with_its_key() -> None:
    for name, key in (
        ("product_offer", "product_id"),
        ("user_recent", "user_id"),
        ("product_embedding_m1", "product_id"),
    ):
        view = definitions.view_named(HOME, name)
        assert (view.name, view.join_keys) == (name, [key])
        assert definitions.join_key_of(name) == key


def test_text_view_holds_the_twelve_fields_of_itemsage() -> None:
    text, _, _ = definitions.product_views(HOME)
    assert payload_columns(text) == TEXT_FIELDS
    assert len(TEXT_FIELDS) == 12


def test_formats_name_the_features_of_the_views_in_their_order() -> None:
    for name in (*definitions.FIXED_VIEWS, "product_embedding_m1"):
        form, view = views.format_of(name), definitions.view_named(HOME, name)
        assert payload_columns(view) == tuple(form.types)
        assert view.join_keys == [form.key]


def test_embedding_vector_is_indexed_with_its_length_and_metric() -> None:
    vector = definitions.embedding_view(HOME, "m1").features[0]
    assert (vector.name, vector.vector_index, vector.vector_length) == ("vector", True, 256)
    assert vector.vector_search_metric == "cosine"


def test_no_service_names_a_feature_twice() -> None:
    services = [o for o in definitions.feast_objects(HOME, ("m1",)) if isinstance(o, FeatureService)]
    assert {service.name for service in services} == {"itemsage_inputs_v1", "ranking_v1", "retrieval_m1"}
    for service in services:
        names = [f.name for projection in service.feature_view_projections for f in projection.features]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ["", "V1", "a b", "-a", "a/b", "a@v2", "a:b", "x" * 65, "ü"])
def test_model_versions_that_cannot_name_a_view_are_refused(name: str) -> None:
    with pytest.raises(InvalidFeatureError, match="cannot name a feature view"):
        definitions.embedding_view_name(name)


def test_the_fingerprint_depends_on_the_home_and_not_on_the_process() -> None:
    code = "from pathlib import Path; from feature_repo.definitions import fingerprint; print(fingerprint(Path('/a')))"
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert other.stdout.strip() == definitions.fingerprint(Path("/a"))
    assert definitions.fingerprint(Path("/a")) != definitions.fingerprint(Path("/b"))


def test_the_project_records_who_applied_it() -> None:
    (project,) = (o for o in definitions.feast_objects(HOME, ()) if isinstance(o, Project))
    assert project.tags == {
        "definitions": definitions.fingerprint(HOME),
        "definitions_version": str(definitions.DEFINITIONS_VERSION),
        "feast_version": feast.__version__,
    }


def test_whoever_changes_a_definition_raises_the_version() -> None:
    """Programs of two versions may run side by side, and the older must know that it is: raise `DEFINITIONS_VERSION`
    and put the new fingerprint here. (Another Feast may change it, too.)
    """
    assert (definitions.DEFINITIONS_VERSION, definitions.fingerprint(HOME)) == (1, "8f15a57f4c2aaec0")


@pytest.mark.parametrize(
    ("availability", "amount", "hashes", "derived"),
    [
        ("in_stock", 0, ["x", "", "y"], (True, 0.0, 2)),
        ("out_of_stock", 99, [], (False, pytest.approx(4.60517), 0)),
        (None, None, None, (None, None, None)),
        ("preorder", -1, ["x"], (False, None, 1)),
    ],
)
def test_derived_features(availability: Any, amount: Any, hashes: Any, derived: tuple[Any, ...]) -> None:
    result = derive_offer({"availability": [availability], "amount_minor": [amount], "hashes": [hashes]})
    assert (result["in_stock"], result["log_amount"], result["image_count"]) == tuple([value] for value in derived)
