"""Reading all features and the embedding of 512 products by id, against Feast's `get_online_features().to_dict()`.

Measures products per second; the goal is at least 2.5 times Feast's rate. Both read the same rows of the same SQLite
store. Our store returns products with numpy vectors, Feast a dict of lists.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.featurewrite import MODEL, make_products
from benchmarks.harness import Row, Say, compared, in_turn

PRODUCTS = 4096
ASKED = 512
RUNS = 7


def rows(say: Say) -> list[Row]:
    """Measure `read_512`."""
    import numpy as np

    from feature_repo.store import ProductFeatureStore
    from feature_repo.views import PRODUCT_FORMATS

    with tempfile.TemporaryDirectory() as folder, ProductFeatureStore.open(Path(folder)) as store:
        say(f"writing {PRODUCTS:,} products")
        store.ensure_model_version(MODEL)
        products, embeddings = make_products(PRODUCTS)
        store.write_features(products)
        store.write_embeddings(MODEL, embeddings)
        ids = [products[i].id for i in np.random.default_rng(2).permutation(PRODUCTS)[:ASKED]]
        names = [f"{view}:{name}" for view, form in PRODUCT_FORMATS.items() for name in form.types]
        names.append(f"product_embedding_{MODEL}:vector")
        entity_rows = [{"product_id": id} for id in ids]

        def ours() -> None:
            products_read, vectors = store.read_features(ids), store.read_embeddings(MODEL, ids)
            assert len(products_read) == len(vectors) == ASKED

        def feast() -> None:
            answer = store.feast.get_online_features(features=names, entity_rows=entity_rows).to_dict()
            assert len(answer["vector"]) == ASKED

        say(f"reading {ASKED}")
        seconds = in_turn({"ours": ours, "feast": feast}, runs=RUNS)
    return [
        compared(
            "read_512",
            "products/s",
            [ASKED / s for s in seconds["ours"]],
            "feast_to_dict",
            [ASKED / s for s in seconds["feast"]],
            at_least=2.5,
        )
    ]
