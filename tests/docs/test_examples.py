"""Every Python block of the documentation runs, each page from top to bottom in one namespace.

A page names things that a reader already has (a store, a product, a log of lists); `PREPARED` provides them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.docs.pages import DOCS, blocks, pages
from tests.feature_repo.builders import make_embedding, make_product

Names = dict[str, Any]

RUN_ELSEWHERE = {
    "operators/models.md": "tests/sagelift/commands/test_model.py",
    "shops/retrieval.md": "tests/integration/test_retrieval.py",
    "shops/quickstart.md": "tests/docs/test_quickstarts.py",
}
"""Pages whose blocks need a trained model or real servers, and the test that runs them."""


def _pages_with_examples() -> list[str]:
    with_blocks = [str(page.relative_to(DOCS)) for page in pages() if DOCS in page.parents and blocks(page, "python")]
    return [name for name in with_blocks if name not in RUN_ELSEWHERE]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes what a page opens."""
    with ExitStack() as opened:
        yield opened


@pytest.mark.filterwarnings("ignore:fetch_:DeprecationWarning")
@pytest.mark.parametrize("page", _pages_with_examples())
def test_the_examples_of_a_page_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stack: ExitStack, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    names: Names = {"folder": tmp_path}
    if prepare := PREPARED.get(page):
        names |= prepare(tmp_path, request, stack)
    after = names.pop("after_first_block", None)
    for number, block in enumerate(blocks(DOCS / page, "python")):
        exec(compile(block, f"{page}, block {number + 1}", "exec"), names)
        if number == 0 and after is not None:
            names.update(after())


@pytest.mark.parametrize("page", RUN_ELSEWHERE)
def test_a_page_that_is_run_elsewhere_names_a_test_that_reads_it(page: str) -> None:
    source = (DOCS.parent / RUN_ELSEWHERE[page]).read_text("utf-8")
    assert Path(page).name in source


def _experiments(folder: Path, _: pytest.FixtureRequest, stack: ExitStack) -> Names:
    from sqlalchemy import create_engine

    from experiments.config import Arm, ExperimentConfig
    from experiments.store import ExperimentStore

    engine = create_engine(f"sqlite:///{folder / 'experiments.db'}")
    stack.callback(engine.dispose)
    store = ExperimentStore(engine)
    store.create_all()
    arms = (Arm("sum", 5_000), Arm("itemsage", 5_000))
    config = ExperimentConfig(
        key="similar-products", salt="similar-products-1", coverage=10_000, arms=arms, control="sum"
    )
    store.publish(config, actor="anna", reason="the page", create=True)
    store.start("similar-products", actor="anna", reason="the page")
    (published,) = store.load()
    return {
        "store": store,
        "send": lambda row: None,
        "published": published,
        "units": [f"user-{i}" for i in range(100)],
        "ours": ["p1", "p2", "p3"],
        "theirs": ["p3", "p4", "p1"],
        "clicked": ["p1"],
        "lists": [(f"user-{i % 20}", i % 3 == 0, i % 3 == 1) for i in range(60)],
        "key": bytes(range(32)),
        "user_id": "user-42",
    }


def _openfeature(folder: Path, request: pytest.FixtureRequest, stack: ExitStack) -> Names:
    from experiments.assigner import Assigner
    from experiments.exposures import ExposureLogger

    pytest.importorskip("openfeature", reason="openfeature-sdk is not installed")
    names = _experiments(folder, request, stack)
    logger = ExposureLogger(names["send"])
    stack.callback(logger.close)
    assigner = Assigner(names["store"].load, logger)
    assigner.start(timeout_s=5)
    stack.callback(assigner.close)
    return {"assigner": assigner}


def _feed(folder: Path, _: pytest.FixtureRequest, __: ExitStack) -> Names:
    (folder / "feed.tsv").write_text("id\ttitle\tprice\nA1\tA lamp\t-3 EUR\nA2\tA chair\t3 EUR\n")
    return {}


def _features(folder: Path, _: pytest.FixtureRequest, stack: ExitStack) -> Names:
    from feature_repo.rows import Deletion
    from feature_repo.store import ProductFeatureStore

    now = datetime.now(UTC)
    with ProductFeatureStore.open(folder / ".sagelift") as store:
        store.write_features([make_product("sku-1", 7), make_product("sku-2", 1)])
    exposed = now + timedelta(hours=1)
    pd.DataFrame({"unit_id": ["u1", "u2"], "first_exposure": exposed, "variant": ["control", "treatment"]}).to_parquet(
        folder / "units.parquet"
    )
    labels = pd.DataFrame({"product_id": ["sku-2"], "event_timestamp": [pd.Timestamp(now)]})

    def reopened() -> Names:
        return {"store": stack.enter_context(ProductFeatureStore.open(folder / ".sagelift"))}

    return {
        "product": make_product("sku-1", 7),
        "Deletion": Deletion,
        "now": now,
        "embeddings": [make_embedding("sku-2", 1, "itemsage-3")],
        "shop": SimpleNamespace(for_user=lambda histories: histories),
        "labels": labels,
        "vector": np.ones(256, np.float32).tolist(),
        "after_first_block": reopened,
    }


def _jobs(folder: Path, request: pytest.FixtureRequest, stack: ExitStack) -> Names:
    """Stands in for Airflow, which is no dependency: an operator keeps what it was given.

    A process can have one Spark session, so the example uses the one that all tests share.
    """
    from feature_repo.store import ProductFeatureStore

    monkeypatch, session = request.getfixturevalue("monkeypatch"), request.getfixturevalue("spark")
    monkeypatch.setattr("feature_repo.jobs.spark.spark_session", lambda _: nullcontext(session))

    class Operator(SimpleNamespace):
        def __rshift__(self, other: Any) -> Any:
            return other

    class Dag(SimpleNamespace):
        def __init__(self, dag_id: str, **rest: Any) -> None:
            super().__init__(dag_id=dag_id, **rest)

        def __enter__(self) -> Dag:
            return self

        def __exit__(self, *_: object) -> None: ...

    for name, content in {
        "pendulum": {"datetime": datetime},
        "airflow": {},
        "airflow.sdk": {"DAG": Dag},
        "airflow.providers": {},
        "airflow.providers.standard": {},
        "airflow.providers.standard.operators": {},
        "airflow.providers.standard.operators.bash": {"BashOperator": Operator},
    }.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    store = stack.enter_context(ProductFeatureStore.open(folder / ".sagelift"))
    store.write_features([make_product("sku-1", 7)])
    return {"store": store}


PREPARED: dict[str, Callable[[Path, pytest.FixtureRequest, ExitStack], Names]] = {
    "analysts/experiments.md": _experiments,
    "shops/experiments-api.md": _openfeature,
    "operators/feeds.md": _feed,
    "jobs/features.md": _features,
    "jobs/materialisation.md": _jobs,
}
