"""Put a trained model into service.

`release_model` exports the model and calls `make_live`, which goes through these steps:

    1. serve    Triton loads the new version beside the live one; its answers to a probe must equal the export's
    2. offers   the filter attributes of all products go to `product.offers`
    3. embed    the whole catalogue is embedded with the new version, beside the old vectors
    4. check    the new release must not be much worse than the live one, or too different
    5. switch   the new release becomes live
    6. embed    the products that the consumer embedded with the old version during step 3
    7. compare  all products are compared with their vectors

The old release answers until the switch, and stays served for a rollback. If a step before the switch fails, the new
release does not become live. Every step can be repeated: `make_live` finishes a release that was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from streaming.feature_store import ReleaseStore
from streaming.release.catalogue_shards import EmbeddingContext, EmbeddingWorkers
from streaming.release.check import ReleaseComparison
from streaming.release.reconcile import Reconciliation, reconcile
from streaming.release.reembed import reembed
from streaming.vectors.offers import publish_all_offers
from streaming.vectors.publisher import PublishOffers, PublishVectors

Check = Callable[[str, str], ReleaseComparison]
"""Compares the live release with a new one, by their versions; raises ReleaseError to refuse the new one."""


@dataclass(frozen=True)
class ReleaseTarget:
    """The services that a release is put into.

    Attributes:
        repo: The model repository.
        client: Triton, which serves the repository.
        store: The feature store.
        publish: Publishes vectors.
        publish_offers: Publishes offers. A reader that follows the new model version then has the filter
            attributes too, even if the catalogue is older than the topic. None skips this step.
        workers: Other processes that embed; None embeds in this process.
    """

    repo: Path
    client: TritonClient
    store: ReleaseStore
    publish: PublishVectors
    publish_offers: PublishOffers | None = None
    workers: EmbeddingWorkers | None = None


class Released(msgspec.Struct, frozen=True):
    """A release that is live.

    Attributes:
        version: Its version.
        probe_cosine: Smallest cosine between the probe's answers and those of the export.
        counts: Number of products that were embedded (`embedded`), or not (`embedding_unchanged`).
        rejected: Products that the model rejects: id -> reason.
        reconciliation: All live products compared with their vectors.
        compared: The comparison with the previous live release; None without a check.
    """

    version: str
    probe_cosine: float
    counts: dict[str, int]
    rejected: dict[str, str]
    reconciliation: Reconciliation
    compared: ReleaseComparison | None = None


def release_model(
    target: ReleaseTarget,
    model: ItemSage,
    tokenizer: Tokenizer,
    *,
    extra_files: Mapping[str, Path],
    metadata: Mapping[str, Any],
    check: Check | None = None,
    on_export: Callable[[str], None] = lambda version: None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Released:
    """Export a model and make it live; return when it is live and the whole catalogue is embedded with it.

    Args:
        target: The services that the release is put into.
        model: The trained model.
        tokenizer: Its tokenizer.
        extra_files: Further files of the release by name.
        metadata: Fields of the release's metadata.
        check: See `make_live`.
        on_export: Receives the version after the export. From then on, `make_live` can finish the release.
        on_progress: Receives the number of embedded products.

    Raises:
        ServingError: Triton cannot load the release, or its probe fails. The old release stays live.
        ReleaseError: The check refuses the release. The old release stays live.
        ArtifactError: Another release is in progress.
    """
    release = export_release(target.repo, model, tokenizer, metadata=metadata, extra_files=extra_files)
    on_export(release.version)
    return make_live(target, release.version, check=check, on_progress=on_progress)


def make_live(
    target: ReleaseTarget,
    version: str,
    *,
    check: Check | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Released:
    """Put an exported release into service: a new one, an older one, or one that was interrupted.

    Args:
        target: The services that the release is put into.
        version: Version of the release.
        check: Compares the release with the live one after the catalogue is embedded with both, and may refuse it. None
            switches without a check. It is not called if no release is live, or this one already is.
        on_progress: Receives the number of embedded products in step 3.

    Raises:
        ServingError: Triton cannot load the release, or its probe fails. The old release stays live.
        ReleaseError: The check refuses the release. The old release stays live.
        ArtifactError: The release does not exist, or another release is in progress.
    """
    repo, store, workers = target.repo, target.store, target.workers
    with releasing(repo):
        probe_cosine = _serve_and_probe(target, version)
        store.ensure_model_version(version)
        context = EmbeddingContext(store, ItemEmbedder(target.client, repo, version=version), target.publish)
        if target.publish_offers is not None:
            publish_all_offers(store, target.publish_offers)
        first = reembed(context, workers=workers, on_progress=on_progress)
        live, comparison = live_version(repo), None
        if check is not None and live is not None and live != version:
            comparison = check(live, version)
        set_live(repo, version)
        second = reembed(context, republish=False, workers=workers)
        reconciliation, rejected = reconcile(context, first.rejected | second.rejected, workers=workers)
    counts = dict(first.counts + second.counts)
    return Released(version, probe_cosine, counts, rejected, reconciliation, comparison)


def _serve_and_probe(target: ReleaseTarget, version: str) -> float:
    """Let Triton serve a version beside the live one; return the smallest cosine of its probe."""
    release = find_release(target.repo, version)
    if version not in served_versions(target.repo):
        live = live_version(target.repo)
        serve(target.repo, {version, live} if live else {version})
    target.client.load(ITEMSAGE)
    return target.client.probe(release.path, version)
