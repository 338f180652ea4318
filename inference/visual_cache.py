"""Cache image vectors by content hash: an image is encoded once, even if many products and updates show it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from inference.arrays import Float32Array
from inference.errors import ArtifactError
from inference.inputs import VECTOR_DIM


class VisualCache:
    """A SQLite file that maps (version of the visual encoder, content hash) to a vector. Threads may share a cache.

    Args:
        path: The file; created if missing.
        visual_version: Version of the visual encoder. Vectors of other versions are ignored.

    Attributes:
        visual_version: See the arguments.

    Raises:
        ArtifactError: If the file cannot be opened or is not a cache.
    """

    def __init__(self, path: Path, visual_version: str) -> None:
        self.visual_version = visual_version
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
            self._connection.execute("pragma journal_mode=wal")
            self._connection.execute("pragma synchronous=normal")  # a lost vector is computed again
            self._connection.execute(
                "create table if not exists image_vector (visual_version text, content_hash text, vector blob, "
                "primary key (visual_version, content_hash)) without rowid"
            )
        except (OSError, sqlite3.Error) as error:
            raise ArtifactError(f"the cache of image vectors {path} cannot be used ({error}); delete it") from None

    def get(self, hashes: Sequence[str]) -> dict[str, Float32Array]:
        """Return the cached vectors `[256]` float32 by content hash; unknown images are left out."""
        vectors: dict[str, Float32Array] = {}
        with self._lock:
            for start in range(0, len(hashes), 500):
                part = hashes[start : start + 500]
                rows = self._connection.execute(
                    "select content_hash, vector from image_vector where visual_version = ? "
                    f"and content_hash in ({','.join('?' * len(part))})",
                    (self.visual_version, *part),
                )
                vectors.update((h, np.frombuffer(v, "<f4")) for h, v in rows if len(v) == 4 * VECTOR_DIM)
        return vectors

    def put(self, vectors: Mapping[str, Float32Array]) -> None:
        """Store vectors `[256]` by content hash."""
        rows = [(self.visual_version, h, v.astype("<f4").tobytes()) for h, v in vectors.items()]
        with self._lock:
            self._connection.execute("begin immediate")
            with self._connection:  # commits, or rolls back
                self._connection.executemany("insert or replace into image_vector values (?, ?, ?)", rows)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()
