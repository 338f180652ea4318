"""API keys are shown once, stored as a hash, and invalid once revoked."""

import hashlib

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from experiments.api_keys import ApiKeys, KeyRing
from experiments.engine import writing
from experiments.errors import ConfigError, TransitionError, UnknownKeyError
from experiments.roles import RIGHTS
from experiments.store import ExperimentStore


@pytest.fixture
def keys(store: ExperimentStore) -> ApiKeys:
    return ApiKeys(store.engine, clock=lambda: 1_700_000_000_000_000)


def ring(keys: ApiKeys) -> KeyRing:
    made = KeyRing(keys.all)
    made.refresh()
    return made


def test_a_key_is_found_by_its_text_and_the_database_has_only_its_hash(store: ExperimentStore, keys: ApiKeys) -> None:
    made = {role: keys.create(f"key of {role}", role, actor="ada") for role in RIGHTS}
    key_ring = ring(keys)
    for role, (key, shown) in made.items():
        assert key_ring.find(shown) == key
        assert (key.role, key.created_by) == (role, "ada")
        secret = shown.split("_", 2)[2]
        assert key.sha256 == hashlib.sha256(secret.encode()).hexdigest()
        with store.engine.connect() as connection:
            for table in ("api_key", "audit"):
                assert secret not in repr(connection.execute(text(f"select * from {table}")).all())
    assert len({shown for _, shown in made.values()}) == len(RIGHTS)


def test_only_the_whole_text_will_do(keys: ApiKeys) -> None:
    (key, shown), (other, _) = keys.create("a", "read", actor="ada"), keys.create("b", "admin", actor="ada")
    key_ring = ring(keys)
    prefix, id, secret = shown.split("_", 2)
    flipped = secret[:-2] + ("AA" if secret[-2:] != "AA" else "BB")
    for wrong in ("", shown[:-1], shown + "A", f"{prefix}_{other.id}_{secret}", f"{prefix}_{id}_{flipped}", key.sha256):
        assert key_ring.find(wrong) is None
    assert key_ring.find(shown) == key


def test_an_unknown_id_takes_the_same_comparison_as_a_wrong_secret(keys: ApiKeys) -> None:
    _, shown = keys.create("a", "read", actor="ada")
    compared: list[tuple[str, str]] = []

    def recorded(a: str, b: str) -> bool:
        compared.append((a, b))
        return a == b

    keys_in_memory = KeyRing(keys.all, compare=recorded)
    keys_in_memory.refresh()
    for given in (shown, "sl_000000000000_" + "A" * 43, "nonsense"):
        keys_in_memory.find(given)
    assert [(len(a), len(b)) for a, b in compared] == [(64, 64)] * 3


def test_a_revoked_key_is_refused_from_the_next_refresh_on_and_stays_in_the_list(
    store: ExperimentStore, keys: ApiKeys
) -> None:
    key, shown = keys.create("a", "read", actor="ada", reason="new service")
    key_ring = ring(keys)
    keys.revoke(key.id, actor="bob", reason="lost")
    assert key_ring.find(shown) is not None
    key_ring.refresh()
    assert key_ring.find(shown) is None
    assert [each.revoked_at for each in keys.all()] == [1_700_000_000_000_000]
    with pytest.raises(UnknownKeyError, match="no API key"):
        keys.revoke(key.id, actor="bob")
    log = [(entry.action, entry.actor, entry.reason) for entry in store.audit(key.id)]
    assert log == [("key_revoke", "bob", "lost"), ("key_create", "ada", "new service")]
    for statement in ("delete from api_key_revocation", "update api_key set role = 'admin'"):
        with pytest.raises(IntegrityError, match="append-only"), writing(store.engine) as connection:
            connection.execute(text(statement))


def test_an_unreachable_database_leaves_the_loaded_keys_valid(keys: ApiKeys) -> None:
    _, shown = keys.create("a", "read", actor="ada")
    away = False

    def load() -> list[object]:
        if away:
            raise OSError("away")
        return list(keys.all())

    result = KeyRing(load)  # type: ignore[arg-type]
    result.refresh()
    away = True
    with pytest.raises(OSError, match="away"):
        result.refresh()
    assert result.find(shown) is not None


@pytest.mark.parametrize(("name", "role"), [("", "read"), ("a" * 65, "read"), ("a\n", "read"), ("a", "root")])
def test_a_bad_name_or_role_makes_no_key(keys: ApiKeys, name: str, role: str) -> None:
    with pytest.raises(ConfigError, match=r"key name|is not one of read"):
        keys.create(name, role, actor="ada")  # type: ignore[arg-type]
    with pytest.raises(TransitionError, match="actor is empty"):
        keys.create("a", "read", actor="")
    assert keys.all() == []
