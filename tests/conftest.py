"""Fixtures and hooks for the tests of several packages."""

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep captured output printable: a worker of pytest-xdist cannot send a lone surrogate to the main process."""
    report = yield
    report.sections = [
        (title, text.encode("utf-8", "backslashreplace").decode("utf-8")) for title, text in report.sections
    ]
    return report


# Modules outside of tests/integration that start other processes, train models, or simulate for seconds.
LONG_MODULES = (
    "benchmarks/evidence/tests/test_training.py",
    "tests/analysis/sources/test_collection.py",
    "tests/analysis/sources/test_spark_frame.py",
    "tests/analysis/test_adjustment.py",
    "tests/analysis/test_interleaving.py",
    "tests/analysis/test_miss_rates.py",
    "tests/analysis/test_resampling.py",
    "tests/docs/test_examples.py",
    "tests/experiments/rest/test_schema.py",
    "tests/experiments/test_conformance.py",
    "tests/experiments/test_hash_quality.py",
    "tests/feature_repo/jobs/test_materialize.py",
    "tests/feature_repo/jobs/test_spark.py",
    "tests/feature_repo/test_definitions.py",
    "tests/feature_repo/test_rolling.py",
    "tests/inference/releases/test_onnx_export.py",
    "tests/inference/training/test_config.py",
    "tests/inference/training/test_itemsage_loss.py",
    "tests/inference/training/test_run.py",
    "tests/sagelift/commands/experiment/test_schedule.py",
    "tests/sagelift/commands/test_cli.py",
    "tests/sagelift/commands/test_model.py",
    "tests/sagelift/commands/test_report.py",
    "tests/sagelift/stack/test_process.py",
    "tests/sagelift/test_experiment_server.py",
    "tests/streaming/catalogue/test_pipeline_histories.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what the inner loop (`-m "not integration"`) leaves out."""
    root = Path(__file__).parents[1]
    for item in items:
        module = str(item.path.relative_to(root))
        if module.startswith("tests/integration/") or module in LONG_MODULES:
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def cache() -> Path:
    """The cache folder with the downloaded servers."""
    from sagelift.stack.components import fetch_all

    folder = Path(os.environ.get("SAGELIFT_CACHE_DIR", "~/.cache/sagelift")).expanduser()
    fetch_all(folder, print)
    return folder


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The one Spark session of all tests: a process can have no more."""
    pytest.importorskip("pyspark.sql", reason="pyspark is not installed")
    from feature_repo.jobs.spark import spark_session

    home = tmp_path_factory.mktemp("spark")
    settings = {
        "spark.driver.memory": "512m",
        "spark.local.dir": str(home),
        "spark.sql.warehouse.dir": str(home / "warehouse"),
        "spark.sql.session.timeZone": "Asia/Tokyo",  # results must not depend on it
        # Small queries: what makes large ones fast costs these more.
        "spark.sql.shuffle.partitions": "1",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.adaptive.enabled": "false",
    }
    with spark_session("local[2]", settings) as session:
        yield session
