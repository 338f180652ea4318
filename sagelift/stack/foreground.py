"""`sagelift up`: keeps a stack running in the foreground until a signal ends it."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from sagelift.stack.cache import Say
from sagelift.stack.stack import LocalStack
from sagelift.stack.worker import WorkerSpec


def run(
    stack: LocalStack,
    workers: Callable[[LocalStack], Sequence[WorkerSpec]] = lambda _: (),
    *,
    say: Say = lambda _: None,
) -> int:
    """Run the stack until a signal, then stop everything. Call it from the main thread only.

    Args:
        stack: The stack; not started yet.
        workers: Called when the servers are ready; returns the workers to start, which may use the servers' addresses.
        say: Called with each message for the user.

    Returns:
        The exit code: 130 after Ctrl-C, 0 after SIGTERM or SIGHUP.
    """
    with _signals_raise():
        try:
            with stack:
                for spec in workers(stack):
                    stack.add_worker(spec)
                say("The stack is up. Ctrl-C stops it.")
                threading.Event().wait()  # until a signal
        except _Signalled as signalled:
            return 130 if signalled.number == signal.SIGINT else 0
    raise AssertionError("unreachable")


class _Signalled(BaseException):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Let the first signal end the work of the main thread; later signals do not disturb the clean-up."""

    def on_signal(number: int, _: object) -> NoReturn:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise _Signalled(number)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
