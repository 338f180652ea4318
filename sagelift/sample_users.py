"""A generated table of users in an experiment, to try `sagelift analyze` on before there is real data."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.files import atomic_file

LIFT: Final = 0.06
"""True lift of the mean number of orders in the treatment, and so of GMV."""
START: Final = date(2026, 3, 2)
"""Day of the first exposure."""
DAYS: Final = 14
"""Days over which users enter the experiment."""
COUNTRIES: Final = {"DE": 0.5, "FR": 0.3, "IT": 0.2}
"""Share of the users per country."""

_CLICK_RATE = 0.08
_CLICK_LIFT = 0.03
_PRICE_CENTS = 3_000


def sample_users(users: int, seed: int) -> pa.Table:
    """Generate users of an experiment with two arms.

    A user's orders before and after the exposure depend on the user's activity, so the amount before is a good
    covariate. The treatment raises the mean number of orders by `LIFT`.

    Args:
        users: Number of users.
        seed: Random seed. The same seed gives the same table.

    Returns:
        One row per user with the columns user_id, variant (control or treatment), country, day (of first exposure),
        impressions, clicks, orders, gmv and gmv_pre (amounts in cents).
    """
    random = np.random.default_rng(seed)
    treated = random.random(users) < 0.5
    activity = random.gamma(1.0, 0.7, users)
    effect = np.where(treated, 1 + LIFT, 1.0)
    impressions = 1 + random.poisson(40 * activity)
    clicks = random.binomial(impressions, _CLICK_RATE * np.where(treated, 1 + _CLICK_LIFT, 1.0))
    orders = random.poisson(2 * activity * effect)
    orders_before = random.poisson(3 * activity)
    days = random.integers(0, DAYS, users)
    return pa.table(
        {
            "user_id": [f"user-{number:06d}" for number in range(users)],
            "variant": np.where(treated, "treatment", "control"),
            "country": random.choice(list(COUNTRIES), users, p=list(COUNTRIES.values())),
            "day": [START + timedelta(days=int(day)) for day in days],
            "impressions": impressions,
            "clicks": clicks,
            "orders": orders,
            "gmv": _amounts(random, orders),
            "gmv_pre": _amounts(random, orders_before),
        }
    )


def write_sample_users(path: Path, users: int, seed: int) -> Path:
    """Write generated users as a Parquet file.

    Args:
        path: File to write; its folder must exist.
        users: Number of users.
        seed: Random seed.

    Returns:
        The path.

    Raises:
        OSError: The file cannot be written.
    """
    table = sample_users(users, seed)
    with atomic_file(path) as partial:
        pq.write_table(table, partial)
    return path


def _amounts(random: np.random.Generator, orders: np.ndarray) -> np.ndarray:
    """The sum of each user's orders in cents, shape [users]. A basket of one order is log-normal."""
    user = np.repeat(np.arange(len(orders)), orders)
    baskets = np.round(_PRICE_CENTS * random.lognormal(0.0, 0.5, len(user)))
    return np.bincount(user, weights=baskets, minlength=len(orders)).astype(np.int64)
