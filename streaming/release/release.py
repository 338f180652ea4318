"""Putting a trained model into service: export, load, probe, embed the catalogue beside the old vectors, switch.

The old release answers until the switch and stays served for a rollback. A release that fails its probe, or that
cannot embed, never becomes live. Every step can be repeated: `make_live` finishes a release that was broken off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from inference.model import ItemSage
from inference.releases.export import export_release
from inference.releases.repository import (
    ITEMSAGE,
    find_release,
    live_version,
    releasing,
    serve,
    served_versions,
    set_live,
)
from inference.tokenizer import Tokenizer
from inference.triton.client import TritonClient
from inference.triton.embedder import ItemEmbedder
from streaming.release.check import Comparison
from streaming.release.reembed import Elsewhere, Reconciliation, ScannableStore, reconcile, reembed
from streaming.vectors.offer_topic import PublishOffers, ScannableOfferStore, publish_all_offers

Check = Callable[[str, str], Comparison]
"""Compares the live release with a new one, by their versions; raises ReleaseError to refuse it."""


class Released(msgspec.Struct, frozen=True):
    """A release that is live: its version, its probe's smallest cosine, what was embedded, who was rejected.

    `reconciliation` holds all live products against their vectors; `compared` is how it did beside the release that
    was live before, where that was asked.
    """

    version: str
    probe_cosine: float
    counts: dict[str, int]
    rejected: dict[str, str]
    reconciliation: Reconciliation
    compared: Comparison | None = None


class VersionedStore(ScannableStore, ScannableOfferStore, Protocol):
    """A feature store that keeps one view of embeddings per model version."""

    def ensure_model_version(self, model_version: str) -> None: ...


def release_model(
    repo: Path,
    model: ItemSage,
    tokenizer: Tokenizer,
    *,
    client: TritonClient,
    store: VersionedStore,
    publish: Publish,
    publish_offers: PublishOffers | None = None,
    extra_files: Mapping[str, Path],
    metadata: Mapping[str, Any],
    check: Check | None = None,
    elsewhere: Elsewhere | None = None,
    on_export: Callable[[str], None] = lambda version: None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Released:
    """Release a model; returns when it is live and the whole catalogue is embedded with it.

    `on_export` is told the version: from then on `make_live` can take up a release that was broken off.

    Raises:
        ServingError: Triton cannot load it, or its probe fails. The old release stays live.
        ReleaseError: the check refuses it. The old release stays live.
        ArtifactError: another release is under way.
    """
    release = export_release(repo, model, tokenizer, metadata=metadata, extra_files=extra_files)
    on_export(release.version)
    return make_live(
        repo,
        release.version,
        client=client,
        store=store,
        publish=publish,
        publish_offers=publish_offers,
        check=check,
        elsewhere=elsewhere,
        on_progress=on_progress,
    )


def make_live(
    repo: Path,
    version: str,
    *,
    client: TritonClient,
    store: VersionedStore,
    publish: Publish,
    publish_offers: PublishOffers | None = None,
    check: Check | None = None,
    elsewhere: Elsewhere | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Released:
    """Put an exported release into service: a new one, an older one again, or one whose release was broken off.

    With `publish_offers` also what the products are filtered by is published: whoever follows the new model version
    finds both, though the catalogue be older than the topic. `check` compares with the release that is live so far,
    when the catalogue is embedded with both; without it the caller has decided. `elsewhere` are processes that embed
    instead of this one.

    Raises:
        ServingError: Triton cannot load it, or its probe fails. The old release stays live.
        ReleaseError: the check refuses it. The old release stays live.
        ArtifactError: there is no such release, or another is under way.
    """
    with releasing(repo):
        release = find_release(repo, version)
        if version not in served_versions(repo):
            live = live_version(repo)
            serve(repo, {version, live} if live else {version})
        client.load(ITEMSAGE)
        cosine = client.probe(release.path, version)
        store.ensure_model_version(version)
        embedder = ItemEmbedder(client, repo, version=version)
        if publish_offers is not None:
            publish_all_offers(store, publish_offers)
        counts, rejected = reembed(store, embedder, publish, elsewhere=elsewhere, on_progress=on_progress)
        live, compared = live_version(repo), None
        if check is not None and live is not None and live != version:
            compared = check(live, version)
        set_live(repo, version)
        # What the consumer embedded with the old release while the first pass ran.
        late, late_rejected = reembed(store, embedder, publish, republish=False, elsewhere=elsewhere)
        rejected |= late_rejected
        found = reconcile(store, embedder, publish, rejected, elsewhere=elsewhere)
    return Released(version, cosine, dict(Counter(counts) + late), rejected, found, compared)
