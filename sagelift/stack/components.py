"""The two servers that are not Python dependencies: downloads both into the cache folder."""

from pathlib import Path

from sagelift.stack.cache import Say
from sagelift.stack.kafka_jars import fetch_kafka
from sagelift.stack.triton_wheel import fetch_triton


def fetch_all(cache: Path, say: Say) -> None:
    """Download Apache Kafka and Triton if the cache lacks them; milliseconds if it has both.

    Several processes may call this at once.

    Args:
        cache: Cache folder.
        say: Called with each line of progress.

    Raises:
        DownloadError: The network, the disk or a hash prevents it.
        MissingComponentError: There is no build for this machine.
    """
    fetch_kafka(cache, say)
    fetch_triton(cache, say)
