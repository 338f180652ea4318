from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from itertools import count

import pytest

from feature_repo.jobs.engine import Batch, InProcess, PerProcess, batches, forget_opened

_opened = count()


def open_numbered(name: str) -> str:
    """A resource that counts how often one was opened."""
    return f"{name} {next(_opened)}"


@pytest.fixture(autouse=True)
def no_worker() -> Iterator[None]:
    """The tests' process stands for a worker and keeps no resource."""
    yield
    forget_opened()


def copy(resource: PerProcess[str]) -> PerProcess[str]:
    copied: PerProcess[str] = pickle.loads(pickle.dumps(resource))
    return copied


def test_items_are_cut_into_numbered_batches_as_they_are_needed() -> None:
    numbers = iter(range(7))
    cut = batches(numbers, 3)
    assert next(cut) == Batch(0, [0, 1, 2])
    assert next(numbers) == 3, "nothing was read ahead"
    assert list(cut) == [Batch(1, [4, 5, 6])]
    assert list(batches([], 3)) == []


def test_this_process_works_on_one_task_after_the_other_when_asked() -> None:
    results = InProcess().map(str, iter([1, 2]))
    assert list(results) == ["1", "2"]
    assert InProcess().workers == 0


def test_the_opened_resource_of_this_process_is_used() -> None:
    assert PerProcess(partial(open_numbered, "store"), "opened").get() == "opened"


def test_copies_open_their_resource_once_per_process_and_not_the_one_of_the_first_process() -> None:
    first = PerProcess(partial(open_numbered, "store"), "opened")
    names = {copy(first).get(), copy(first).get(), copy(copy(first)).get()}
    assert len(names) == 1
    assert names.pop().startswith("store ")


def test_resources_with_other_settings_are_opened_apart() -> None:
    one, other = (copy(PerProcess(partial(open_numbered, name))).get() for name in ("one", "other"))
    assert (one.split()[0], other.split()[0]) == ("one", "other")


def test_importing_the_engine_is_light() -> None:
    code = "import sys, feature_repo.jobs.engine; print(*sorted({'feast', 'pyarrow', 'pyspark'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
