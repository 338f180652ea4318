"""Queries -> vectors in the one space that products live in: image, search text, user.

* image: the query image's frozen visual vector, as it is.
* search: a text encoder trained first against the frozen image space, then frozen (SearchSage's part in the paper).
* user: no user tower. The recent history is clustered (Ward linkage, as PinnerSage does) and each cluster's medoid
  is a query of its own: several interests, several candidate lists.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from inference.arrays import Float32Array
from inference.errors import ArtifactError
from inference.model import HashEmbedding
from inference.tokenizer import Tokenizer


class SearchEncoder(nn.Module):
    """Bag of tokens -> hash embedding -> two-layer perceptron -> `[B, 256]` unit vectors of the image space."""

    def __init__(self, vocabulary: int, table_rows: int, dim: int = 256, hidden: int = 512) -> None:
        super().__init__()
        self.shape = {"vocabulary": vocabulary, "table_rows": table_rows, "dim": dim, "hidden": hidden}
        self.text = HashEmbedding(vocabulary, table_rows, dim)
        self.layers = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """Flat token ids `[N]` and the start of each query `[B]` -> `[B, 256]`."""
        bags = self.text(ids, offsets)
        return F.normalize(self.layers(F.layer_norm(bags, bags.shape[-1:])), dim=1)


class SearchQueries:
    """Search texts -> vectors, with the vocabulary that the encoder was trained on."""

    def __init__(self, encoder: SearchEncoder, tokenizer: Tokenizer) -> None:
        self.encoder = encoder.eval()
        self.tokenizer = tokenizer

    def __call__(self, texts: Sequence[str]) -> Float32Array:
        """`[B, 256]` float32. A text without a known word gets a zero vector: it finds nothing rather than noise."""
        bags = [self.tokenizer.ids(text) for text in texts]
        ids, offsets = flatten_bags(bags)
        with torch.inference_mode():
            out: Float32Array = self.encoder(ids, offsets).numpy().copy()
        out[[i for i, bag in enumerate(bags) if not bag]] = 0.0
        return out

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Write `search.safetensors` and `search.json` into a folder that nobody reads yet."""
        from safetensors.torch import save_file

        weights, shape = folder / "search.safetensors", folder / "search.json"
        save_file(self.encoder.state_dict(), weights)
        shape.write_text(json.dumps(self.encoder.shape))
        return weights, shape

    @classmethod
    def load(cls, folder: Path) -> SearchQueries:
        """Read what `save` wrote, with the folder's `tokenizer.json`.

        Raises:
            ArtifactError: a file is missing, truncated or does not fit the vocabulary.
        """
        from safetensors.torch import load_file

        tokenizer = Tokenizer.load(folder / "tokenizer.json")
        try:
            encoder = SearchEncoder(**json.loads((folder / "search.json").read_text()))
            encoder.load_state_dict(load_file(folder / "search.safetensors"))
        except (OSError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            raise ArtifactError(f"the search encoder in {folder} cannot be loaded: {error}") from None
        if encoder.shape["vocabulary"] != tokenizer.size:
            raise ArtifactError(
                f"the search encoder in {folder} was trained on {encoder.shape['vocabulary']} tokens, "
                f"its tokenizer has {tokenizer.size}: the files belong to different models"
            )
        return cls(encoder, tokenizer)


def flatten_bags(bags: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Bags of ids -> flat ids and offsets, as `HashEmbedding` takes them."""
    lengths = np.fromiter((len(b) for b in bags), np.int64, len(bags))
    ids = torch.tensor([i for bag in bags for i in bag], dtype=torch.int64)
    return ids, torch.from_numpy(np.cumsum(lengths) - lengths)


def interests(vectors: Float32Array, *, most: int = 3, distance: float = 0.9) -> list[int]:
    """The medoids of a user's interests, the most recent interest first.

    Args:
        vectors: `[n, 256]` unit vectors of the recently engaged products, the most recent last.
        most: at most so many interests.
        distance: Ward distance above which two groups are different interests.

    Returns:
        Row numbers into `vectors`.
    """
    from scipy.cluster.hierarchy import cut_tree, linkage

    if len(vectors) == 0:
        return []
    if len(vectors) == 1:
        return [0]
    tree = linkage(vectors.astype(np.float64), "ward")
    apart = 1 + int((tree[:, 2] > distance).sum())
    label = cut_tree(tree, min(apart, most))[:, 0]  # fcluster cannot cut between merges at the same distance
    chosen: list[tuple[int, int]] = []
    for group in np.unique(label):
        members = np.flatnonzero(label == group)
        gaps = np.linalg.norm(vectors[members][:, None] - vectors[members][None], axis=2).sum(1)
        chosen.append((int(members.max()), int(members[int(gaps.argmin())])))
    return [medoid for _, medoid in sorted(chosen, reverse=True)]
