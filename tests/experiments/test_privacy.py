"""Tokens: stable, keyed, not reversible, and gone when erased."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, select

from experiments.errors import ConfigError
from experiments.kernel import unit_bytes
from experiments.privacy import SqlNonces, Tokens
from experiments.tables import unit_token

KEY = bytes(range(32))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'tokens.db'}")
    unit_token.create(engine)
    yield engine
    engine.dispose()


def test_a_token_is_the_same_for_every_service_that_has_the_key_and_the_table(engine: Engine) -> None:
    first, second = (Tokens(KEY, SqlNonces(engine)) for _ in range(2))
    tokens = [first.token(user) for user in ("ann", "bob", "ann", "é")]
    assert tokens == [second.token(user) for user in ("ann", "bob", "ann", "é")]
    assert len(set(tokens)) == 3
    assert all(len(token) == 32 and not isinstance(unit_bytes(token), str) for token in tokens)
    assert Tokens(bytes(32), SqlNonces(engine)).token("ann") not in tokens


def test_the_table_names_no_one_and_the_key_alone_gives_no_token(engine: Engine) -> None:
    tokens = Tokens(KEY, SqlNonces(engine))
    token = tokens.token("ann@example.com")
    with engine.connect() as connection:
        rows = connection.execute(select(unit_token)).all()
    assert len(rows) == 1
    assert "ann" not in repr(rows)
    assert token not in repr(rows)
    assert KEY.hex() not in repr(tokens) + repr(rows)


def test_who_is_erased_has_no_way_back_to_the_token_and_returns_as_someone_else(engine: Engine) -> None:
    tokens = Tokens(KEY, SqlNonces(engine))
    before, other = tokens.token("ann"), tokens.token("bob")
    assert tokens.erase("ann")
    assert not tokens.erase("ann")
    with engine.connect() as connection:
        assert len(connection.execute(select(unit_token)).all()) == 1
    assert tokens.token("ann") != before
    assert tokens.token("bob") == other


def test_another_process_lets_go_of_an_erased_user_when_told(engine: Engine) -> None:
    here, there = (Tokens(KEY, SqlNonces(engine)) for _ in range(2))
    before = there.token("ann")
    here.erase("ann")
    assert there.token("ann") == before, "from its memory"
    there.forget("ann")
    assert there.token("ann") == here.token("ann") != before


def test_memory_is_bounded_and_the_table_is_asked_once_for_each_user(engine: Engine) -> None:
    class Counting(SqlNonces):
        asked = 0

        def get_or_add(self, lookup: str, nonce: str) -> str:
            self.asked += 1
            return super().get_or_add(lookup, nonce)

    nonces = Counting(engine)
    tokens = Tokens(KEY, nonces, cached=10)
    for _ in range(3):
        for i in range(10):
            tokens.token(f"u{i}")
    assert nonces.asked == 10
    for i in range(100):
        tokens.token(f"v{i}")
    assert len(tokens._recent) == 10


def test_many_at_once_get_one_token(engine: Engine) -> None:
    services = [Tokens(KEY, SqlNonces(engine)) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda tokens: tokens.token("ann"), services))
    assert len(found) == 1


def test_a_short_key_and_what_is_no_id_are_refused(engine: Engine) -> None:
    with pytest.raises(ConfigError, match="has 5 bytes; give at least 32"):
        Tokens(b"short", SqlNonces(engine))
    for user in ("", "\ud800", "a\0"):
        with pytest.raises(ConfigError, match="is no unit id"):
            Tokens(KEY, SqlNonces(engine)).token(user)
