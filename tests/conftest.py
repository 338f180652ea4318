"""Fixtures and hooks for the tests of several packages."""

from collections.abc import Generator, Iterator
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
