"""Commands that wait for their time: which are due. Pure."""

from collections.abc import Iterable

import msgspec

from experiments.records import Scheduled


class Ran(msgspec.Struct, frozen=True):
    """A scheduled command whose time had come. `error` says why it could not be carried out; None when it was."""

    command: Scheduled
    error: str | None


def due(commands: Iterable[Scheduled], now: int) -> list[Scheduled]:
    """The commands that wait and whose time has come, in the order of their time; of one time, in the order in which
    they were given. `now` is microseconds UTC.
    """
    waiting = (command for command in commands if command.result is None and command.at <= now)
    return sorted(waiting, key=lambda command: (command.at, command.id))
