"""ItemSage (Baltescu et al., KDD 2022, arXiv 2205.11728): images and text of a product -> one 256-d unit vector.

What differs from a textbook transformer encoder:
* the input is a *set* of up to 20 frozen image vectors and 12 text-field vectors, without positions, after a learned
  `[CLS]`; empty slots are masked (the paper feeds zero vectors);
* a text field is a bag of token ids through a hash embedding (Svenstrup et al., 2017): two rows of one shared table
  per token, weighted by two learned importances, summed over the bag, then LayerNorm without parameters;
* the last layer is computed for `[CLS]` only: nothing else is read, and keys and values are never formed. With one
  layer (the default) `[CLS]` is still the same for every product there: it asks its question once for the batch;
* no position, no dropout: the model is deterministic.

With the full vocabularies it has 33,120,256 parameters. This file depends on torch alone: it travels into Triton's
model repository as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TEXT_SLOTS = 12


@dataclass(frozen=True)
class ItemSageConfig:
    """Sizes of the model; the defaults are the paper's."""

    vocabulary: int = 1_264_000  # 200k unigrams + 1M bigrams + 64k trigrams
    table_rows: int = 100_000  # of the shared hash-embedding table
    dim: int = 256  # of image vectors, table rows and the output
    width: int = 512
    layers: int = 1
    heads: int = 8
    feedforward: int = 2048
    head_hidden: int = 2048

    def __post_init__(self) -> None:
        if self.vocabulary < 1 or self.layers < 1:
            raise ValueError(f"vocabulary ({self.vocabulary}) and layers ({self.layers}) must be >= 1")
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        if self.table_rows < 5:
            raise ValueError(f"table_rows ({self.table_rows}) must be >= 5")


class HashEmbedding(nn.Module):
    """Bags of token ids -> sums of hash-embedded tokens.

    Token i is `W[i,0] E[i mod p] + W[i,1] E[i mod q]`, p > q the two largest primes up to the table's rows: a pair of
    rows belongs to one token only as long as ids stay below p*q, and every id stays within int32 in any runtime.
    """

    def __init__(self, vocabulary: int, rows: int, dim: int) -> None:
        super().__init__()
        self.moduli = _two_primes_up_to(rows)
        self.table = nn.Parameter(torch.empty(rows, dim))
        self.importance = nn.Parameter(torch.empty(vocabulary, 2))
        nn.init.xavier_normal_(self.table)
        nn.init.normal_(self.importance)

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """Flat ids `[N]` and the start of each bag `[bags]` -> `[bags, dim]`."""
        rows = torch.stack([ids % modulus for modulus in self.moduli], 1).flatten()
        weights = F.embedding(ids, self.importance).flatten()  # three times as fast as indexing
        return F.embedding_bag(rows, self.table, 2 * offsets, mode="sum", per_sample_weights=weights)

    def fields(self, token_ids: Tensor, field_lengths: Tensor) -> Tensor:
        """The normalised bags of each field `[B, fields, dim]` from `[B, T]`, `[B, fields]`; an empty one is zero."""
        lengths = field_lengths.to(torch.int64)
        used = torch.arange(token_ids.shape[1], device=token_ids.device) < lengths.sum(1, keepdim=True)
        ends = lengths.flatten().cumsum(0)
        bags = self(token_ids.masked_select(used).to(torch.int64), ends - lengths.flatten())
        return F.layer_norm(bags, bags.shape[-1:]).view(*lengths.shape, -1)


