"""Queries -> vectors in the space of the products: images, search texts and users.

* Image: the frozen visual vector of the query image itself.
* Search: a text encoder. It is trained first, against the frozen image space, and then frozen (like the paper's
  SearchSage).
* User: there is no user tower. The recent history is clustered (Ward linkage, as in PinnerSage), and each cluster's
  medoid is a query: several interests give several candidate lists.
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
    """Bag of tokens -> hash embedding -> two-layer perceptron -> unit vector of the image space.

    Args:
        vocabulary: Number of token ids.
        table_rows: Number of rows of the hash embedding's table.
        dim: Length of a vector.
        hidden: Number of hidden units.

    Attributes:
        shape: The arguments by name.
    """

    def __init__(self, vocabulary: int, table_rows: int, dim: int = 256, hidden: int = 512) -> None:
        super().__init__()
        self.shape = {"vocabulary": vocabulary, "table_rows": table_rows, "dim": dim, "hidden": hidden}
        self.text = HashEmbedding(vocabulary, table_rows, dim)
        self.layers = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """Encode `B` queries.

        Args:
            ids: `[N]`, the token ids of all queries.
            offsets: `[B]`, where each query starts.

        Returns:
            `[B, dim]` unit vectors.
        """
        bags = self.text(ids, offsets)
        return F.normalize(self.layers(F.layer_norm(bags, bags.shape[-1:])), dim=1)


class SearchQueries:
    """Encodes search texts with the vocabulary that the encoder was trained with.

    Attributes:
        encoder: The encoder, in evaluation mode.
        tokenizer: The vocabulary.
    """

    def __init__(self, encoder: SearchEncoder, tokenizer: Tokenizer) -> None:
        self.encoder = encoder.eval()
        self.tokenizer = tokenizer

    def __call__(self, texts: Sequence[str]) -> Float32Array:
        """Encode `B` texts as `[B, 256]` float32.

        A text without a known word gets a zero vector: it finds nothing instead of noise.
        """
        bags = [self.tokenizer.ids(text) for text in texts]
        ids, offsets = flatten_bags(bags)
        with torch.inference_mode():
            out: Float32Array = self.encoder(ids, offsets).numpy().copy()
        out[[i for i, bag in enumerate(bags) if not bag]] = 0.0
        return out

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Write `search.safetensors` and `search.json` into a folder that nobody reads yet; return both paths."""
        from safetensors.torch import save_file

        weights, shape = folder / "search.safetensors", folder / "search.json"
        save_file(self.encoder.state_dict(), weights)
        shape.write_text(json.dumps(self.encoder.shape))
        return weights, shape

    @classmethod
    def load(cls, folder: Path) -> SearchQueries:
        """Read what `save` wrote, with the folder's `tokenizer.json`.

        Raises:
            ArtifactError: If a file is missing or truncated, or does not fit the vocabulary.
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
    """Return the flat ids and the offsets of some bags, as `HashEmbedding` takes them."""
    lengths = np.fromiter((len(b) for b in bags), np.int64, len(bags))
    ids = torch.tensor([i for bag in bags for i in bag], dtype=torch.int64)
    return ids, torch.from_numpy(np.cumsum(lengths) - lengths)


def interests(vectors: Float32Array, *, most: int = 3, distance: float = 0.9) -> list[int]:
    """Return the medoids of a user's interests, the most recent interest first.

    Args:
        vectors: `[n, 256]`, unit vectors of the products that the user engaged with, the most recent last.
        most: Largest number of interests.
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
