"""Users with every feature that sources support, and the numbers of their aggregates."""

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import create_engine, types

from analysis.aggregates import Aggregates
from analysis.columns import Cap, Filter
from analysis.currencies import Rates
from analysis.metrics import Count, Declared, Mean, Proportion, Quantile, Ratio, merged_needs
from analysis.sources import UserTable
from analysis.sources.user_rows import UserRows

P99 = Cap(upper_quantile=0.99, nonzero=True)
METRICS: tuple[Declared, ...] = (
    Mean(name="gmv", column="gmv", unit="money", covariate="pre"),
    Mean(name="capped", column="gmv", unit="money", cap=P99, covariates=("pre", "clicks_pre/views_pre")),
    Count(name="clicks", column="clicks"),
    Ratio(name="ctr", numerator="clicks", denominator="views"),
    Ratio(name="ctr_de", numerator="clicks", denominator="views", where=(Filter("country", "in", ("de", "it's")),)),
    Proportion(name="buyers", column="gmv"),
    Proportion(name="members", column="member"),
    Quantile(name="median", column="spent"),
    Quantile(name="p90", column="pre", q=0.9),
)
OPTIONS: dict[str, Any] = {
    "unit": "user",
    "day": "day",
    "segment": "country",
    "where": (Filter("views", ">", 2),),
    "covariate_until": "until",
    "currency_column": "currency",
    "rates": Rates("EUR", {"USD": 0.92, "JPY": 0.0061}, date(2026, 6, 1)),
    "money": ("gmv", "pre"),
}


def frame(n: int = 3000, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    views, views_pre = rng.integers(1, 30, (2, n))
    day = [date(2026, 6, 1 + int(d)) for d in rng.integers(0, 5, n)]
    return pd.DataFrame(
        {
            "user": [f"u{i}" for i in range(n)],
            "variant": rng.choice(["a", "b", "c"], n),
            "gmv": np.where(rng.random(n) < 0.3, np.exp(rng.normal(8, 1, n)).round(), 0).astype(int),
            "pre": np.exp(rng.normal(8, 1, n)).round().astype(int),
            "spent": rng.lognormal(8, 1, n),
            "clicks": rng.binomial(views, 0.2),
            "views": views,
            "clicks_pre": rng.binomial(views_pre, 0.2),
            "views_pre": views_pre,
            "member": rng.random(n) < 0.4,
            "country": rng.choice(["de", "fr", "it's"], n),
            "currency": rng.choice(["EUR", "USD", "JPY"], n),
            "day": day,
            "until": [date(2026, 5, 31)] * n,
        }
    )


def write_sql(data: pd.DataFrame, url: str) -> Any:
    engine = create_engine(url)
    dates: Any = dict.fromkeys(("day", "until"), types.Date())
    with engine.begin() as connection:
        data.to_sql("users", connection, index=False, dtype=dates | {"member": types.Boolean()}, chunksize=200)
    return engine


def collect(source: UserRows, metrics: tuple[Declared, ...] = METRICS) -> Aggregates:
    return source.collect(merged_needs(metrics)).aggregates


def numbers(found: Aggregates) -> dict[str, float]:
    """Return every number that the statistics use, by name."""
    flat: dict[str, float] = {}
    for arm in found.arms:
        for segment in (None, *found.segments):
            for until in (None, *found.days):
                m = found.moments(arm, until=until, segment=segment)
                where = f"{arm} {segment} {until}"
                flat[f"{where} n"] = m.n
                flat |= {f"{where} mean {c}": mean for c, mean in m.means.items()}
                flat |= {f"{where} cov {a}, {b}": v for (a, b), v in (m.covariances or {}).items()}
        flat |= {f"{arm} capped {c}": found.capped(c, arm) for c in found.limits}
    flat |= {f"limit {c}": limit.upper or 0.0 for c, limit in found.limits.items()}
    for (arm, rank), ranked in found.ranked.items():
        flat |= {f"{arm} {rank} {r}": value for r, value in zip(ranked.ranks, ranked.values, strict=True)}
    return flat


def same(a: Aggregates, b: Aggregates) -> None:
    assert numbers(a) == pytest.approx(numbers(b), rel=1e-9)


def parquet(data: pd.DataFrame, folder: Path) -> UserTable:
    data.to_parquet(folder / "u.parquet")
    return UserTable(folder / "u.parquet")
