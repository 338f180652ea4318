import pytest

from sagelift.stack.worker import WorkerSpec


@pytest.mark.parametrize("name", ["", "a b", "../up", "a/b"])
def test_a_name_that_cannot_name_a_log_file_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="worker name"):
        WorkerSpec(name, ["true"])


def test_a_worker_without_a_command_is_refused() -> None:
    with pytest.raises(ValueError, match="'sink' has no command"):
        WorkerSpec("sink", [])


def test_what_a_worker_is_told_by_its_environment_is_not_shown() -> None:
    """There are passwords among it."""
    assert "hunter2" not in repr(WorkerSpec("catalog", ["true"], {"SAGELIFT_KAFKA__PASSWORD": "hunter2"}))
