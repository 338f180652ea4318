"""The order in which the options of a command were written.

Click hands over the values of a repeatable option together. `--mean a --count b --mean c` arrives as two lists, without
the place of `b`. A command of the class `OrderedCommand` also remembers the order.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from typer.core import TyperCommand

_written: ContextVar[tuple[str, ...]] = ContextVar("_written", default=())


class OrderedCommand(TyperCommand):
    """A command that remembers the order of its options, for `written_order`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, and remember their order."""
        given = list(args)
        rest: list[str] = super().parse_args(ctx, args)
        _, _, parameters = self.make_parser(ctx).parse_args(given)
        _written.set(tuple(parameter.name or "" for parameter in parameters))
        return rest


def written_order(counts: dict[str, int]) -> list[tuple[str, int]]:
    """Return the values of repeatable options in the order in which they were written.

    Args:
        counts: Number of values of each option, by the name of its parameter.

    Returns:
        Name of the option and position among its values, once for each value. Without a command line, the values of
        one option follow those of the option before it.
    """
    order: list[tuple[str, int]] = []
    seen = dict.fromkeys(counts, 0)
    for name in _written.get():
        if name in seen:
            order.append((name, seen[name]))
            seen[name] += 1
    if seen != counts:
        return [(name, position) for name, count in counts.items() for position in range(count)]
    return order
