"""A consumer's answers are read over HTTP, and its histograms give quantiles."""

from __future__ import annotations

import math
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagelift.observability.scrape import buckets, counts_by, fetch, parse, quantile, recent_buckets, total

TEXT = """
retries_total{stage="embed",reason="Unavailable"} 2
retries_total{stage="store",reason="Locked"} 0
size_bucket{le="1"} 1
size_bucket{le="+Inf"} 4
"""


@contextmanager
def serving_text(answers: dict[str, tuple[int, str]]) -> Iterator[str]:
    """Serve fixed answers (status and body) by path; yield the base URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers[self.path]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_consumer_that_is_not_ready_is_read_too() -> None:
    with serving_text({"/readyz": (503, '{"ok": false}'), "/metrics": (200, TEXT)}) as url:
        assert fetch(url) == ({"ok": False}, TEXT)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param((200, "[]"), ValueError, id="JSON of another program"),
        pytest.param((200, "<html>"), ValueError, id="a web page"),
        pytest.param((404, "no"), urllib.error.HTTPError, id="another server"),
    ],
)
def test_another_program_is_not_taken_for_a_consumer(answer: tuple[int, str], error: type[Exception]) -> None:
    with serving_text({"/readyz": answer, "/metrics": (200, "")}) as url, pytest.raises(error):
        fetch(url)


def test_totals_counts_and_buckets_are_read_from_samples() -> None:
    samples = parse(TEXT)
    assert total(samples, "retries_total") == 2
    assert total(samples, "absent") == 0
    assert counts_by(samples, "retries_total", "stage", "reason") == {"embed Unavailable": 2}
    assert buckets(samples, "size") == [(1.0, 1.0), (math.inf, 4.0)]


def test_recent_buckets_are_the_growth_and_all_of_it_without_growth() -> None:
    now, old = parse(TEXT), parse(TEXT.replace("} 4", "} 3"))
    assert recent_buckets(now, old, "size") == [(1.0, 0.0), (math.inf, 1.0)]
    assert recent_buckets(now, now, "size") == buckets(now, "size")
    assert recent_buckets(now, None, "size") == buckets(now, "size")


def test_a_quantile_is_interpolated_within_its_bucket() -> None:
    cumulative = [(0.1, 0.0), (0.2, 50.0), (0.4, 100.0), (math.inf, 100.0)]
    assert quantile(cumulative, 0.5) == pytest.approx(0.2)
    assert quantile(cumulative, 0.25) == pytest.approx(0.15)
    assert quantile(cumulative, 0.99) == pytest.approx(0.396)


def test_beyond_the_last_bucket_the_quantile_is_its_lower_bound() -> None:
    assert quantile([(1.0, 1.0), (math.inf, 100.0)], 0.99) == 1.0


def test_an_empty_histogram_has_no_quantile() -> None:
    assert quantile([], 0.5) is quantile([(1.0, 0.0), (math.inf, 0.0)], 0.5) is None


@given(st.lists(st.floats(0.001, 99), min_size=1), st.floats(0.01, 1))
def test_a_quantile_lies_in_the_bucket_of_the_exact_one(values: list[float], q: float) -> None:
    bounds = [0.0, 0.01, 0.1, 1.0, 10.0, 100.0]
    cumulative = [(b, float(sum(v <= b for v in values))) for b in bounds[1:]] + [(math.inf, float(len(values)))]
    exact = sorted(values)[max(0, math.ceil(q * len(values)) - 1)]
    low = max(b for b in bounds if b < exact)
    estimate = quantile(cumulative, q)
    assert estimate is not None
    assert low <= estimate <= min(b for b in bounds if b >= exact) * (1 + 1e-9)
