"""What the stack refuses before it starts anything."""

import errno
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from sagelift.stack.errors import StackError, StartError
from sagelift.stack.stack import LocalStack, StackOptions, WorkerSpec
from sagelift.stack.status import SupervisorLock


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StackError, match=r"state folder .*file/state cannot be used .*Not a directory"):
        LocalStack(tmp_path / "file" / "state", tmp_path).start()


def test_a_disk_that_is_almost_full_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")(10, 10, 7 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StackError, match="has 7 MB free and 200 MB are needed"):
        LocalStack(tmp_path, tmp_path).start()


def test_a_full_disk_is_named_as_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def acquire(_: SupervisorLock) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(SupervisorLock, "acquire", acquire)
    with pytest.raises(StackError, match=r"cannot be used \(writing: No space left on device\)"):
        LocalStack(tmp_path, tmp_path).start()


def test_triton_serves_the_repository_that_releases_go_to(tmp_path: Path) -> None:
    """The configured repository, or `models` in the state folder."""
    assert LocalStack(tmp_path, tmp_path).model_repository == tmp_path / "models"
    options = StackOptions(model_repository=tmp_path / "shared")
    assert LocalStack(tmp_path, tmp_path, options).model_repository == tmp_path / "shared"


def test_before_the_start_there_is_no_address_and_no_worker(tmp_path: Path) -> None:
    stack = LocalStack(tmp_path, tmp_path)
    for ask in (lambda: stack.kafka_bootstrap, lambda: stack.triton_grpc):
        with pytest.raises(StartError, match="has no address before the stack was started"):
            ask()
    with pytest.raises(StartError, match="is not running"):
        stack.add_worker(WorkerSpec("sink", ["true"]))
    stack.stop()
