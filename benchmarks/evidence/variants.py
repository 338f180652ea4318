"""The variants that are trained, and the size of the evidence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from inference.errors import InputError

FULL, SUM, CEILING = "full", "sum", "ceiling"
"""The full model, the untrained sum of image vectors, and the hidden truth of the simulation."""

VARIANTS: dict[str, Mapping[str, Any]] = {
    FULL: {},
    "sum_mlp": {"model": "sum_mlp"},
    "mlp_concat_mlp": {"model": "mlp_concat_mlp"},
    "image_only": {"text": False},
    "text_only": {"images": False},
    "2_layers": {"layers": 2},
    "3_layers": {"layers": 3},
    "4_layers": {"layers": 4},
    "l_pos_only": {"loss": "in_batch"},
    "l_neg_only": {"loss": "random"},
    "shared_denominator": {"loss": "shared"},
    "no_logq": {"log_q": False},
    "l_pos_no_logq": {"loss": "in_batch", "log_q": False},
    "image_surface_only": {"only": ["image"]},
    "search_surface_only": {"only": ["search"]},
    "clicks_and_saves_only": {"only": ["click", "save"]},
    "conversions_only": {"only": ["add_to_cart", "checkout"]},
}
"""By name, what differs from the full model's `TrainConfig`.

`only` names the query kinds or engagements whose tasks are trained; all tasks are evaluated.
"""

NAMES = {
    CEILING: "ceiling: the hidden truth",
    SUM: "Sum, untrained",
    FULL: "**ItemSage**",
    "sum_mlp": "Sum-MLP",
    "mlp_concat_mlp": "MLP-Concat-MLP",
    "image_only": "images only",
    "text_only": "text only",
    "2_layers": "2 layers",
    "3_layers": "3 layers",
    "4_layers": "4 layers",
    "l_pos_only": "L_pos only",
    "l_neg_only": "L_neg only",
    "shared_denominator": "one shared denominator",
    "no_logq": "no logQ",
    "l_pos_no_logq": "L_pos only, no logQ",
    "image_surface_only": "image surface only",
    "search_surface_only": "search surface only",
    "clicks_and_saves_only": "clicks and saves only",
    "conversions_only": "conversions only",
}
"""Names of the variants on the card."""


class EvidenceConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The size of the evidence.

    Attributes:
        seeds: Seeds of the logs; each trains all variants.
        visits_per_product: Simulated visits per product.
        steps: Training steps of a variant.
        search_steps: Training steps of the search encoder.
        variants: Names of the variants.
    """

    seeds: tuple[int, ...] = (1, 2, 3)
    visits_per_product: int = 40
    steps: int = 100
    search_steps: int = 200
    variants: tuple[str, ...] = tuple(VARIANTS)

    def __post_init__(self) -> None:
        if unknown := [v for v in self.variants if v not in VARIANTS]:
            raise InputError(f"there is no variant {unknown[0]!r}; it must be one of {', '.join(VARIANTS)}")
        for name in ("visits_per_product", "steps", "search_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} ({getattr(self, name)}) must be at least 1")
        if len(set(self.seeds)) < 2:
            raise InputError(
                f"seeds ({', '.join(map(str, self.seeds))}) must be at least two, because one seed has no spread"
            )
