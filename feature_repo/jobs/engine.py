"""Where the shards of a job are worked on: in this process, or in those of a cluster (`feature_repo.jobs.spark`).

    store = PerProcess(partial(open_store, settings), opened_store)
    for result in engine.map(partial(work, store), batches(ids, 1024)):
        ...

A job is a function of one shard that can be pickled. What it needs and cannot be pickled, such as a store or a client,
goes through `PerProcess`. Importing this module is light.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar, cast

if TYPE_CHECKING:
    from feast import RepoConfig

_Item = TypeVar("_Item")
_Resource = TypeVar("_Resource")
_Result = TypeVar("_Result")
_Task = TypeVar("_Task")


class Engine(Protocol):
    """Where shards are worked on."""

    @property
    def workers(self) -> int:
        """How many other processes work on shards; 0: this process does."""

    def check_store(self, config: RepoConfig) -> None:
        """Check that the workers can reach the online store of Feast's configuration at all.

        Raises:
            StoreStateError: They cannot.
        """

    def map(self, work: Callable[[_Task], _Result], tasks: Iterable[_Task]) -> Iterator[_Result]:
        """Yield the results of `work`, in any order, each as soon as it is ready.

        Args:
            work: A function that can be pickled.
            tasks: Tasks that can be pickled; they are taken as workers need them.
        """


class InProcess:
    """The engine that works on one shard after the other in this process."""

    workers = 0

    def check_store(self, config: RepoConfig) -> None:
        """Accept every store: this process has opened it."""

    def map(self, work: Callable[[_Task], _Result], tasks: Iterable[_Task]) -> Iterator[_Result]:
        """Yield the results of `work` in the order of the tasks."""
        return map(work, tasks)


class PerProcess(Generic[_Resource]):
    """A resource that each process opens once. A pickled copy opens the resource again in its process.

    Args:
        open: Opens the resource; it can be pickled.
        opened: The resource of this process, if it is open already.
    """

    def __init__(self, open: Callable[[], _Resource], opened: _Resource | None = None) -> None:
        self._open = open
        self._opened = opened

    def __reduce__(self) -> tuple[type[PerProcess[_Resource]], tuple[Callable[[], _Resource]]]:
        """Leave the opened resource out of the pickled copy."""
        return PerProcess, (self._open,)

    def get(self) -> _Resource:
        """Return the resource of this process."""
        if self._opened is None:
            self._opened = cast(_Resource, _opened_once(pickle.dumps(self._open)))
        return self._opened


def forget_opened() -> None:
    """Forget the resources that this process has opened through pickled copies."""
    _opened_once.cache_clear()


@lru_cache(maxsize=8)
def _opened_once(pickled_open: bytes) -> object:
    return pickle.loads(pickled_open)()


class Batch(NamedTuple, Generic[_Item]):
    """A numbered list of items: the shard of a job over items that are not read from the history."""

    number: int
    items: list[_Item]


def batches(items: Iterable[_Item], size: int) -> Iterator[Batch[_Item]]:
    """Yield the items in numbered batches of up to `size`."""
    iterator = iter(items)
    number = 0
    while batch := list(islice(iterator, size)):
        yield Batch(number, batch)
        number += 1
