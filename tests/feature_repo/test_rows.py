from __future__ import annotations

import subprocess
import sys
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from feature_repo.errors import FeatureRepoError, InvalidFeatureError
from feature_repo.rows import ProductFeatures, check_embeddings, check_features
from tests.feature_repo.builders import make_embedding, make_product

ALL = ("text", "images", "offer")
TEXT = make_product().text
NAN = np.full((2, 256), np.nan, np.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": ""}, "at least one character"),
        ({"id": 7}, "at least one character"),
        ({"id": "\ud800"}, "lone surrogates"),
        ({"version": -1}, "version -1"),
        ({"version": 2**63}, "version"),
        ({"version": True}, "version True"),
        ({"version": 1.0}, "version 1.0"),
        ({"event_time": datetime(2026, 1, 1)}, "time zone"),
        ({"event_time": "2026-01-01"}, "time zone"),
        ({"text": {"title": "only this"}}, r"lacks \['brand'"),
        ({"text": {**TEXT, "titel": "x"}}, r"unknown \['titel'\]"),
        ({"text": {**TEXT, "size": 42}}, "size 42"),
        ({"text": {**TEXT, "title": "\udfff"}}, "lone surrogates"),
        ({"image_urls": "https://shop.example/1.jpg"}, "give a list"),
        ({"image_urls": ["u"] * 21}, "21 image_urls: at most 20"),
        ({"image_hashes": ["h"] * 21, "image_vectors": np.zeros((21, 256), np.float32)}, "at most 20"),
        ({"image_hashes": ["h"]}, "2 image_urls and 1 image_hashes"),
        ({"image_hashes": ["h", ""]}, r"shape \(1, 256\)"),
        ({"image_vectors": np.zeros((2, 255), np.float32)}, r"\(2, 255\)"),
        ({"image_vectors": np.zeros((2, 256), np.float64)}, "float64"),
        ({"image_vectors": [[0.0] * 256] * 2}, "list"),
        ({"image_vectors": NAN}, "NaN or infinity in image_vectors"),
        ({"image_vectors": np.full((2, 256), -np.inf, np.float32)}, "NaN or infinity"),
        ({"visual_version": ""}, "no visual_version"),
        ({"amount_minor": 12.5}, "amount_minor 12.5"),
        ({"currency": 978}, "currency 978"),
    ],
)
def test_bad_features_are_refused_with_product_value_and_rule(changes: dict[str, Any], message: str) -> None:
    good = make_product("good")
    with pytest.raises(InvalidFeatureError, match=message):
        check_features([good, make_product(**changes)], ALL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vector": np.zeros(255, np.float32)}, r"float32 \(255,\).*\(256,\)"),
        ({"vector": np.full(256, np.inf, np.float32)}, "infinity in vector"),
        ({"vector": [0.0] * 256}, "vector list"),
        ({"model_version": "m2"}, "'m2'.*'m1'"),
        ({"content_hash": None}, "content_hash None"),
    ],
)
def test_bad_embeddings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidFeatureError, match=message):
        check_embeddings([make_embedding(**changes)], "m1")


def test_only_named_views_are_checked() -> None:
    check_features([make_product(image_vectors=NAN)], ("text", "offer"))


def test_a_deleted_row_needs_only_its_identity() -> None:
    check_features([ProductFeatures(id="a", version=1, event_time=make_product().event_time, deleted=True)], ALL)


def test_a_product_without_images_and_price_is_good() -> None:
    check_features(
        [make_product(images=0, visual_version="", amount_minor=None, currency=None, availability=None)], ALL
    )


def test_the_types_can_be_imported_without_feast_and_arrow() -> None:
    code = "import sys, feature_repo.rows; print({'feast', 'pyarrow', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


def test_errors_can_be_caught_as_the_builtin_too() -> None:
    assert issubclass(InvalidFeatureError, ValueError)
    assert issubclass(InvalidFeatureError, FeatureRepoError)


def test_importing_the_rows_loads_neither_feast_nor_arrow_nor_pandas() -> None:
    code = "import sys, feature_repo.rows; print(*sorted({'feast', 'pyarrow', 'pandas', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
