"""A table of users with two arms, for the commands of the analysis."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest


@pytest.fixture(scope="session")
def data() -> pd.DataFrame:
    """2,000 users with amounts, events and a country. No arm has an effect."""
    rng = np.random.default_rng(0)
    n = 2000
    views = rng.integers(1, 30, n)
    return pd.DataFrame(
        {
            "id": np.arange(n),
            "variant": rng.integers(0, 2, n),
            "gmv": np.where(rng.random(n) < 0.3, np.exp(rng.normal(8, 1, n)).round(), 0),
            "gmv_pre": np.exp(rng.normal(8, 1, n)).round(),
            "clicks": rng.binomial(views, 0.2),
            "impressions": views,
            "spent": rng.lognormal(0, 1, n),
            "country": rng.choice(["DE", "FR", "IT"], n),
        }
    )


@pytest.fixture(scope="session")
def path(data: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The users as a Parquet file."""
    path = tmp_path_factory.mktemp("cli") / "users.parquet"
    data.to_parquet(path)
    return path
