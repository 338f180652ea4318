"""OFREP's bulk evaluation of 20 flags, against an empty FastAPI endpoint.

Measures requests per second; the goal is at least half the rate of the empty endpoint. Each server is a process of its
own. One client sends requests one after the other over one connection, so the figure is the cost of a request.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from benchmarks.harness import Row, Say, compared, figure

if TYPE_CHECKING:
    from fastapi import FastAPI

FLAGS = 20
PATH = "/ofrep/v1/evaluate/flags"
_ID, _SECRET = "0" * 12, "A" * 43


def rows(say: Say, *, requests: int = 400, rounds: int = 8) -> list[Row]:
    """Measure `ofrep_bulk_rate`, and the 50th and 99th percentiles of a request."""
    seconds: dict[str, list[list[float]]] = {"empty": [], "ofrep": []}
    with _served("empty") as empty, _served("ofrep") as ofrep:
        for number in range(1 + rounds):
            say(f"round {number} of {rounds}")
            for name, port in (("empty", empty), ("ofrep", ofrep)):
                measured = _requests(port, requests)
                if number:
                    seconds[name].append(measured)
    rates = {name: [requests / sum(each) for each in measured] for name, measured in seconds.items()}
    each = sorted(1000 * second for measured in seconds["ofrep"] for second in measured)
    return [
        compared("ofrep_bulk_rate", "requests/s", rates["ofrep"], "empty endpoint", rates["empty"], at_least=0.5),
        figure("ofrep_bulk_p50", "ms", each[len(each) // 2]),
        figure("ofrep_bulk_p99", "ms", each[len(each) * 99 // 100]),
    ]


def _requests(port: int, count: int) -> list[float]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer sl_{_ID}_{_SECRET}"}
    seconds = []
    for number in range(count):
        body = json.dumps({"context": {"targetingKey": f"user-{number}"}})
        started = time.perf_counter()
        connection.request("POST", PATH, body, headers)
        answer = connection.getresponse()
        answer.read()
        seconds.append(time.perf_counter() - started)
        if answer.status != 200:
            raise RuntimeError(f"{PATH} answered {answer.status}")
    connection.close()
    return seconds


@contextmanager
def _served(name: str) -> Iterator[int]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(name, theirs), daemon=True)
    process.start()
    theirs.close()  # so that a server that dies before it sends its port raises EOFError here
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def _serve(name: str, port: Connection) -> None:
    import uvicorn

    app = _empty() if name == "empty" else _ofrep()
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", access_log=False)
    socket = config.bind_socket()
    port.send(socket.getsockname()[1])
    uvicorn.Server(config).run([socket])


def _empty() -> FastAPI:
    from fastapi import FastAPI

    app = FastAPI()

    @app.post(PATH)
    async def nothing() -> dict[str, str]:
        return {}

    return app


def _ofrep() -> FastAPI:
    from sqlalchemy import create_engine

    from experiments.api_keys import ApiKey, KeyRing
    from experiments.assigner import Assigner
    from experiments.config import Arm, ExperimentConfig, PublishedExperiment
    from experiments.rest.app import create_app
    from experiments.rest.limits import Limits
    from experiments.store import ExperimentStore

    arms = (Arm("control", 5_000), Arm("treatment", 5_000))
    published = [
        PublishedExperiment(
            ExperimentConfig(key=f"e{n}", salt=f"e{n}-1", coverage=10_000, arms=arms, control="control"), 1
        )
        for n in range(FLAGS)
    ]
    assigner = Assigner(lambda: published)
    assigner.refresh()
    key = ApiKey(_ID, "benchmark", "assign", hashlib.sha256(_SECRET.encode()).hexdigest(), 1, "benchmark")
    ring = KeyRing(lambda: [key])
    ring.refresh()
    store = ExperimentStore(create_engine("sqlite://"))
    return create_app(store, assigner, ring, limits=Limits(rate=1e9, burst=1_000_000_000))