class EncoderLayer(nn.Module):
    """A pre-norm transformer layer that can answer for the first position only."""

    def __init__(self, width: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)
        self.linear1, self.linear2 = nn.Linear(width, feedforward), nn.Linear(feedforward, width)
        nn.init.xavier_uniform_(self.in_proj.weight)
        nn.init.zeros_(self.in_proj.bias)

    def forward(self, x: Tensor, present: Tensor, first_only: bool = False, first_alike: bool = False) -> Tensor:
        """`x` `[B, S, W]`, `present` `[B, S]` bool -> `[B, S, W]`, or `[B, 1, W]` with `first_only`.

        `first_alike` promises that the first position is the same throughout the batch; only `first_only` asks.
        """
        normed = self.norm1(x)
        attended = self._attend_first(normed, present, first_alike) if first_only else self._attend(normed, present)
        residual = (x[:, :1] if first_only else x) + self.out_proj(attended)
        out: Tensor = residual + self.linear2(F.gelu(self.linear1(self.norm2(residual))))
        return out

    def _attend(self, normed: Tensor, present: Tensor) -> Tensor:
        batch, _, width = normed.shape
        query, key, value = self.in_proj(normed).chunk(3, dim=-1)
        q, k, v = (t.view(batch, -1, self.heads, width // self.heads).transpose(1, 2) for t in (query, key, value))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=present[:, None, None, :])
        return attended.transpose(1, 2).reshape(batch, -1, width)

    def _attend_first(self, normed: Tensor, present: Tensor, alike: bool) -> Tensor:
        """The same for the first position, without projecting all the others to keys and values.

        With one query per head, q (K x) = (q K) x and sum a (V x) = V (sum a x): two projections per product instead of
        two per position (2.4 times faster with 33 positions). The keys' bias adds the same to every score and falls out
        of the softmax; the values' bias is added once, because the weights sum to one. Where the first position is
        alike, so is q K: one vector per head for the whole batch.
        """
        width = normed.shape[2]
        heads, size = self.heads, width // self.heads
        query_weight, key_weight, value_weight = self.in_proj.weight.view(3, width, width).unbind()
        query_bias, _, value_bias = self.in_proj.bias.view(3, width).unbind()
        # Contiguous: a strided slice makes the linear layer copy its weight once per row.
        first = normed[:1, 0] if alike else normed[:, 0].contiguous()
        query = F.linear(first, query_weight, query_bias) * size**-0.5
        keyed = torch.bmm(query.view(-1, heads, size).transpose(0, 1), key_weight.view(heads, size, width))
        scores = F.linear(normed, keyed[:, 0]) if alike else torch.bmm(normed, keyed.permute(1, 2, 0))
        weights = scores.float().masked_fill(~present[:, :, None], -torch.inf).softmax(1).to(normed.dtype)
        pooled = torch.bmm(weights.transpose(1, 2), normed)
        # Head by head: one bmm would first copy all that was pooled into another order.
        by_head = zip(pooled.unbind(1), value_weight.view(heads, size, width), strict=True)
        values = torch.cat([F.linear(one, weight) for one, weight in by_head], 1)
        return (values + value_bias)[:, None]


class ItemSage(nn.Module):
    """The encoder. See the module's docstring; shapes at `forward`."""

    def __init__(self, config: ItemSageConfig) -> None:
        super().__init__()
        self.config = config
        self.text = HashEmbedding(config.vocabulary, config.table_rows, config.dim)
        self.image_projection = nn.Linear(config.dim, config.width)
        self.text_projection = nn.Linear(config.dim, config.width)
        self.cls = nn.Parameter(torch.randn(config.width) * 0.02)
        self.layers = nn.ModuleList(
            EncoderLayer(config.width, config.heads, config.feedforward) for _ in range(config.layers)
        )
        self.head = nn.Sequential(
            nn.LayerNorm(config.width),
            nn.Linear(config.width, config.head_hidden),
            nn.GELU(),
            nn.Linear(config.head_hidden, config.dim),
        )

    def forward(self, images: Tensor, image_counts: Tensor, token_ids: Tensor, field_lengths: Tensor) -> Tensor:
        """Embed a batch of products.

        Args:
            images: `[B, I, 256]` float, a product's image vectors first, then padding.
            image_counts: `[B]` int, how many of the I are real.
            token_ids: `[B, T]` int, the bags of the twelve fields one after the other, padded at the end.
            field_lengths: `[B, 12]` int, how many ids belong to each field.

        Returns:
            `[B, 256]` float32, unit length.
        """
        batch, slots = images.shape[:2]
        filled = (field_lengths > 0).any(0)
        filled[0] = True  # at least one field; one that no product of the batch has costs nothing
        field_lengths = field_lengths[:, filled]
        fields = self.text_fields(token_ids, field_lengths)
        sequence = torch.cat(
            [
                self.cls.expand(batch, 1, -1),
                self.image_projection(images.to(self.image_projection.weight.dtype)),
                self.text_projection(fields.to(self.text_projection.weight.dtype)),
            ],
            dim=1,
        )
        present = torch.cat(
            [
                torch.ones(batch, 1, dtype=torch.bool, device=images.device),
                torch.arange(slots, device=images.device) < image_counts[:, None],
                field_lengths > 0,
            ],
            dim=1,
        )
        return F.normalize(self.head(self.encoded(sequence, present)).float(), dim=1)

    def encoded(self, sequence: Tensor, present: Tensor) -> Tensor:
        """`[B, S, W]`, `[CLS]` first, and which of the S positions are there `[B, S]` -> the last `[CLS]` `[B, W]`."""
        for depth, layer in enumerate(self.layers):
            # Before the first layer nothing of the product has reached [CLS].
            sequence = layer(sequence, present, first_only=depth == len(self.layers) - 1, first_alike=depth == 0)
        return sequence[:, 0]

    def text_fields(self, token_ids: Tensor, field_lengths: Tensor) -> Tensor:
        """The field vectors `[B, fields, 256]`; an empty field is zero (and masked)."""
        return self.text.fields(token_ids, field_lengths)


def _two_primes_up_to(limit: int) -> tuple[int, int]:
    primes = (n for n in range(limit, 1, -1) if all(n % d for d in range(2, int(n**0.5) + 1)))
    return next(primes), next(primes)
