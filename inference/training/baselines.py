"""Baselines to compare ItemSage with: *Sum-MLP* and *MLP-Concat-MLP* (section 4.2 of the paper), trained the same way.

The paper gives only their names and their idea; sizes and details are ours. Both take the inputs of `ItemSage.forward`,
use the same frozen image vectors and hash-embedded text fields, and end in the same head. The untrained baseline *Sum*
is `inference.training.packed.sum_images`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inference.model import TEXT_SLOTS, HashEmbedding, ItemSageConfig


class SumMLP(nn.Module):
    """*Sum-MLP*: all image and text-field vectors, projected into one space and summed; then the head."""

    def __init__(self, config: ItemSageConfig) -> None:
        super().__init__()
        self.config = config
        self.text = HashEmbedding(config.vocabulary, config.table_rows, config.dim)
        self.image_projection = nn.Linear(config.dim, config.width, bias=False)
        self.text_projection = nn.Linear(config.dim, config.width, bias=False)
        self.head = _head(config.width, config)

    def forward(self, images: Tensor, image_counts: Tensor, token_ids: Tensor, field_lengths: Tensor) -> Tensor:
        """Embed a batch of products; see `ItemSage.forward`."""
        image = self.image_projection(_sum_of_images(images, image_counts))
        text = self.text_projection(self.text.fields(token_ids, field_lengths).sum(1))
        return F.normalize(self.head(image + text).float(), dim=1)


class MLPConcatMLP(nn.Module):
    """*MLP-Concat-MLP*: the summed images and each text field through separate layers, concatenated; then the head."""

    def __init__(self, config: ItemSageConfig) -> None:
        super().__init__()
        self.config = config
        self.text = HashEmbedding(config.vocabulary, config.table_rows, config.dim)
        self.slots = nn.ModuleList(nn.Linear(config.dim, config.width) for _ in range(1 + TEXT_SLOTS))
        self.head = _head((1 + TEXT_SLOTS) * config.width, config)

    def forward(self, images: Tensor, image_counts: Tensor, token_ids: Tensor, field_lengths: Tensor) -> Tensor:
        """Embed a batch of products; see `ItemSage.forward`."""
        fields = self.text.fields(token_ids, field_lengths)
        parts = [_sum_of_images(images, image_counts), *fields.unbind(1)]
        hidden = [F.gelu(slot(part)) for slot, part in zip(self.slots, parts, strict=True)]
        return F.normalize(self.head(torch.cat(hidden, 1)).float(), dim=1)


def _head(width: int, config: ItemSageConfig) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, config.head_hidden), nn.GELU(), nn.Linear(config.head_hidden, config.dim)
    )


def _sum_of_images(images: Tensor, image_counts: Tensor) -> Tensor:
    present = torch.arange(images.shape[1], device=images.device) < image_counts[:, None]
    return (images * present[..., None]).sum(1)
