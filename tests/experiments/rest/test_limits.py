"""The rate of a key, and the size of a request, are limited."""

import threading
from typing import Any

import pytest

from experiments.rest.limits import Limits, RateLimiter


def test_a_key_has_a_burst_and_then_its_rate() -> None:
    now = 0.0
    limiter = RateLimiter(rate=2.0, burst=3, monotonic=lambda: now)
    assert [limiter.wait("a") for _ in range(3)] == [0.0] * 3
    assert limiter.wait("a") == pytest.approx(0.5)
    assert limiter.wait("b") == 0.0
    now += 0.5
    assert [limiter.wait("a") > 0 for _ in range(2)] == [False, True]
    now += 1000.0
    assert [limiter.wait("a") > 0 for _ in range(4)] == [False, False, False, True]


def test_threads_share_one_rate() -> None:
    limiter = RateLimiter(rate=0.001, burst=100)
    passed: list[bool] = []
    threads = [
        threading.Thread(target=lambda: passed.extend(limiter.wait("a") == 0 for _ in range(50))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (len(passed), sum(passed)) == (200, 100)


@pytest.mark.parametrize("limited_api", [Limits(rate=0.5, burst=2)], indirect=True)
def test_a_key_above_its_rate_gets_the_time_to_wait(limited_api: Any) -> None:
    answers = [limited_api("GET", "/v1/experiments", "read") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].headers["retry-after"] == "2"
    assert limited_api("GET", "/v1/experiments", "edit").status_code == 200


@pytest.mark.parametrize("limited_api", [Limits(body=100, batch=2)], indirect=True)
def test_a_request_has_a_maximum_size_with_and_without_a_content_length(limited_api: Any) -> None:
    async def chunks() -> Any:
        for _ in range(50):
            yield b'{"unit": '

    for content in (b" " * 101, chunks()):
        answer = limited_api("POST", "/v1/assignments/ranking", "assign", content=content)
        assert answer.status_code == 413
        assert "at most 100 bytes" in answer.json()["rule"]
    lied = limited_api("POST", "/v1/assignments/ranking", "assign", content=b"{}", headers={"Content-Length": "-5"})
    assert lied.status_code == 413
    many = {"unit": "u", "experiments": ["a", "b", "c"]}
    assert limited_api("POST", "/v1/assignments", "assign", json=many).json()["rule"] == "a request has at most 2 items"
