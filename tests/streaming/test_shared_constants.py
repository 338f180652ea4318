"""The feature store, the model, the contracts and the reports share their constants."""

from analysis import currencies
from feature_repo import rows
from inference import inputs
from streaming import contracts, currency


def test_the_feature_store_and_the_model_have_the_same_text_fields_in_the_same_order() -> None:
    assert rows.TEXT_FIELDS == inputs.TEXT_FIELDS


def test_all_three_packages_allow_the_same_vectors_and_images() -> None:
    assert rows.EMBEDDING_DIM == inputs.VECTOR_DIM == contracts.VECTOR_DIM
    assert rows.MAX_IMAGES == inputs.MAX_IMAGES == contracts.MAX_IMAGES


def test_reports_and_the_catalogue_know_the_same_currencies() -> None:
    assert currencies.DECIMALS == currency.DECIMALS
