from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from feature_repo.errors import AlreadyRunningError
from feature_repo.locks import run_lock


def _hold(path: Path, held: Any) -> None:
    with run_lock(path, "counting"):
        held.set()
        signal.pause()


def test_a_second_owner_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    with (
        run_lock(tmp_path / "lock", "counting"),
        pytest.raises(AlreadyRunningError, match=rf"is counting already: pid {os.getpid()} on .+ since 20"),
        run_lock(tmp_path / "lock", "counting"),
    ):
        pass


def test_a_lock_is_free_after_its_owners_end_and_after_an_exception(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), run_lock(tmp_path / "lock", "counting"):
            raise ZeroDivisionError


def test_a_lock_of_an_owner_killed_in_the_middle_holds_nobody_up(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    owner = context.Process(target=_hold, args=(tmp_path / "lock", held))
    owner.start()
    assert held.wait(60)
    with pytest.raises(AlreadyRunningError, match=f"pid {owner.pid} "), run_lock(tmp_path / "lock", "counting"):
        pass
    owner.kill()
    owner.join(60)
    assert str(owner.pid) in (tmp_path / "lock").read_text(), "the dead owner's name is still there"
    with run_lock(tmp_path / "lock", "counting"):
        assert str(os.getpid()) in (tmp_path / "lock").read_text()


@pytest.mark.parametrize("text", ["", "not JSON", "[]", '{"pid": 1}'])
def test_an_owner_that_has_not_written_its_name_yet_has_just_started(tmp_path: Path, text: str) -> None:
    with run_lock(tmp_path / "lock", "counting"):
        (tmp_path / "lock").write_text(text)
        with pytest.raises(AlreadyRunningError, match="it has just started"), run_lock(tmp_path / "lock", "counting"):
            pass
