"""The function of the on-demand view: each derived feature follows from one stored feature."""

from __future__ import annotations

import inspect
import math

from feature_repo.derived import derive_offer


def test_a_product_is_in_stock_only_when_its_availability_says_so() -> None:
    derived = derive_offer(
        {"availability": ["in_stock", "out_of_stock", "preorder", None], "amount_minor": [], "hashes": []}
    )
    assert derived["in_stock"] == [True, False, False, None]


def test_the_amount_is_the_logarithm_of_one_plus_the_price() -> None:
    derived = derive_offer({"availability": [], "amount_minor": [0, 1999, -1, None], "hashes": []})
    assert derived["log_amount"] == [0.0, math.log(2000), None, None]


def test_images_count_only_when_they_were_fetched() -> None:
    derived = derive_offer({"availability": [], "amount_minor": [], "hashes": [["a", "", "b"], [], None]})
    assert derived["image_count"] == [2, 0, None]


def test_the_source_of_the_function_runs_without_this_package() -> None:
    """Feast stores the source in its registry and runs it in another process."""
    source = inspect.getsource(derive_offer)
    names: dict[str, object] = {}
    exec("from __future__ import annotations\n" + source, names)
    inputs = {"availability": ["in_stock"], "amount_minor": [0], "hashes": [["a"]]}
    derived = names["derive_offer"](inputs)  # type: ignore[operator]
    assert derived == {"in_stock": [True], "log_amount": [0.0], "image_count": [1]}
