from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from feast import FeatureService, FeatureView, Project

from feature_repo import definitions, views
from feature_repo.errors import InvalidFeatureError
from feature_repo.online import payload_columns
from feature_repo.rows import TEXT_FIELDS

HOME = Path("/somewhere/feast")


def test_every_view_is_served_online_guarded_described_and_owned() -> None:
    objects = definitions.feast_objects(HOME, ("m1", "m2"))
    names = []
    for view in objects:
        if isinstance(view, FeatureView):
            names.append(view.name)
            assert view.online
            assert view.ttl == timedelta(0)
            assert {"version", "deleted"} <= {feature.name for feature in view.features}
            assert view.description
            assert view.owner
            assert view.batch_source.path == f"/somewhere/feast/history/{view.name}/*.parquet"
    assert names == [
        "product_text", "product_images", "product_offer", "product_embedding_m1", "product_embedding_m2",
    ]  # fmt: skip


def test_text_view_holds_the_twelve_fields_of_itemsage() -> None:
    text, _, _ = definitions.product_views(HOME)
    assert payload_columns(text) == TEXT_FIELDS
    assert len(TEXT_FIELDS) == 12


def test_formats_name_the_features_of_the_views_in_their_order() -> None:
    for view in definitions.product_views(HOME):
        assert payload_columns(view) == tuple(views.PRODUCT_FORMATS[view.name].types)
    assert payload_columns(definitions.embedding_view(HOME, "m1")) == tuple(views.EMBEDDING_FORMAT.types)


def test_embedding_vector_is_indexed_with_its_length_and_metric() -> None:
    vector = definitions.embedding_view(HOME, "m1").features[0]
    assert (vector.name, vector.vector_index, vector.vector_length) == ("vector", True, 256)
    assert vector.vector_search_metric == "cosine"


def test_no_service_names_a_feature_twice() -> None:
    services = [o for o in definitions.feast_objects(HOME, ("m1",)) if isinstance(o, FeatureService)]
    assert {service.name for service in services} == {"itemsage_inputs_v1", "retrieval_m1"}
    for service in services:
        names = [f.name for projection in service.feature_view_projections for f in projection.features]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ["", "V1", "a b", "-a", "a/b", "a@v2", "a:b", "x" * 65, "ü"])
def test_model_versions_that_cannot_name_a_view_are_refused(name: str) -> None:
    with pytest.raises(InvalidFeatureError, match="cannot name a feature view"):
        definitions.embedding_view_name(name)


def test_fingerprint_is_the_same_in_another_process_and_tells_homes_apart() -> None:
    code = "from pathlib import Path; from feature_repo.definitions import fingerprint; print(fingerprint(Path('/a')))"
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert other.stdout.strip() == definitions.fingerprint(Path("/a"))
    assert definitions.fingerprint(Path("/a")) != definitions.fingerprint(Path("/b"))


def test_project_carries_the_fingerprint() -> None:
    (project,) = (o for o in definitions.feast_objects(HOME, ()) if isinstance(o, Project))
    assert project.tags == {"definitions": definitions.fingerprint(HOME)}
