"""The exit code of a job is that of its worst view."""

from __future__ import annotations

import pytest

from feature_repo.jobs.summary import RunResult, ViewSummary, exit_code


@pytest.mark.parametrize(
    ("results", "code"),
    [
        ([], 0),
        (["done", "dry_run"], 0),
        (["done", "differs"], 1),
        (["locked", "differs", "done"], 4),
        (["differs", "locked", "failed"], 3),
    ],
)
def test_a_failure_hides_a_lock_and_a_lock_hides_a_difference(results: list[RunResult], code: int) -> None:
    assert exit_code([ViewSummary(view=f"v{n}", outcome=result) for n, result in enumerate(results)]) == code
