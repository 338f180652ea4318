"""Sample users: the same seed gives the same file, and the planted lift is in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from sagelift.sample_users import COUNTRIES, DAYS, LIFT, sample_users, write_sample_users


def test_a_seed_gives_the_same_file_and_another_seed_another_one(tmp_path: Path) -> None:
    first, again, other = (
        write_sample_users(tmp_path / name, 500, seed).read_bytes() for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again
    assert first != other
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_every_user_has_one_row_that_fits_together(tmp_path: Path) -> None:
    users = pq.read_table(write_sample_users(tmp_path / "users.parquet", 2_000, 7)).to_pandas()
    assert users.user_id.is_unique
    assert set(users.variant) == {"control", "treatment"}
    assert set(users.country) == set(COUNTRIES)
    assert users.day.nunique() == DAYS
    assert (users.clicks <= users.impressions).all()
    assert (users.impressions >= 1).all()
    assert ((users.gmv > 0) == (users.orders > 0)).all()


def test_the_lift_of_gmv_and_its_covariate_are_those_of_the_documentation() -> None:
    """The mean of many users differs from its expectation by chance: 5 standard errors are allowed."""
    users = sample_users(200_000, 3).to_pandas()
    control, treatment = (users.gmv[users.variant == arm] for arm in ("control", "treatment"))
    error = np.hypot(control.sem(), treatment.sem()) / control.mean()
    assert treatment.mean() / control.mean() - 1 == pytest.approx(LIFT, abs=5 * error)
    assert np.corrcoef(users.gmv, users.gmv_pre)[0, 1] > 0.3
    before = users.groupby("variant").gmv_pre.agg(["mean", "sem"])
    assert abs(before["mean"].diff().iloc[-1]) < 5 * np.hypot(*before["sem"])
