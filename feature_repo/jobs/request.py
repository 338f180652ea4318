"""What a caller asks of a materialization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from feature_repo.errors import InvalidFeatureError
from feature_repo.jobs.summary import RunMode
from feature_repo.times import to_microseconds

SHARD_ROWS: Final = 8192


@dataclass(frozen=True)
class Request:
    """What a caller asks of a materialization.

    Attributes:
        views: The full names of the views; none stands for all views.
        since: The first event time; None for no limit.
        until: The last event time, inclusive; None for no limit.
        full: Whether to read the whole history and write rows of an equal version again.
        shard_rows: The number of rows of a shard.
    """

    views: Sequence[str] = ()
    since: datetime | None = None
    until: datetime | None = None
    full: bool = False
    shard_rows: int = SHARD_ROWS

    @property
    def windowed(self) -> bool:
        """Whether a window of event times limits the rows."""
        return self.since is not None or self.until is not None

    @property
    def mode(self) -> RunMode:
        """Which rows are read."""
        if self.full:
            return "full"
        return "window" if self.windowed else "new"

    @property
    def since_us(self) -> int | None:
        """The first event time in microseconds since the Unix epoch."""
        return None if self.since is None else to_microseconds(self.since)

    @property
    def until_us(self) -> int | None:
        """The last event time in microseconds since the Unix epoch."""
        return None if self.until is None else to_microseconds(self.until)

    def check(self, view_names: Sequence[str]) -> None:
        """Check this request against the names of all views.

        Raises:
            InvalidFeatureError: A view is unknown, a time has no zone, the window is empty, or `full` has a window.
        """
        if unknown := [name for name in self.views if name not in view_names]:
            raise InvalidFeatureError(f"Unknown views {unknown}: the views are {', '.join(view_names)}.")
        for name, at in (("since", self.since), ("until", self.until)):
            if at is not None and at.utcoffset() is None:
                raise InvalidFeatureError(f"{name} {at.isoformat()} has no time zone: add one, such as Z for UTC.")
        if self.since and self.until and self.since > self.until:
            raise InvalidFeatureError(
                f"since {self.since.isoformat()} lies after until {self.until.isoformat()}: swap them."
            )
        if self.full and self.windowed:
            raise InvalidFeatureError("full reads the whole history: leave out since and until, or full.")
