"""The health checks need no key."""

from typing import Any


def test_health_needs_no_key_and_ready_waits_for_the_first_configs(api: Any) -> None:
    assert api("GET", "/health").json() == {"status": "ok"}
    ready = api("GET", "/ready")
    assert (ready.status_code, ready.json()["ready"], ready.json()["stale"]) == (200, True, False)
