"""Progress for people, on stderr: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_LINE_EVERY_S = 5.0


class Stage:
    """One piece of work under way; call `update` as often as you like."""

    def __init__(self, title: str, live: Progress | None) -> None:
        self.title = title
        self._live = live
        self._task: TaskID | None = live.add_task(title, total=None) if live else None
        self._last = time.monotonic()

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        """Tell how far it is; `note` replaces the title's tail."""
        title = f"{self.title}: {note}" if note else self.title
        if self._live is not None and self._task is not None:
            self._live.update(self._task, completed=done, total=total, description=title)
        elif (now := time.monotonic()) - self._last >= _LINE_EVERY_S:
            self._last = now
            print(f"  {title} {done:,}" + (f" of {total:,}" if total else ""), file=sys.stderr, flush=True)

    def say(self, line: str) -> None:
        """A line that stays."""
        if self._live is not None:
            self._live.console.print(f"  {line}", highlight=False, markup=False)
        else:
            print(f"  {line}", file=sys.stderr, flush=True)


class Stages:
    """Runs named stages one after the other and remembers how long each took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[Stage]:
        """Time the block; its title and duration are printed."""
        started = time.monotonic()
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            with Progress(*columns, console=Console(stderr=True), transient=True) as live:
                yield Stage(title, live)
        else:
            print(f"{title} ...", file=sys.stderr, flush=True)
            yield Stage(title, None)
        self.seconds[name] = round(time.monotonic() - started, 2)
        print(f"✓ {title} ({self.seconds[name]:.1f} s)", file=sys.stderr, flush=True)
