"""What a materialization reports: progress while it runs, and a summary that a scheduler reads."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

import msgspec

from feature_repo.jobs.reconciliation import Reconciliation

RunResult = Literal["done", "differs", "locked", "failed", "dry_run"]
RunMode = Literal["new", "full", "window"]

_EXIT_CODES: Final[dict[RunResult, int]] = {"failed": 3, "locked": 4, "differs": 1}  # the first that applies


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """The progress of the run of one view.

    Attributes:
        view: The name of the view.
        done: Rows that are written, those of a resumed run included.
        total: Rows to write, those of a resumed run included.
        rows_per_s: The rate of this run.
        seconds_left: The estimated rest of this run.
    """

    view: str
    done: int
    total: int
    rows_per_s: float
    seconds_left: float


class ViewSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one view.

    Attributes:
        view: The name of the view.
        outcome: The result.
        message: What went wrong, and what to do.
        parts: Parts that were read.
        history_rows: Rows in those parts and in the window.
        products: Keys in those rows; one row of each is written.
        resumed: Rows that an earlier run had written before it was killed.
        written: Rows that this run wrote.
        kept: Rows that were online before, at the same or a newer version.
        seconds: Duration of writing.
        rows_per_s: The rate of writing.
        reconciliation: The comparison after writing.
    """

    view: str
    outcome: RunResult
    message: str = ""
    parts: int = 0
    history_rows: int = 0
    products: int = 0
    resumed: int = 0
    written: int = 0
    kept: int = 0
    seconds: float = 0.0
    rows_per_s: float = 0.0
    reconciliation: Reconciliation | None = None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The result of all views.

    Attributes:
        started: When the job started.
        finished: When the job finished.
        mode: Which rows were read: of new parts, of all parts, or of a window of event times.
        since: The start of the window.
        until: The inclusive end of the window.
        exit_code: 0 done and equal, 1 differences found, 3 a view failed, 4 another run holds the lock of a view.
        views: The result of each view.
    """

    started: datetime
    finished: datetime
    mode: RunMode
    since: datetime | None
    until: datetime | None
    exit_code: int
    views: list[ViewSummary]


def exit_code(views: list[ViewSummary]) -> int:
    """Return the exit code of a job with these results."""
    results = {view.outcome for view in views}
    return next((code for result, code in _EXIT_CODES.items() if result in results), 0)
