"""Embed a whole catalogue under the live model: what a release needs before and after its switch.

Only products whose stored embedding was made of other inputs are embedded, so the work can be broken off and begun
again, and a second pass after the switch catches what changed during the first.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Protocol

from feature_repo.rows import EmbeddingState, ProductFeatures
from streaming.embed import Embedder, EmbeddingStore, Publish, embed, publish_newest


class ScannableStore(EmbeddingStore, Protocol):
    """A feature store that can be read from one end to the other."""

    def scan_features(self, batch: int) -> Iterator[list[ProductFeatures]]: ...


def reembed(
    store: ScannableStore,
    embedder: Embedder,
    publish: Publish,
    *,
    republish: bool = True,
    batch: int = 256,
    on_progress: Callable[[int], None] = lambda done: None,
) -> tuple[Counter[str], dict[str, str]]:
    """Returns counts (`embedded`, `embedding_unchanged`) and the rejected products with reasons.

    `republish` puts stored embeddings on the topic again: the run that made them may have been broken off before.
    """

    def now(_: str) -> int:
        return int(time.time() * 1000)

    def again(_: str, __: EmbeddingState) -> bool:
        return republish

    counts: Counter[str] = Counter()
    rejected: dict[str, str] = {}
    done = 0
    for products in store.scan_features(batch):
        vectors, refused = embed(products, store, embedder, source_time=now, republish=again, counts=counts)
        publish_newest(vectors, store, publish)
        rejected |= refused
        done += len(products)
        on_progress(done)
    return counts, rejected
