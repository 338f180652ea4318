"""Fixtures: an empty and a filled experiment database."""

from collections.abc import Callable, Iterable

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import StaticPool

from tests.analysis.builders import SCHEMA, Shop, fill


@pytest.fixture
def shop() -> Iterable[Shop]:
    """An empty experiment database in memory."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    with engine.begin() as connection:
        for statement in SCHEMA.split(";"):
            if statement.strip():
                connection.execute(text(statement))
    yield Shop(engine)
    engine.dispose()


@pytest.fixture
def filled_shop(shop: Shop) -> Shop:
    fill(shop, units=600)
    return shop


@pytest.fixture
def make_shop() -> Callable[..., None]:
    return fill
