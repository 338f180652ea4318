"""Tokens are stable, keyed and irreversible, and an erased user gets another one."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import DatabaseError

from experiments.errors import ConfigError, TransitionError, UserError
from experiments.kernel import unit_bytes
from experiments.notifications import ChangeListener
from experiments.privacy import SqlNonces, Tokens
from experiments.store import ExperimentStore
from experiments.tables import unit_token

KEY = bytes(range(32))
WHO = {"actor": "ada", "reason": "request 4711"}


@pytest.fixture
def engine(store: ExperimentStore) -> Engine:
    return store.engine


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
    assert tokens.erase("ann", **WHO)
    assert not tokens.erase("ann", **WHO)
    with engine.connect() as connection:
        assert len(connection.execute(select(unit_token)).all()) == 1
    assert tokens.token("ann") != before
    assert tokens.token("bob") == other


def test_another_process_returns_the_new_token_once_it_forgets_the_user(engine: Engine) -> None:
    this_process, other_process = (Tokens(KEY, SqlNonces(engine)) for _ in range(2))
    before = other_process.token("ann")
    this_process.erase("ann", **WHO)
    assert other_process.token("ann") == before, "from its memory"
    other_process.forget("ann")
    assert other_process.token("ann") == this_process.token("ann") != before


def test_memory_is_bounded_and_each_user_costs_one_query(engine: Engine) -> None:
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
    for i in range(90, 100):
        tokens.token(f"v{i}")
    assert nonces.asked == 110, "the last 10 are in memory"
    tokens.token("v89")
    assert nonces.asked == 111, "and no others"


def test_many_at_once_get_one_token(engine: Engine) -> None:
    services = [Tokens(KEY, SqlNonces(engine)) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        members = set(pool.map(lambda tokens: tokens.token("ann"), services))
    assert len(members) == 1


def test_a_short_key_and_an_invalid_user_id_are_refused(engine: Engine) -> None:
    with pytest.raises(ConfigError, match="has 5 bytes; give at least 32"):
        Tokens(b"short", SqlNonces(engine))
    for user in ("", "\ud800", "a\0"):
        for act in (Tokens.token, lambda tokens, user: tokens.erase(user, **WHO)):
            with pytest.raises(UserError, match="is not a user id"):
                act(Tokens(KEY, SqlNonces(engine)), user)


def test_the_audit_log_names_the_actor_of_an_erasure_and_not_the_user(store: ExperimentStore) -> None:
    """The request is audited even if nothing was stored about the user."""
    tokens = Tokens(KEY, SqlNonces(store.engine, clock=lambda: 7))
    unit = tokens.token("ann@example.com")
    with store.engine.connect() as connection:
        (row,) = connection.execute(select(unit_token))
    tokens.erase("ann@example.com", **WHO)
    tokens.erase("ann@example.com", **WHO)
    entries = store.audit("unit_token")
    assert [(e.at, e.actor, e.action, e.reason, e.detail["found"]) for e in entries] == [
        (7, "ada", "erase", "request 4711", result) for result in (False, True)
    ]
    for secret in ("ann", unit, row.lookup, row.nonce):
        assert secret not in repr(store.audit())


def test_a_reason_that_contains_the_user_id_is_refused_and_erases_nothing(store: ExperimentStore) -> None:
    tokens = Tokens(KEY, SqlNonces(store.engine))
    before = tokens.token("42"), tokens.token("ann@example.com")
    for user, reason in (("42", "user 42 asked"), ("ann@example.com", "mail of <Ann@Example.com>")):
        with pytest.raises(UserError, match="the reason contains the user id"):
            tokens.erase(user, actor="ada", reason=reason)
    with pytest.raises(TransitionError, match="the actor is empty"):
        tokens.erase("42", actor="", reason="request 1")
    assert store.audit() == []
    tokens.forget()
    assert (tokens.token("42"), tokens.token("ann@example.com")) == before, "nothing was erased"
    assert tokens.erase("42", actor="ada", reason="request 4242"), "another number is no user"


def test_erasure_without_its_audit_entry_does_not_happen(store: ExperimentStore) -> None:
    tokens = Tokens(KEY, SqlNonces(store.engine))
    before = tokens.token("ann")
    with store.engine.begin() as connection:
        connection.execute(
            text("create trigger full_disk before insert on audit begin select raise(abort, 'disk full'); end")
        )
    with pytest.raises(DatabaseError, match="disk full"):
        tokens.erase("ann", **WHO)
    tokens.forget()
    assert tokens.token("ann") == before


def test_what_is_erased_is_no_longer_in_the_file(store: ExperimentStore, tmp_path: Path) -> None:
    """By default, SQLite leaves deleted bytes in the page until they are overwritten."""
    tokens = Tokens(KEY, SqlNonces(store.engine))
    tokens.token("ann")
    with store.engine.connect() as connection:
        nonce = connection.execute(select(unit_token.c.nonce)).scalar_one().encode()

    def bytes_of_all() -> bytes:
        store.engine.dispose()  # the last connection moves the log into the file
        return b"".join(path.read_bytes() for path in tmp_path.glob("experiments.db*"))

    assert nonce in bytes_of_all()
    tokens.erase("ann", **WHO)
    assert nonce not in bytes_of_all()


def test_a_token_that_is_erased_while_it_is_made_does_not_stay_in_memory(engine: Engine) -> None:
    class Slow(SqlNonces):
        then: Callable[[], object] = staticmethod(lambda: None)

        def get_or_add(self, lookup: str, nonce: str) -> str:
            result = super().get_or_add(lookup, nonce)
            self.then()
            return result

    nonces = Slow(engine)
    tokens = Tokens(KEY, nonces)
    nonces.then = lambda: tokens.erase("ann", **WHO)
    before = tokens.token("ann")
    nonces.then = lambda: None
    assert tokens.token("ann") != before


def test_other_processes_let_go_as_soon_as_they_hear_of_a_change(engine: Engine) -> None:
    this_process, other_process = (Tokens(KEY, SqlNonces(engine)) for _ in range(2))
    heard = threading.Semaphore(0)

    def changed() -> None:
        other_process.forget()
        heard.release()

    listener = ChangeListener(engine, changed, poll_s=0.01)
    try:
        assert heard.acquire(timeout=10), "as it begins to listen"
        before = other_process.token("ann")
        this_process.erase("ann", **WHO)
        assert heard.acquire(timeout=10)
        assert other_process.token("ann") == this_process.token("ann") != before
    finally:
        listener.close()
