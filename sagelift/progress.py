"""Progress for people, on stderr: a live bar on a terminal, otherwise a line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINE_EVERY_S = 5.0
"""Seconds between two lines of a stage where there is no terminal."""


class Stage:
    """One piece of work in progress. Callers may call `update` as often as they like.

    Attributes:
        title: What the stage does.
    """

    def __init__(self, title: str, live: Progress | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin the stage.

        Args:
            title: What the stage does.
            live: Progress bars of the terminal; None prints lines.
            clock: Current time in seconds.
        """
        self.title = title
        self._live = live
        self._task: TaskID | None = live.add_task(title, total=None) if live else None
        self._clock = clock
        self._last = clock()

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        """Show the progress of the stage.

        Args:
            done: Number of finished items.
            total: Number of items; None if unknown.
            note: What the stage does now; shown after the title.
        """
        title = f"{self.title}: {note}" if note else self.title
        if self._live is not None and self._task is not None:
            self._live.update(self._task, completed=done, total=total, description=title)
        elif (now := self._clock()) - self._last >= LINE_EVERY_S:
            self._last = now
            print(f"  {title} {done:,}" + (f" of {total:,}" if total else ""), file=sys.stderr, flush=True)

    def say(self, line: str) -> None:
        """Print a line that stays on the terminal."""
        if self._live is not None:
            self._live.console.print(f"  {line}", highlight=False, markup=False)
        else:
            print(f"  {line}", file=sys.stderr, flush=True)


class Stages:
    """Runs named stages one after the other and records how long each took.

    Attributes:
        seconds: Duration of each finished stage, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Record no stage yet.

        Args:
            clock: Current time in seconds.
        """
        self.seconds: dict[str, float] = {}
        self._clock = clock

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[Stage]:
        """Time the block, and print its title and duration.

        Args:
            name: Key of the stage in `seconds`.
            title: What the stage does, for the user.
        """
        started = self._clock()
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            with Progress(*columns, console=Console(stderr=True), transient=True) as live:
                yield Stage(title, live, self._clock)
        else:
            print(f"{title} ...", file=sys.stderr, flush=True)
            yield Stage(title, None, self._clock)
        self.seconds[name] = round(self._clock() - started, 2)
        print(f"✓ {title} ({self.seconds[name]:.1f} s)", file=sys.stderr, flush=True)
