"""Metrics and health over HTTP, for Prometheus and orchestrators."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter

from sagelift.errors import SettingsError
from sagelift.observability.health import Health, HealthState
from sagelift.observability.server import serving

WELL = Health(HealthState.RUNNING, "", alive=True, ready=True)


class Served:
    health = WELL
    url = ""


@pytest.fixture
def served() -> Iterator[Served]:
    registry, consumer = CollectorRegistry(), Served()
    Counter("lamps", "Sold.", registry=registry).inc(3)
    with serving("127.0.0.1", 0, registry, lambda: consumer.health, lambda: {"partitions": [0]}) as url:
        consumer.url = url
        yield consumer


def get(url: str, **headers: str) -> tuple[int, str, str]:
    """Status, content type, body."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=5) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


def test_metrics_come_in_the_requested_format(served: Served) -> None:
    status, kind, body = get(served.url + "/metrics")
    assert (status, kind.split(";")[0]) == (200, "text/plain")
    assert "lamps_total 3.0" in body
    _, kind, body = get(served.url + "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert body.endswith("# EOF\n")


@pytest.mark.parametrize(
    ("health", "healthz", "readyz"),
    [
        (WELL, 200, 200),
        (Health(HealthState.BACKING_OFF, "Triton does not answer", alive=True, ready=False), 200, 503),
        (Health(HealthState.STUCK, "no poll has returned", alive=False, ready=False), 503, 503),
    ],
)
def test_health_and_readiness_say_why(served: Served, health: Health, healthz: int, readyz: int) -> None:
    served.health = health
    for path, expected in (("/healthz", healthz), ("/readyz", readyz)):
        status, kind, body = get(served.url + path)
        assert (status, kind) == (expected, "application/json")
        answer = {"ok": expected == 200, "state": health.state, "reason": health.reason, "partitions": [0]}
        assert json.loads(body) == answer


def test_another_path_names_the_paths(served: Served) -> None:
    assert get(served.url + "/") == (404, "text/plain", "the paths are /metrics, /healthz, /readyz\n")


def test_requests_that_are_no_http_do_no_harm(served: Served) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    for rubbish in (b"\x16\x03\x01\x00", b"GET /metrics\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n"):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(rubbish)
    assert get(served.url + "/healthz")[0] == 200


def test_a_port_in_use_is_a_settings_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(SettingsError, match=rf"metrics\.port: cannot listen on 127\.0\.0\.1:{port} \(.*in use"),
            serving("127.0.0.1", port, CollectorRegistry(), lambda: WELL),
        ):
            pass


def test_the_server_stops_at_the_end_of_the_block() -> None:
    with serving("127.0.0.1", 0, CollectorRegistry(), lambda: WELL) as url:
        assert get(url + "/healthz")[0] == 200
    with pytest.raises(urllib.error.URLError):
        get(url + "/healthz")
