"""Conditions on rows: the column's type decides how a value is compared, and NULL satisfies none."""

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import types

from analysis.columns import Filter
from analysis.errors import AnalysisError, ArgumentError
from analysis.metrics import Mean, merged_needs
from analysis.sources import SqlTable, UserTable
from analysis.sources.user_rows import UserRows
from tests.analysis.sources.builders import write_sql

GMV = merged_needs((Mean(name="gmv", column="gmv"),))
USERS = pd.DataFrame(
    {
        "variant": [0, 1, 0, 1, 0, 1],
        "gmv": [1, 2, 4, 8, 16, 32],
        "zip": ["00501", "501", "00501", "10115", None, "501.0"],
        "age": pd.array([18, 17, 30, None, 18, 5], dtype="Int64"),
        "price": [1.5, 2.5, 1.5, None, 0.1, 1.0],
        "member": pd.array([True, False, None, True, False, True], dtype="boolean"),
        "day": pd.to_datetime(["2026-06-01", "2026-06-02", None, "2026-06-03", "2026-06-01", "2026-06-02"]).date,
        "seen": pd.to_datetime(
            ["2026-06-01 10:00", "2026-06-02", None, "2026-06-03", "2026-06-01", "2026-06-02"], format="ISO8601"
        ),
    }
)


@pytest.fixture(scope="module", params=["frame", "parquet", "csv", "sqlite"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> UserRows:
    folder = tmp_path_factory.mktemp("filters")
    match request.param:
        case "frame":
            return UserTable(USERS)
        case "parquet":
            USERS.to_parquet(folder / "u.parquet")
            return UserTable(folder / "u.parquet")
        case "csv":
            USERS.to_csv(folder / "u.csv", index=False)
            return UserTable(folder / "u.csv")
    kinds: Any = {"member": types.Boolean(), "seen": types.DateTime(), "day": types.Date(), "zip": types.Text()}
    engine = write_sql(USERS, f"sqlite:///{folder / 'u.db'}")
    with engine.begin() as connection:
        USERS.to_sql("users", connection, index=False, dtype=kinds, if_exists="replace")
    return SqlTable(engine, "users")


def selected(source: UserRows, *filters: Filter) -> float:
    """The sum of the selected users' amounts, which are powers of two: it names each selected user."""

    cells = replace(source, where=filters).collect(GMV).aggregates.cells
    return sum(value for cell in cells for value in cell.sums.values())


@pytest.mark.parametrize(
    ("condition", "users"),
    [
        (Filter("zip", "=", "00501"), 1 + 4),
        (Filter("zip", "=", 501), 2),
        (Filter("zip", "=", "501.0"), 32),
        (Filter("zip", "!=", "00501"), 2 + 8 + 32),
        (Filter("zip", "!=", ("00501", "501")), 8 + 32),
        (Filter("zip", "in", ("501", "10115")), 2 + 8),
        (Filter("age", ">=", "18"), 1 + 4 + 16),
        (Filter("age", "!=", 18), 2 + 4 + 32),
        (Filter("age", "in", (5, "17.0")), 2 + 32),
        (Filter("age", "<", 17.5), 2 + 32),
        (Filter("price", "in", (1, "1.5")), 1 + 4 + 32),
        (Filter("price", "!=", (1.5, 2.5)), 16 + 32),
        (Filter("member", "=", "true"), 1 + 8 + 32),
        (Filter("member", "!=", True), 2 + 16),
        (Filter("day", ">=", "2026-06-02"), 2 + 8 + 32),
        (Filter("day", "!=", ("2026-06-01", "2026-06-03")), 2 + 32),
        (Filter("seen", ">", "2026-06-01T09:00"), 1 + 2 + 8 + 32),
    ],
    ids=str,
)
def test_every_source_selects_exactly_the_users_that_are_meant(source: UserRows, condition: Filter, users: int) -> None:
    """NULL is in none of them, also not in those with `!=`."""
    assert selected(source, condition) == users


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (Filter("age", "=", "00018"), r"'age' is \w+, and the filter .* compares it with '00018'\. Give a number with"),
        (Filter("age", "=", "DE"), "Give a number"),
        (Filter("age", "=", True), "Give a number"),
        (Filter("zip", "=", 1.1), "compares it with 1.1. Give a text"),
        (Filter("zip", "!=", False), "write it in quotes"),
        (Filter("member", "=", "yes"), "Give true or false"),
        (Filter("day", ">", "yesterday"), "Give a day, such as 2026-06-01"),
        (Filter("seen", ">", "2026-06-01T12:00Z"), "Give a time without a zone"),
    ],
    ids=str,
)
def test_a_value_that_does_not_fit_the_column_is_refused(source: UserRows, condition: Filter, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        selected(source, condition)


def test_a_column_of_another_type_is_compared_as_text_and_has_no_order() -> None:
    ids = [f"00000000-0000-0000-0000-00000000000{i}" for i in range(3)]
    rows = " UNION ALL ".join(
        f"SELECT {i % 2} AS variant, {2**i} AS gmv, UUID '{id_}' AS id" for i, id_ in enumerate(ids)
    )
    data = UserTable(rows)
    assert selected(data, Filter("id", "!=", (ids[0], "no uuid"))) == 2 + 4
    with pytest.raises(ArgumentError, match="'id' is UUID, whose values have no order"):
        selected(data, Filter("id", ">", ids[0]))


def test_an_unknown_column_is_refused_with_a_suggestion(source: UserRows) -> None:

    with pytest.raises(AnalysisError, match=r"no column 'zipp'\. Did you mean 'zip'"):
        selected(source, Filter("zipp", "=", "1"))
    with pytest.raises(AnalysisError, match=r"no column 'aeg'\. Did you mean 'age'"):
        replace(source, segment="aeg").collect(GMV)


@pytest.mark.parametrize("column", ["zip", "age", "member"])
def test_users_without_a_segment_are_a_segment_of_their_own(source: UserRows, column: str) -> None:

    found = replace(source, segment=column).collect(GMV).aggregates
    assert "unknown" in found.segments
    assert sum(found.count(arm, "unknown") for arm in found.arms) == int(USERS[column].isna().sum())
    assert sum(found.count(arm, s) for arm in found.arms for s in found.segments) == len(USERS)
