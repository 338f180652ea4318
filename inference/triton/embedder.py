"""`ItemEmbedder`: a release's tokenizer and the client together, so that ids and weights come from one training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from inference.errors import ArtifactError
from inference.inputs import ProductInput
from inference.releases.repository import ITEMSAGE, live_version
from inference.tokenizer import Tokenizer
from inference.triton.client import Embedded, TritonClient


class ItemEmbedder:
    """Embeds products with one release: its tokenizer makes the ids, its weights on Triton make the vectors.

    Args:
        client: The client of the server that serves the release.
        repo: Triton's model repository.
        version: The release to use. None uses the live release, as of the last `refresh`.

    Raises:
        ArtifactError: If the repository has no such release, or its tokenizer cannot be read.
    """

    def __init__(self, client: TritonClient, repo: Path, version: str | None = None) -> None:
        self._client = client
        self._repo = repo
        self._pinned = version
        self._release = self._read()

    @property
    def model_version(self) -> str:
        """The version of the release in use."""
        return self._release[0]

    def refresh(self) -> bool:
        """Switch to the live release if it has changed, and return whether it has.

        Raises:
            ArtifactError: If its tokenizer cannot be read; the old release stays in use.
        """
        if self._pinned is not None or live_version(self._repo) == self.model_version:
            return False
        self._release = self._read()
        return True

    def embed_products(self, products: Sequence[ProductInput]) -> Embedded:
        """Embed products with the release in use; see `TritonClient.embed` for the errors."""
        version, tokenizer = self._release
        token_ids, field_lengths = tokenizer.encode([product.text for product in products])
        return self._client.embed([p.images for p in products], token_ids, field_lengths, version=version)

    def _read(self) -> tuple[str, Tokenizer]:
        version = self._pinned or live_version(self._repo)
        if version is None:
            raise ArtifactError(f"the model repository {self._repo} has no live release: export one and make it live")
        return version, Tokenizer.load(self._repo / ITEMSAGE / version / "tokenizer.json")
