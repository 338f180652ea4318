"""Write `kafka-jars.lock`: every jar of Apache Kafka with its sha256.

    python -m sagelift.stack.lock_jars > kafka-jars.lock.new && mv kafka-jars.lock.new sagelift/stack/kafka-jars.lock

Run it when `COORDINATES` changes. It resolves the whole dependency tree (about 20 s). An installation from the lock
file needs no resolution and always gets the same jars.
"""

import sys
import tempfile
import tomllib
from pathlib import Path

# The "!" keeps each coordinate's own versions. Without it jgo takes the versions of log4j for everything, and with
# them a kafka-clients 3.9, on which the broker fails (NoSuchMethodError).
COORDINATES = "org.apache.kafka:kafka_2.13:4.3.1!+org.apache.logging.log4j:log4j-slf4j-impl:2.25.3!"


def lock_lines() -> list[str]:
    """Return `sha256  group:artifact:version` of every jar, sorted by coordinate. Needs the network."""
    import jgo
    from jgo.maven import PythonResolver

    with tempfile.TemporaryDirectory() as folder:
        environment = jgo.build(COORDINATES, cache_dir=Path(folder), resolver=PythonResolver())
        resolved = tomllib.loads((environment.path / "jgo.lock.toml").read_text(encoding="utf-8"))
    jars = sorted((f"{d['groupId']}:{d['artifactId']}:{d['version']}", d["sha256"]) for d in resolved["dependencies"])
    return [f"{sha256}  {coordinate}" for coordinate, sha256 in jars]


if __name__ == "__main__":
    sys.stdout.write("\n".join(lock_lines()) + "\n")
