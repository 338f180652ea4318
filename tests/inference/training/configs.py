"""Small training configurations for the tests."""

from __future__ import annotations

import msgspec

from inference.training.config import TrainConfig

SMALL = TrainConfig(
    steps=60,
    batch=96,
    random_negatives=64,
    search_steps=30,
    warmup_steps=5,
    learning_rate=3e-3,
    width=64,
    heads=4,
    feedforward=64,
    head_hidden=64,
)
"""Enough steps to learn."""

FEW_STEPS = msgspec.structs.replace(SMALL, steps=3, search_steps=2)
"""As few steps as possible."""
