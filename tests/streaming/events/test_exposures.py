"""Exposures on their way from the logger to the topic `events`."""

from __future__ import annotations

from concurrent.futures import Future

from experiments.assignment import Assignment, Reason
from experiments.event_rows import EventRow
from experiments.exposures import ExposureLogger
from streaming.contracts import Event
from streaming.errors import BrokerError, ContractError
from streaming.events.conversion import to_row
from streaming.events.exposures import ExposureSender
from tests.waiting import wait_until


class FakePublisher:
    """Answers each event with the next result."""

    def __init__(self, *results: Exception | None) -> None:
        self.events: list[Event] = []
        self._results = list(results)

    def deliver(self, event: Event) -> Future[None]:
        self.events.append(event)
        answer: Future[None] = Future()
        error = self._results.pop(0) if self._results else None
        if isinstance(error, ContractError):
            raise error
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)
        return answer


ROW = EventRow(event_id="e", kind="exposure", unit_id="u", event_time=1, experiment="x", arm="a", config_version=1)


def test_an_exposure_is_sent_as_a_message_of_the_topic() -> None:
    publisher = FakePublisher()
    assert ExposureSender(publisher).send(ROW).result(0) is None
    (event,) = publisher.events
    assert to_row(event) == ROW


def test_a_logger_sends_again_after_a_retryable_error_and_gives_up_after_a_permanent_one() -> None:
    publisher = FakePublisher(BrokerError("not available"), None, ContractError("unit_id", "is too long"))
    logger = ExposureLogger(ExposureSender(publisher).send)
    logger.log(Assignment("x", "u", "a", True, Reason.ASSIGNED, 1))
    wait_until(lambda: logger.stats().sent == 1)
    logger.log(Assignment("x", "v", "a", True, Reason.ASSIGNED, 1))
    assert logger.close() == 0
    assert [event.unit_id for event in publisher.events] == ["u", "u", "v"]
    assert (logger.stats().sent, logger.stats().failed) == (1, 1)
